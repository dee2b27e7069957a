#!/usr/bin/env bash
# Joins the shards of a sampling run, traj.0.jsonl to traj.N-1.jsonl, and propagates their rewards.
#
#   recipes/merge.sh runs/first 8 [options of propagate, as in --alpha 0.75 --keep 1]
#
# Every shard must be present and finished: a missing one would silently bias the selection.
set -euo pipefail
run=$1 shards=$2
shift 2
files=()
# A step with a truncated input finishes normally, so the files that it was made from must be finished as well.
is_finished() { python3 -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["finished"] is not True)' "$1.manifest.json"; }
for ((shard = 0; shard < shards; shard++)); do
    for file in "$run"/{caps,raw,traj}."$shard".jsonl; do
        [ -e "$file" ] || [ "$file" = "$run/traj.$shard.jsonl" ] || continue
        is_finished "$file" 2> /dev/null || { echo "$file: is not finished; run its shard again" >&2; exit 1; }
    done
    files+=("$run/traj.$shard.jsonl")
done
sophia propagate "${files[@]}" "$@" --selected --force -o "$run/kept.jsonl"
