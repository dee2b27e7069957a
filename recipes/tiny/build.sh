#!/usr/bin/env bash
# Both embedded models from nothing, on 2 cores, seeds fixed: about 45 minutes. One thread a process is the fastest.
# The eyes and the reasoner are trained side by side, then the policy; the last step measures them on the validation split.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
work=${1:-runs/tiny}
models=sophia_cli/world/models
mkdir -p "$work"

python -m recipes.tiny.vision "$work/eyes" &
python -m recipes.tiny.train_reasoner "$work/reasoner"
wait $!
python -m recipes.tiny.train_policy "$work/eyes" "$work/reasoner/phase-0" "$work/policy"
python -m recipes.tiny.pack reasoner "$work/reasoner" "$models/tiny-reasoner"
python -m recipes.tiny.pack policy "$work/policy" "$models/tiny-vlm"
python -m recipes.tiny.measure "$work/measured"
