#!/usr/bin/env bash
# Builds both embedded models from scratch with fixed seeds: about 45 minutes on 2 cores.
#
#   recipes/tiny/build.sh [WORK] [MODELS] [options of every training script, as in --steps 2 for a trial]
#
# WORK holds what is trained on the way, MODELS the finished folders. The vision tower and the reasoner train in parallel,
# then the policy. The last script measures the embedded models on the validation split.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1  # one thread per process is the fastest on 2 cores
work=${1:-runs/tiny} models=${2:-sophia_cli/world/models}
shift $(($# < 2 ? $# : 2))
mkdir -p "$work"

python -m recipes.tiny.vision "$work/eyes" "$@" &
python -m recipes.tiny.train_reasoner "$work/reasoner" "$@"
wait $!
python -m recipes.tiny.train_policy "$work/eyes" "$work/reasoner/phase-0" "$work/policy" "$@"
python -m recipes.tiny.pack reasoner "$work/reasoner" "$models/tiny-reasoner"
python -m recipes.tiny.pack policy "$work/policy" "$models/tiny-vlm"
if [ $# = 0 ]; then  # a trial's models are not worth an hour of measuring
    python -m recipes.tiny.measure "$work/measured"
fi
