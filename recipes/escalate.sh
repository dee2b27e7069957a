#!/usr/bin/env bash
# Easy questions to one reasoner, what it could not solve to a stronger one, as the paper did (QwQ, then DeepSeek-R1).
#
#   recipes/escalate.sh caps.jsonl qwq deepseek-r1 runs/first [options of both `reason`s, as in --gpus 0-7]
#
# `propagate --unsolved` hands out the captions of the items in which nothing qualified; the tag tells the second reasoner's
# trajectories apart, and both files are propagated together: each caption's reward is a mean per reasoner.
set -euo pipefail
captions=$1 easy=$2 hard=$3 run=$4
shift 4
mkdir -p "$run"
# 3 says that some records carry an error: they are tried again when this is typed again, and are no reason to stop.
think() { sophia reason "$@" || [ $? -eq 3 ]; }
judge() { sophia grade "$@" || [ $? -eq 3 ]; }
think "$captions" --llm "$easy" "$@" --tee "$run/raw.easy.jsonl" | judge -o "$run/traj.easy.jsonl"
sophia propagate "$run/traj.easy.jsonl" --unsolved --force -o "$run/caps.hard.jsonl"
think "$run/caps.hard.jsonl" --llm "$hard" --tag hard "$@" --tee "$run/raw.hard.jsonl" | judge -o "$run/traj.hard.jsonl"
sophia propagate "$run/traj.easy.jsonl" "$run/traj.hard.jsonl" --selected --force -o "$run/kept.jsonl"
