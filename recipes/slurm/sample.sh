#!/usr/bin/env bash
# SOPHIA's sampling on a Slurm cluster: vLLM servers on every node, and one client per shard, which uses all of them.
#
#   sbatch --nodes 4 recipes/slurm/sample.sh imgs/ internvl3-8b qwq runs/first
#
# First the captions with the policy, then trajectories with the reasoner, graded as they are finished, then the merge.
# Killed, requeued or out of time? Submit it again with the same arguments: every shard resumes. K, N, SHARDS (default: one
# per node; a run with another number starts over), TENSOR_PARALLEL and SERVER_OPTIONS come from the environment.
#SBATCH --job-name=sophia
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

images=$1 policy=$2 reasoner=$3 run=$4
nodes=$SLURM_JOB_NUM_NODES
export SHARDS=${SHARDS:-$nodes} run images
mkdir -p "$run"
fleet=

# Starts the servers of a model on all nodes, and waits until every node has written the addresses of its servers.
start_fleet() {
    rm -rf "$run/fleet" && mkdir "$run/fleet"
    srun --overlap --kill-on-bad-exit=1 --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --output="$run/fleet/%t.jsonl" --error="$run/fleet/%t.log" \
        sophia serve "$1" --host 0.0.0.0 --tensor-parallel "${TENSOR_PARALLEL:-1}" --server-options "${SERVER_OPTIONS:-}" &
    fleet=$! began=$SECONDS
    until [ "$(find "$run/fleet" -name '*.jsonl' -size +0 | wc -l)" -eq "$nodes" ]; do
        if ! kill -0 "$fleet" 2> /dev/null || ((SECONDS - began > ${START_TIMEOUT:-3600})); then
            tail -n 5 "$run"/fleet/*.log >&2
            exit 1
        fi
        sleep 1
    done
    sed -n 's/.*"base_url":"\([^"]*\)".*/--base-url \1/p' "$run"/fleet/*.jsonl > "$run/fleet/urls"
}

stop_fleet() {
    [ -z "$fleet" ] || kill "$fleet" 2> /dev/null || true
    [ -z "$fleet" ] || wait "$fleet" || true
    fleet=
}
trap stop_fleet EXIT

# Runs commands once per shard, spread over the nodes; $shard is its number. `ok` accepts exit code 3: some records have an
# error then and are retried when the job is submitted again. Any other failure stops the job.
# shellcheck disable=SC2016  # the shell of each shard expands the variables, here and below
for_each_shard() {
    srun --overlap --ntasks="$SHARDS" --ntasks-per-node=$(((SHARDS + nodes - 1) / nodes)) --distribution=cyclic \
        bash -c 'set -euo pipefail; shard=$SLURM_PROCID; mapfile -t urls < "$run/fleet/urls"
            ok() { "$@" || [ $? -eq 3 ]; }; '"$1"
}

export policy reasoner K=${K:-8} N=${N:-8}
start_fleet "$policy"
# shellcheck disable=SC2016
for_each_shard 'ok sophia caption "$images" -m "$policy" -k "$K" --shard "$shard/$SHARDS" ${urls[*]} -o "$run/caps.$shard.jsonl"'
stop_fleet

start_fleet "$reasoner"
# shellcheck disable=SC2016
for_each_shard 'ok sophia reason "$run/caps.$shard.jsonl" --llm "$reasoner" -n "$N" --stop-early ${urls[*]} \
    --tee "$run/raw.$shard.jsonl" | ok sophia grade -o "$run/traj.$shard.jsonl"'
stop_fleet

"${SLURM_SUBMIT_DIR:-.}/recipes/merge.sh" "$run" "$SHARDS"
