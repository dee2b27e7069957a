#!/usr/bin/env bash
# Joins the shards of a sampling run, traj.0.jsonl to traj.N-1.jsonl, and propagates their rewards.
#
#   recipes/merge.sh runs/first 8 [options of propagate, as in --alpha 0.75 --keep 1]
#
# Every shard must be there and have ended well: a missing one would bias what is kept, and nobody would see it.
set -euo pipefail
run=$1 shards=$2
shift 2
files=()
for ((shard = 0; shard < shards; shard++)); do
    file=$run/traj.$shard.jsonl
    grep -q '"finished": *true' "$file.manifest.json" || { echo "$file: is not finished; run its shard again" >&2; exit 1; }
    files+=("$file")
done
sophia propagate "${files[@]}" "$@" --selected --force -o "$run/kept.jsonl"
