"""Tests of the servers that we start: on demand, with their GPUs, with a named failure, and always stopped at the end."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from helpers.chat_server import ChatServer
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines
from helpers.records import captions
from helpers.vllm_stand_in import PATIENCE_SECONDS, alive, stand_in, started, wait_for

from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.models.aliases import ModelRef, resolve_model
from sophia_cli.serving.vllm_server import ServerConfig, VLLMServer

TESTS = Path(__file__).parent
REASON = ("reason", "caps.jsonl", "--llm", "m", "-n", "2", "--backend", "vllm")


def begin(vllm_dir: Path, *more: str) -> "subprocess.Popen[bytes]":
    """Starts a client that runs for long, and waits until its servers are up."""
    write_lines(vllm_dir / "caps.jsonl", captions(3000))
    command = [*SOPHIA, *REASON, "--concurrency", "1", "-o", "raw.jsonl", *more]
    client = subprocess.Popen(command, cwd=vllm_dir, env=ENVIRONMENT, stderr=subprocess.PIPE)
    wait_for(lambda: (vllm_dir / "raw.jsonl").exists() and (vllm_dir / "raw.jsonl").stat().st_size)
    assert alive(vllm_dir)
    return client


def test_a_server_is_started_used_and_gone_at_the_end(vllm_dir: Path) -> None:
    done = sophia(*REASON, "--quiet", cwd=vllm_dir)
    assert len(records_of(done.stdout)) == 24 and not done.stderr
    assert not alive(vllm_dir)
    (given,) = started(vllm_dir)
    arguments = " ".join(given["arguments"])
    assert (
        re.search("--model m --served-model-name m sophia-[0-9a-f]{8} --host 127.0.0.1 --port", arguments)
        and given["VLLM_NO_USAGE_STATS"] == "1"
    )


def test_no_server_is_started_when_there_is_nothing_to_do(vllm_dir: Path) -> None:
    sophia(*REASON, "-o", "raw.jsonl", cwd=vllm_dir)
    before = started(vllm_dir)
    sophia(*REASON, "-o", "raw.jsonl", cwd=vllm_dir)
    sophia("reason", "-", *REASON[2:], cwd=vllm_dir)
    sophia(*REASON, "--dry-run", cwd=vllm_dir)
    assert started(vllm_dir) == before and len(before) == 1


@pytest.mark.parametrize(
    ("options", "visible", "wanted"),
    [
        (("--gpus", "0-3"), None, ["0", "1", "2", "3"]),
        (("--gpus", "0-3", "--tensor-parallel", "2"), None, ["0,1", "2,3"]),
        (("--gpus", "1,3"), "4,5,6,7", ["5", "7"]),
        ((), "2,GPU-ab12", ["2", "GPU-ab12"]),
        (("--tensor-parallel", "2"), "0,1", ["0,1"]),
        ((), "", [""]),
        ((), "-1", ["-1"]),
        ((), "1,-1,0", ["1"]),
        ((), "NoDevFiles", ["NoDevFiles"]),
    ],
)
def test_each_replica_gets_its_gpus(
    options: tuple[str, ...], visible: str | None, wanted: list[str], vllm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setitem(ENVIRONMENT, "CUDA_VISIBLE_DEVICES", visible)
    sophia(*REASON, *options, cwd=vllm_dir)
    assert sorted(entry["CUDA_VISIBLE_DEVICES"] for entry in started(vllm_dir)) == wanted
    for entry in started(vllm_dir):
        assert ("--tensor-parallel-size" in entry["arguments"]) == ("--tensor-parallel" in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", "0-"), "--gpus 0-: not a list of GPUs"),
        (("--gpus", "1,1"), "lists no GPU, or one of them twice"),
        (("--gpus", "0-9999999999"), "not a list of GPUs"),
        (("--server-options", "--port 80"), "--port cannot be set here"),
        (("--server-options", "--api_key=s3cret"), "set VLLM_API_KEY"),
        (("--gpus", "0-2", "--tensor-parallel", "2"), "3 GPUs are not a multiple of it"),
        (("--server-options", "'"), "No closing quotation"),
        (("--base-url", "http://127.0.0.1:1/v1"), "--base-url applies to --backend openai"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: tuple[str, ...], message: str, vllm_dir: Path) -> None:
    done = sophia(*REASON, *options, cwd=vllm_dir, code=2)
    assert message in done.stderr.decode() and not started(vllm_dir)


@pytest.mark.parametrize(("visible", "gpus"), [("", "0"), ("-1", "0"), ("3", "1"), ("0,0", "0")])
def test_hidden_gpus_stay_hidden(visible: str, gpus: str, vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "CUDA_VISIBLE_DEVICES", visible)
    sophia(*REASON, "--gpus", gpus, cwd=vllm_dir, code=2)
    assert not started(vllm_dir)


@pytest.mark.parametrize(
    "options", [("--host", "no-such.invalid"), ("--host", "203.0.113.7"), ("--port", "65535", "--gpus", "0-1")]
)
def test_a_place_where_no_server_can_listen_is_refused(options: tuple[str, ...], vllm_dir: Path) -> None:
    done = sophia("serve", "m", *options, cwd=vllm_dir, code=2)
    assert "a server cannot listen there" in done.stderr.decode()
    wait_for(lambda: not alive(vllm_dir))


def test_anothers_server_on_the_port_is_not_taken_for_ours(vllm_dir: Path) -> None:
    with ChatServer() as other:
        done = sophia("serve", "m", "--port", str(other.port), cwd=vllm_dir, code=2)
    assert "a server cannot listen there" in done.stderr.decode() and not done.stdout and not started(vllm_dir)


def test_a_server_is_known_by_its_mark(vllm_dir: Path) -> None:
    with ChatServer() as there:
        server = VLLMServer(ModelRef("m", "m"), ServerConfig(), 0, [], port=there.port)
        assert not server.is_ready()
        there.other_names.append(server.served_alias)
        assert server.is_ready()


def test_a_key_of_vllm_is_given_to_it_alone(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", "locked")
    monkeypatch.setitem(ENVIRONMENT, "OPENAI_API_KEY", "another")
    assert "check VLLM_API_KEY" in sophia(*REASON, "--start-timeout", "9", cwd=vllm_dir, code=1).stderr.decode()
    monkeypatch.setitem(ENVIRONMENT, "VLLM_API_KEY", "k3y")
    assert len(records_of(sophia(*REASON, cwd=vllm_dir).stdout)) == 24
    assert all("k3y" not in file.read_text() for file in (vllm_dir / "state" / "sophia").iterdir())


def test_where_vllm_and_a_gpu_are_it_is_the_usual_place_but_for_embedded_models(
    vllm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(vllm_dir, "nvidia-smi", "echo 0")
    sophia(*REASON[:-2], cwd=vllm_dir)
    assert [entry["CUDA_VISIBLE_DEVICES"] for entry in started(vllm_dir)] == ["0"]
    monkeypatch.setenv("PATH", ENVIRONMENT["PATH"])
    assert (
        BackendOptions().backend_name(resolve_model("tiny-reasoner")) == "hf"
        and BackendOptions().backend_name(ModelRef("m", "m")) == "vllm"
    )
    (vllm_dir / "bin" / "nvidia-smi").unlink()
    assert BackendOptions().backend_name(ModelRef("m", "m")) == "hf"


def test_no_home_and_a_log_that_cannot_be_are_named(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "XDG_STATE_HOME", "/proc")
    done = sophia(*REASON, cwd=vllm_dir, code=2)
    assert "the servers' logs cannot be written" in done.stderr.decode() and "set XDG_STATE_HOME" in done.stderr.decode()


def test_options_of_servers_are_refused_where_no_server_is_started(vllm_dir: Path) -> None:
    done = sophia("reason", "caps.jsonl", "--llm", "m", "--backend", "hf", "--gpus", "0", cwd=vllm_dir, code=2)
    assert "--gpus applies to --backend vllm" in done.stderr.decode()


def test_an_option_of_servers_implies_vllm_and_vllms_own_pass_through(vllm_dir: Path) -> None:
    options = ("--max-model-len 512 --chat-template 'my template.jinja'", "--shared-disk")
    sophia(*REASON[:-2], "--server-options", *options, cwd=vllm_dir)
    arguments = started(vllm_dir)[0]["arguments"]
    assert arguments[-4:] == ["--max-model-len", "512", "--chat-template", "my template.jinja"]
    assert arguments[arguments.index("--allowed-local-media-path") + 1] == "/"


def test_a_missing_vllm_is_named_with_the_ways_out(vllm_dir: Path) -> None:
    (vllm_dir / "bin" / "vllm").unlink()
    done = sophia(*REASON, cwd=vllm_dir, code=2)
    assert "vLLM is not installed; run pip install vllm" in done.stderr.decode()


def test_a_server_that_does_not_start_shows_the_end_of_its_log(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", "broken")
    done = sophia(*REASON, cwd=vllm_dir, code=1)
    lines = done.stderr.decode().splitlines()
    assert "RuntimeError: the weights are of another model" in lines
    assert lines[-1].startswith("sophia: m: the server on the CPU ended with code 3 before it was ready; its log is ")
    assert Path(lines[-1].rpartition(" ")[2]).read_text().splitlines()[1:3] == ["loading weights", lines[-3]]
    assert not alive(vllm_dir) and not done.stdout


def test_the_process_that_holds_a_gpu_is_named(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", "broken")
    query = 'case "$1" in --query-gpu=index) seq 0 3;; --query-gpu*) echo "2, GPU-u2, 71200, 81559";;'
    stand_in(vllm_dir, "nvidia-smi", f'{query} *) echo "GPU-u2, {os.getpid()}, 71000";; esac')
    done = sophia(*REASON, "--gpus", "2", cwd=vllm_dir, code=1)
    held = f"GPU 2: 71200 of 81559 MiB are held by process {os.getpid()} ("
    assert held in done.stderr.decode() and "stop it, or choose others with --gpus" in done.stderr.decode()


def test_a_server_that_is_never_ready_is_stopped(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", "never-well")
    done = sophia(*REASON, "--start-timeout", "2", cwd=vllm_dir, code=1)
    assert "is not ready after 2 s (--start-timeout)" in done.stderr.decode() and started(vllm_dir) and not alive(vllm_dir)


def test_a_port_that_was_taken_meanwhile_is_no_failure(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", "port-taken")
    assert len(records_of(sophia(*REASON, cwd=vllm_dir).stdout)) == 24
    assert len(started(vllm_dir)) == 2 and not alive(vllm_dir)


def test_servers_that_end_by_themselves_end_the_step_and_are_named(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", "mortal")
    write_lines(vllm_dir / "caps.jsonl", captions(3000))
    done = sophia(*REASON, "--concurrency", "2", "-o", "raw.jsonl", cwd=vllm_dir, code=1)
    assert "the server ended with code 0; its log is" in done.stderr.decode().splitlines()[-1]
    assert not alive(vllm_dir)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_the_servers_are_gone_however_the_client_ends(number: signal.Signals, vllm_dir: Path) -> None:
    with begin(vllm_dir) as client:
        client.send_signal(number)
        client.wait(PATIENCE_SECONDS)
    if number in (signal.SIGINT, signal.SIGTERM):
        assert client.returncode == 130 and not alive(vllm_dir)
    wait_for(lambda: not alive(vllm_dir))


@pytest.mark.slow
def test_a_deaf_server_is_gone_too(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", "deaf")
    with begin(vllm_dir) as client:
        client.kill()
    wait_for(lambda: not alive(vllm_dir))


def test_a_client_killed_while_its_server_starts_leaves_none(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", "never-well")
    for number in (signal.SIGINT, signal.SIGKILL):
        client = subprocess.Popen([*SOPHIA, *REASON], cwd=vllm_dir, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        wait_for(lambda: alive(vllm_dir))
        client.send_signal(number)
        client.wait(PATIENCE_SECONDS)
        wait_for(lambda: not alive(vllm_dir))


@pytest.mark.parametrize("ways", ["", "deaf"])
def test_a_killed_guard_takes_its_server_along(ways: str, vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", ways)
    with begin(vllm_dir) as client:
        guards = [pid for pid in children_of(client.pid) if "supervisor.py" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(guards) == 1
        os.kill(guards[0], signal.SIGKILL)
        assert client.wait(PATIENCE_SECONDS) == 1
    orphans = [pid for pid in alive(vllm_dir) if "sleep" in Path(f"/proc/{pid}/cmdline").read_text()]
    for orphan in orphans:  # what had left the server's session: docs/servers.md says so
        os.kill(orphan, signal.SIGKILL)
    wait_for(lambda: not alive(vllm_dir))


def children_of(parent: int) -> list[int]:
    return [int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()]


def test_a_closed_pipe_ends_the_servers(vllm_dir: Path) -> None:
    write_lines(vllm_dir / "caps.jsonl", captions(3000))
    command = " ".join([*SOPHIA, *REASON, "--concurrency", "4"])
    done = subprocess.run(f"{command} | head -1", shell=True, cwd=vllm_dir, env=ENVIRONMENT, capture_output=True, timeout=60)
    assert len(records_of(done.stdout)) == 1
    wait_for(lambda: not alive(vllm_dir))


def test_a_full_disk_ends_the_servers(vllm_dir: Path) -> None:
    with open("/dev/full", "wb") as full:
        subprocess.run([*SOPHIA, *REASON], cwd=vllm_dir, env=ENVIRONMENT, stdout=full, stderr=subprocess.DEVNULL, timeout=60)
    assert not alive(vllm_dir)


def test_serve_says_where_its_servers_are_and_ends_them(vllm_dir: Path) -> None:
    command = [*SOPHIA, "serve", "m", "--gpus", "0-1"]
    with subprocess.Popen(command, cwd=vllm_dir, env=ENVIRONMENT, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        lines = [json.loads(server.stdout.readline()) for _ in range(2)]
        assert [line["gpus"] for line in lines] == [["0"], ["1"]]
        urls = [part for line in lines for part in ("--base-url", line["base_url"])]
        assert len(records_of(sophia("reason", "caps.jsonl", "--llm", "m", "-n", "1", *urls, cwd=vllm_dir).stdout)) == 12
        assert len(alive(vllm_dir)) == 4
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_SECONDS) == 130
    assert not alive(vllm_dir)


def test_serve_ends_when_all_its_servers_have(vllm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM", "mortal")
    with subprocess.Popen(
        [*SOPHIA, "serve", "m"], cwd=vllm_dir, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout is not None and server.stderr is not None
        url = json.loads(server.stdout.readline())["base_url"]
        sophia("reason", "caps.jsonl", "--llm", "m", "--base-url", url, "--retries", "0", cwd=vllm_dir, code=None)
        assert server.wait(PATIENCE_SECONDS) == 1
        assert "all servers have ended" in server.stderr.read().decode()
    assert not alive(vllm_dir)


@pytest.mark.slow
def test_two_steps_serve_two_models_at_once(vllm_dir: Path) -> None:
    """The reasoner works on finished captions while the next captions are sampled."""
    command = " ".join([*SOPHIA, *REASON, "--gpus", "0", "--concurrency", "1"])
    second = " ".join([*SOPHIA, "reason", "--llm", "m", "-n", "1", "--tag", "b", "--gpus", "1"])
    write_lines(vllm_dir / "caps.jsonl", captions(60))
    pipe = f"{command} | {second} --tee second.jsonl"
    with subprocess.Popen(pipe, shell=True, cwd=vllm_dir, env=ENVIRONMENT, stdout=subprocess.PIPE) as both:
        assert both.stdout is not None
        first = both.stdout.readline()
        assert len(alive(vllm_dir)) == 4, "both servers run when the first record comes out"
        assert len(records_of(first + both.stdout.read())) == 120
    assert sorted(entry["CUDA_VISIBLE_DEVICES"] for entry in started(vllm_dir)) == ["0", "1"]
    wait_for(lambda: not alive(vllm_dir))
