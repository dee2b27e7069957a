#!/usr/bin/env bash
# SOPHIA from nothing to a model that thinks, on a laptop: only commands that you would type yourself.
# Ends non-zero if the trained model is not better than the one it began with.
set -euo pipefail
cd "${1:-.}"
rm -rf quickstart && mkdir quickstart && cd quickstart

# 1. Two data sets of the embedded world. Their seeds differ modulo 7, so they share no scene.
sophia world imgs -n 320 --seed 7
sophia world imgs-test -n 500 --seed 8

# 2. The model describes each image 4 times; a text-only reasoner thinks 4 times over each description, as if it saw the
#    image; the answers are graded; the rewards flow back to the descriptions, and the best trajectory of each image stays.
sophia caption imgs -k 4 --tee caps.jsonl | sophia reason --llm tiny-reasoner -n 4 | sophia grade > traj.jsonl
sophia propagate traj.jsonl --alpha 0.75 --keep 1 --selected > kept.jsonl

# 3. The model learns from what was kept; some of its own descriptions are mixed in, so that it does not forget to describe.
sophia train kept.jsonl --mix caps.jsonl:0.5 -o runs/out > metrics.jsonl

# 4. Before and after, on images that neither model ever saw.
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
