#!/usr/bin/env bash
# Easy questions to one reasoner, what it could not solve to a stronger one, as the paper did (QwQ, then DeepSeek-R1).
#
#   recipes/escalate.sh caps.jsonl qwq deepseek-r1 runs/first [options of both `reason`s, as in --gpus 0-7]
#
# `propagate --unsolved` writes the captions of the items in which no caption qualified. The tag distinguishes the second
# reasoner's trajectories. Both files are propagated together: each caption's reward is a mean per reasoner.
set -euo pipefail
captions=$1 easy=$2 hard=$3 run=$4
shift 4
mkdir -p "$run"
# Exit code 3 means that some records have an error. Running the recipe again retries them; it does not stop here.
think() { sophia reason "$@" || [ $? -eq 3 ]; }
judge() { sophia grade "$@" || [ $? -eq 3 ]; }
think "$captions" --llm "$easy" "$@" --tee "$run/raw.easy.jsonl" | judge -o "$run/traj.easy.jsonl"
sophia propagate "$run/traj.easy.jsonl" --unsolved --force -o "$run/caps.hard.jsonl"
think "$run/caps.hard.jsonl" --llm "$hard" --tag hard "$@" --tee "$run/raw.hard.jsonl" | judge -o "$run/traj.hard.jsonl"
sophia propagate "$run/traj.easy.jsonl" "$run/traj.hard.jsonl" --selected --force -o "$run/kept.jsonl"
