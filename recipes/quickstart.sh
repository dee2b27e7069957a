#!/usr/bin/env bash
# The whole of SOPHIA on a laptop, in commands that you would type yourself: from images to a model that thinks.
# The exit code is not 0 if the trained model is not better than the base model.
set -euo pipefail
cd "${1:-.}"
rm -rf quickstart && mkdir quickstart && cd quickstart

# 1. Two data sets of the embedded world. Their seeds differ modulo 7, so they share no scene.
sophia world imgs -n 560 --seed 7
sophia world imgs-test -n 500 --seed 8

# 2. The model describes each image twice; a text-only reasoner thinks twice over each description, as if it saw the image;
#    the answers are graded. Reasoning takes longest, so two processes share it, one shard each.
sophia caption imgs -k 2 -o caps.jsonl
sophia reason caps.jsonl --llm tiny-reasoner -n 2 --shard 0/2 | sophia grade -o traj.0.jsonl &
sophia reason caps.jsonl --llm tiny-reasoner -n 2 --shard 1/2 | sophia grade -o traj.1.jsonl
wait $!

# 3. The rewards flow back to the descriptions, and the shortest right trajectory of each image is selected.
sophia propagate traj.0.jsonl traj.1.jsonl --alpha 0.75 --keep 1 --selected > kept.jsonl

# 4. The model trains on the selected trajectories. So that it does not forget to describe, the captions of the selected
#    trajectories are mixed in, and half of all captions.
sophia train kept.jsonl --mix kept.jsonl --mix caps.jsonl:0.5 -o runs/out > metrics.jsonl

# 5. Evaluate before and after, on images that neither model has seen.
sophia eval --model tiny-vlm --data imgs-test --summary before.json > before.jsonl
sophia eval --model runs/out --data imgs-test --summary after.json > after.jsonl

python3 - <<'PYTHON'
import json
before, after = (json.load(open(name)) for name in ("before.json", "after.json"))
for name, figures in (("before", before), ("after", after)):
    low, high = figures["ci95"]
    print(f"{name:>6}: {figures['accuracy']:6.1%} right ({low:.1%} to {high:.1%}), thinks in {figures['thinking']:.1%} of its answers")
raise SystemExit(after["accuracy"] <= before["accuracy"])
PYTHON
