#!/usr/bin/env bash
# Each pod of the Job in sample.yaml runs this: one shard of a step, with all servers behind a headless Service.
#
#   client.sh SERVICE SHARDS STEP…     as in: client.sh reasoner 8 reason /data/caps.SHARD.jsonl --llm qwq
#
# SHARD in the arguments becomes the pod's number (JOB_COMPLETION_INDEX). The Job restarts a pod that
# is killed, and its shard resumes; exit code 3 (some records have an error) counts as done.
set -euo pipefail
service=$1 shards=$2
shift 2
shard=$JOB_COMPLETION_INDEX
urls=()
while read -r address; do
    urls+=(--base-url "http://$address:${PORT:-8000}/v1")
done < <(getent ahostsv4 "$service" | cut -d' ' -f1 | sort -u)
[ ${#urls[@]} -gt 0 ] || { echo "$service: no server has an address yet" >&2; exit 1; }
arguments=("${@//SHARDS/$shards}")
sophia "${arguments[@]//SHARD/$shard}" "${urls[@]}" || [ $? -eq 3 ]
