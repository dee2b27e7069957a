#!/usr/bin/env bash
# GRPO after SOPHIA, the paper's best row: select the questions that the trained model gets right in 40 to 60% of 16
# tries, then run GRPO on them with the verifier's reward.
#
#   recipes/grpo.sh MODEL SOURCE RUN [options of train, as in --gpus 0-7]
#
# SOURCE holds questions in any form that `sophia caption` reads. The model is saved to RUN/grpo.
set -euo pipefail
model=$1 source=$2 run=$3
shift 3
mkdir -p "$run"
sophia eval -m "$model" --data "$source" -n "${TRIES:-16}" -o "$run/tries.jsonl" || [ $? = 3 ]  # 3: some answers failed; they do not count
# A group of rollouts that are all right or all wrong teaches nothing, so select questions in between.
python3 - "$run" "${FROM:-0.4}" "${TO:-0.6}" <<'PYTHON'
import json, sys
run, least, most = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
rewards, items = {}, {}
for line in open(f"{run}/tries.jsonl", encoding="utf-8"):
    record = json.loads(line)
    if record.get("reward") is not None:
        rewards.setdefault(record["id"], []).append(record["reward"])
        items.setdefault(record["id"], line)
rates = {name: sum(found) / len(found) for name, found in rewards.items()}
kept = [name for name in items if least <= rates[name] <= most]
with open(f"{run}/questions.jsonl", "w", encoding="utf-8") as file:
    file.writelines(items[name] for name in kept)
print(f"{len(kept)} of {len(rates)} questions have a pass rate from {least} to {most}", file=sys.stderr)
PYTHON
sophia train "$run/questions.jsonl" -m "$model" --objective grpo -o "$run/grpo" "$@"
