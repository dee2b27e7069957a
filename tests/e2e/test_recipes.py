"""Runs the recipes unchanged, with fakes for the commands of Slurm and Kubernetes and for vLLM."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.chat_server import ChatServer
from helpers.commands import ENVIRONMENT, records_of, sophia, write_lines
from helpers.records import captions
from helpers.vllm_stand_in import alive, stand_in, started, wait_for

ROOT = Path(__file__).parent.parent.parent
RECIPES = ROOT / "recipes"
SCRIPTS = sorted(RECIPES.rglob("*.sh"))
SRUN = """
tasks=1 output=
while [ $# -gt 0 ]; do
    case $1 in
        --ntasks=*) tasks=${1#*=} ;;
        --output=*) output=${1#*=} ;;
        --*) ;;
        *) break ;;
    esac
    shift
done
trap 'kill $(jobs -p) 2> /dev/null; wait' TERM
codes=0
for ((task = 0; task < tasks; task++)); do
    export SLURM_PROCID=$task SLURM_NTASKS=$tasks
    if [ -n "$output" ]; then "$@" > "${output//%t/$task}" & else "$@" & fi
done
for job in $(jobs -p); do wait "$job" || { code=$?; [ "$code" -le "$codes" ] || codes=$code; }; done
exit "$codes"
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(RECIPES)))
def test_scripts_pass_shellcheck(script: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([str(shellcheck), str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def run(
    vllm_dir: Path, *command: str, code: int | None = 0, first: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a recipe as a user types it, with `sophia` on PATH. `first` is a command that runs before it."""
    stand_in(vllm_dir, "sophia", f'{first}\nexec {sys.executable} -m sophia_cli "$@"')
    everything = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=vllm_dir, env=everything, capture_output=True, text=True, timeout=300)
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


@pytest.mark.slow
def test_the_slurm_job_samples_merges_and_goes_on(vllm_dir: Path) -> None:
    sophia("world", "imgs", "-n", "6", "--seed", "9", cwd=vllm_dir)
    (vllm_dir / "bin" / "srun").write_text(f"#!/usr/bin/env bash\n{SRUN}")
    (vllm_dir / "bin" / "srun").chmod(0o755)
    job = [str(RECIPES / "slurm" / "sample.sh"), "imgs", "tiny-vlm", "tiny-reasoner", "run"]
    slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_SUBMIT_DIR": str(ROOT), "SHARDS": "3", "K": "2", "N": "4"}
    run(vllm_dir, *job, **slurm)
    assert not alive(vllm_dir) and len(started(vllm_dir)) == 4, "two nodes, two models"
    shards = [records_of(vllm_dir / "run" / f"traj.{shard}.jsonl") for shard in range(3)]
    assert {row["caption_id"] for rows in shards for row in rows} == {
        row["caption_id"] for shard in range(3) for row in records_of(vllm_dir / "run" / f"caps.{shard}.jsonl")
    }
    assert [len({row["id"] for row in rows}) for rows in shards] == [2, 2, 2] and (vllm_dir / "run" / "kept.jsonl").exists()
    whole = (vllm_dir / "run" / "traj.1.jsonl").read_bytes()
    for name in ("raw", "traj"):
        file = vllm_dir / "run" / f"{name}.1.jsonl"
        file.write_bytes(file.read_bytes()[:-40])
    run(vllm_dir, *job, **slurm)
    assert sorted((vllm_dir / "run" / "traj.1.jsonl").read_bytes().splitlines()) == sorted(whole.splitlines())


def dying_server(vllm_dir: Path, well: int) -> ChatServer:
    return ChatServer(itertools.chain(["well"] * well, itertools.repeat("starting")))


def test_a_fleet_that_dies_is_no_success(vllm_dir: Path) -> None:
    write_lines(vllm_dir / "caps.jsonl", captions(400))
    with dying_server(vllm_dir, 100) as server:
        options = ("-n", "2", "--retries", "1", "--base-url", server.url, "--concurrency", "4")
        run(vllm_dir, str(RECIPES / "escalate.sh"), "caps.jsonl", "m", "m", "run", *options, code=1)
    assert not (vllm_dir / "run" / "kept.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["caption", "reason", "grade"])
def test_a_shard_that_fails_ends_the_slurm_job(failing: str, vllm_dir: Path) -> None:
    """Other shards may end with 3 (some records carry an error); the job must still see the 1."""
    sophia("world", "imgs", "-n", "4", "--seed", "9", cwd=vllm_dir)
    (vllm_dir / "bin" / "srun").write_text(f"#!/usr/bin/env bash\n{SRUN}")
    (vllm_dir / "bin" / "srun").chmod(0o755)
    fails = (
        f'if [ "$1" = {failing} ]; then [ "$SLURM_PROCID" = 1 ] && exit 1; {sys.executable} -m sophia_cli "$@"; exit 3; fi'
    )
    job = [str(RECIPES / "slurm" / "sample.sh"), "imgs", "tiny-vlm", "tiny-reasoner", "run"]
    slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_SUBMIT_DIR": str(ROOT), "K": "1", "N": "2"}
    done = run(vllm_dir, *job, code=None, first=fails, **slurm)
    assert done.returncode not in (0, 3) and not (vllm_dir / "run" / "kept.jsonl").exists() and not alive(vllm_dir)


@pytest.mark.slow
def test_a_node_whose_servers_do_not_start_ends_the_slurm_job(vllm_dir: Path) -> None:
    sophia("world", "imgs", "-n", "2", "--seed", "9", cwd=vllm_dir)
    (vllm_dir / "bin" / "srun").write_text(f"#!/usr/bin/env bash\n{SRUN}")
    (vllm_dir / "bin" / "srun").chmod(0o755)
    fails = '[ "$1 $SLURM_PROCID" != "serve 1" ] || { echo "no GPU here" >&2; exit 1; }'
    job = [str(RECIPES / "slurm" / "sample.sh"), "imgs", "tiny-vlm", "tiny-reasoner", "run"]
    slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_SUBMIT_DIR": str(ROOT), "START_TIMEOUT": "15"}
    run(vllm_dir, *job, code=1, first=fails, **slurm)
    wait_for(lambda: not alive(vllm_dir))


def test_a_merge_refuses_a_shard_whose_reasoning_was_killed(vllm_dir: Path) -> None:
    with ChatServer() as server:
        sophia("reason", "caps.jsonl", "-n", "2", "--llm", "m", "--base-url", server.url, "-o", "raw.0.jsonl", cwd=vllm_dir)
    sophia("grade", "raw.0.jsonl", "-o", "traj.0.jsonl", cwd=vllm_dir)
    manifest = vllm_dir / "raw.0.jsonl.manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished": true', '"finished": false'))
    assert "raw.0.jsonl: is not finished" in run(vllm_dir, str(RECIPES / "merge.sh"), ".", "1", code=1).stderr


def test_a_slurm_job_whose_servers_do_not_start_ends_with_their_words(vllm_dir: Path) -> None:
    sophia("world", "imgs", "-n", "2", "--seed", "9", cwd=vllm_dir)
    (vllm_dir / "bin" / "srun").write_text(f"#!/usr/bin/env bash\n{SRUN}")
    (vllm_dir / "bin" / "srun").chmod(0o755)
    (vllm_dir / "bin" / "vllm").unlink()
    job = [str(RECIPES / "slurm" / "sample.sh"), "imgs", "tiny-vlm", "tiny-reasoner", "run"]
    done = run(vllm_dir, *job, code=1, SLURM_JOB_NUM_NODES="1")
    assert "vLLM is not installed" in done.stderr


def test_a_merge_refuses_a_shard_that_is_not_finished(vllm_dir: Path) -> None:
    with ChatServer() as server:
        for shard in range(2):
            sophia("reason", "caps.jsonl", "-n", "2", "--llm", "m", "--base-url", server.url, "--shard", f"{shard}/2",
                   "-o", f"raw.{shard}.jsonl", cwd=vllm_dir)  # fmt: skip
            sophia("grade", f"raw.{shard}.jsonl", "-o", f"traj.{shard}.jsonl", cwd=vllm_dir)
    merge = [str(RECIPES / "merge.sh"), "."]
    assert "traj.2.jsonl: is not finished" in run(vllm_dir, *merge, "3", code=1).stderr
    run(vllm_dir, *merge, "2", "--alpha", "0")
    assert (vllm_dir / "kept.jsonl").exists()


def test_what_one_reasoner_cannot_solve_goes_to_the_next(vllm_dir: Path) -> None:
    write_lines(vllm_dir / "caps.jsonl", [{**row, "answer": "1"} for row in captions(40)])
    with ChatServer() as server:
        recipe = [str(RECIPES / "escalate.sh"), "caps.jsonl", "m", "m", "run", "-n", "2", "--base-url", server.url]
        run(vllm_dir, *recipe)
    easy, hard, kept = (records_of(vllm_dir / "run" / f"{name}.jsonl") for name in ("traj.easy", "traj.hard", "kept"))
    unsolved = {row["id"] for row in hard}
    assert len(easy) == 80 and 0 < len(unsolved) < 40 and len(hard) == 2 * len(unsolved)
    assert all("/hard.t" in row["trajectory_id"] for row in hard)
    assert {row["id"] for row in kept} & unsolved == {row["id"] for row in kept if "/hard.t" in row["trajectory_id"]}


def test_a_pod_asks_every_server_behind_the_service_about_its_shard(vllm_dir: Path) -> None:
    for shard in range(2):
        write_lines(vllm_dir / f"caps.{shard}.jsonl", captions(12)[shard::2])
    with ChatServer() as server:
        stand_in(vllm_dir, "getent", 'echo "127.0.0.1 STREAM reasoner"; echo "127.0.0.1 DGRAM"; echo "127.0.0.2 STREAM"')
        client = ["bash", str(RECIPES / "k8s" / "client.sh"), "reasoner", "2", "reason", "caps.SHARD.jsonl", "--llm", "m"]
        client += ["-n", "1", "--retries", "0", "-o", "raw.SHARD.jsonl"]
        run(vllm_dir, *client, JOB_COMPLETION_INDEX="1", PORT=str(server.port))
    rows = records_of(vllm_dir / "raw.1.jsonl")
    assert [row["id"] for row in sorted(rows, key=lambda row: int(row["id"][1:]))] == [f"q{i}" for i in range(1, 12, 2)]
    typed = json.loads((vllm_dir / "raw.1.jsonl.manifest.json").read_text())["typed"]
    assert [part for part in typed if part.startswith("http")] == [f"http://127.0.0.{i}:{server.port}/v1" for i in (1, 2)]


@pytest.mark.parametrize("file", ["fleet.yaml", "sample.yaml"])
def test_the_manifests_fit_together(file: str) -> None:
    for document in yaml.safe_load_all((RECIPES / "k8s" / file).read_text()):
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(document)
        if document["kind"] == "Job":
            spec = document["spec"]
            command = spec["template"]["spec"]["containers"][0]["command"]
            assert spec["completionMode"] == "Indexed" and command[:2] == ["bash", "/scripts/client.sh"]
            assert command[3] == str(spec["completions"]) and command[2] == "reasoner"
            done = sophia(*command[4:], "--dry-run", cwd=ROOT, code=2)
            assert "caps.SHARD.jsonl" in done.stderr.decode(), "the file is not there, but all options are"
        if document["kind"] == "Deployment":
            assert document["spec"]["selector"]["matchLabels"] == document["spec"]["template"]["metadata"]["labels"]


@pytest.mark.slow
def test_grpo_is_given_questions_of_a_middling_pass_rate(vllm_dir: Path, lab: Path) -> None:
    options = ["--max-steps", "1", "--batch-size", "2", "--micro-batch-size", "8"]
    script = [str(RECIPES / "grpo.sh"), "tiny-vlm", str(lab / "imgs"), "run", *options]
    said = run(vllm_dir, *script, TRIES="4", FROM="0.25", TO="0.75").stderr
    tries, kept = (records_of(vllm_dir / "run" / name) for name in ("tries.jsonl", "questions.jsonl"))
    rewards = {row["id"]: [other["reward"] for other in tries if other["id"] == row["id"]] for row in tries}
    wanted = {name for name, found in rewards.items() if 0.25 <= sum(found) / 4 <= 0.75}
    assert {row["id"] for row in kept} == wanted and len(kept) == len(wanted) > 0
    assert f"{len(kept)} of 8 questions" in said
    assert (vllm_dir / "run/grpo/model.safetensors").exists()
