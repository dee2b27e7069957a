"""Tests of the client with failing fleets, slow readers, interrupts, and unusual environments."""

import itertools
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from aiohttp import web
from helpers.chat_server import FAULTS, ChatServer, reason_with
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, wait_until, write_lines
from helpers.records import captions

from sophia_cli.backends._openai.http import enable_keepalive
from sophia_cli.backends._openai.load_balancer import MAX_BUSY_BACKOFFS, LoadBalancer, RequestFailure


def test_prompts_that_always_break_the_engine_fail_alone(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(60))
    with ChatServer(poison="1 things") as server:
        rows = reason_with(tmp_path, server, code=3, options=("-n", "4", "--concurrency", "8", "--retries", "2"))
    assert {row["id"] for row in rows if "error" in row} == {"q1", "q11", "q21", "q31", "q41", "q51"}
    assert len(rows) == 240 and sum("error" in row for row in rows) == 24


def test_a_server_that_breaks_on_everything_gets_little_while_others_are_well(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(100))
    with ChatServer(["broken"] * 10_000) as sick, ChatServer(delay=0.05) as one, ChatServer(delay=0.05) as two:
        rows = reason_with(tmp_path, sick, one, two, options=("--concurrency", "24"))
        assert sick.arrived < 60
    assert len(rows) == 200


def test_a_record_that_failed_at_the_idlest_server_goes_to_another() -> None:
    fleet = LoadBalancer.from_urls(["sick", "well"], retries=8)
    for record in ("a", "b", "a"):  # two records: too few to say that the server is to blame
        server = next(server for server in fleet.servers if server.url == "sick")
        server.in_flight += 1
        fleet.on_failure(server, record, 0.0, 0.0, RequestFailure("500"))
    fleet.servers[1].sent = 1000
    picked = fleet.pick_server(1.0, "a")
    assert picked is not None and picked.url == "well"
    other = fleet.pick_server(1.0, "c")
    assert other is not None and other.url == "sick"


def test_a_request_that_failed_is_sent_to_another_server(tmp_path: Path) -> None:
    """Also if each record fails only once: failures of two records are too few to call a server unhealthy."""
    write_lines(tmp_path / "caps.jsonl", captions(2))
    with ChatServer(["broken"] * 10) as sick, ChatServer() as well:
        rows = reason_with(tmp_path, sick, well, options=("-n", "1", "--retries", "1", "--concurrency", "1"))
        assert len(rows) == 2 and not any("error" in row for row in rows)
        assert sick.arrived and len(well.served) == 2


def test_a_ready_server_is_not_kept_waiting_by_the_long_rest_of_another(caption_dir: Path) -> None:
    with ChatServer(["busy_for_long"]) as resting, ChatServer(["starting"]) as other:
        rows = reason_with(caption_dir, resting, other, options=("--concurrency", "1"))
        assert len(rows) == len(other.served) == 24 and not resting.served


def test_a_reader_that_pauses_costs_no_answer(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(3000))
    with ChatServer(delay=0.3) as server:
        command = [*SOPHIA, "reason", "caps.jsonl", "-n", "1", "--llm", "m", "--base-url", server.url]
        command += ["--timeout", "3", "--retries", "0", "--concurrency", "256"]
        with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            first = client.stdout.readline()
            time.sleep(6)
            rows = records_of(first + client.stdout.read())
        assert client.returncode == 0 and len(rows) == server.arrived == 3000


def test_a_server_that_says_429_for_ever_is_given_up_in_the_end() -> None:
    fleet, now = LoadBalancer.from_urls(["a"], retries=0), 0.0
    for rests in range(1, MAX_BUSY_BACKOFFS + 2):
        server = fleet.pick_server(now)
        assert server is not None and not fleet.all_failed()
        fleet.on_failure(server, "q", now, now, RequestFailure("429", unhealthy=True, busy=True))
        now, known = now + 60.1, rests
    assert fleet.all_failed() and known == MAX_BUSY_BACKOFFS + 1
    assert fleet.pick_server(now + 100) is not None
    fleet.on_response(fleet.servers[0])
    assert not fleet.all_failed()


def test_a_429_is_no_failure_even_without_retries(caption_dir: Path) -> None:
    with ChatServer(["busy"] * 3) as server:
        assert len(reason_with(caption_dir, server, options=("--retries", "0"))) == 24


def test_a_retry_after_is_waited_for_whatever_the_status(caption_dir: Path) -> None:
    with ChatServer(["broken_for_a_while"]) as server:
        reason_with(caption_dir, server)
        gaps = [later - earlier for times in server.arrivals.values() for earlier, later in itertools.pairwise(times)]
    assert len(gaps) == 1 and gaps[0] >= 2


def test_a_server_that_answered_before_may_say_404_for_a_while(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(60))
    with ChatServer(["well"] * 5 + ["not_found"] * 2) as restarting, ChatServer() as other:
        assert len(reason_with(tmp_path, restarting, other, options=("--concurrency", "2"))) == 120


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["half", "no_json", "drip", "endless", "close", "busy"])
def test_an_odd_list_of_models_is_no_reason_to_stop(fault: str, caption_dir: Path) -> None:
    with ChatServer(models=fault) as server:
        assert len(reason_with(caption_dir, server)) == 24
        assert {body["model"] for body in server.served} == {"m"}


def test_a_key_with_a_line_break_works_and_an_odd_one_is_not_shown(
    caption_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "OPENAI_API_KEY", "sk-secret\n")
    with ChatServer() as server:
        reason_with(caption_dir, server)
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-secret"}
        monkeypatch.setitem(ENVIRONMENT, "OPENAI_API_KEY", "sk-\x01secret")
        done = sophia("reason", "caps.jsonl", "--llm", "m", "--base-url", server.url, cwd=caption_dir, code=2)
    assert b"OPENAI_API_KEY" in done.stderr and b"secret" not in done.stderr


def test_the_key_goes_to_no_other_host(caption_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "OPENAI_API_KEY", "sk-secret")
    seen = []

    async def elsewhere(request: web.Request, body: dict[str, object]) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"http://localhost:{other.port}/v1/models")

    async def spied(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"data": [{"id": "m"}]})

    monkeypatch.setitem(FAULTS, "elsewhere", elsewhere)
    monkeypatch.setattr(ChatServer, "_health", spied)
    with ChatServer() as other, ChatServer(models="elsewhere") as server:
        other._models = spied  # type: ignore[method-assign]
        other.stop()
        other.start()
        reason_with(caption_dir, server)
    assert seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://user:PASSW0RD@127.0.0.1:1/v1",
        "http://[::1/v1",
        "http://h:port/v1",
        "http://a b/v1",
        "127.0.0.1:8000",
        "http:///v1",
    ],
)
def test_an_odd_address_is_refused_before_anything_is_begun(url: str, caption_dir: Path) -> None:
    done = sophia("reason", "caps.jsonl", "--llm", "m", "--base-url", url, "-o", "raw.jsonl", cwd=caption_dir, code=2)
    assert b"--base-url" in done.stderr and b"PASSW0RD" not in done.stderr and not (caption_dir / "raw.jsonl").exists()


def test_a_timeout_that_is_no_number_of_seconds_is_refused(caption_dir: Path) -> None:
    sophia("reason", "caps.jsonl", "--llm", "m", "--base-url", "http://h/v1", "--timeout", "inf", cwd=caption_dir, code=2)


def test_requests_go_through_the_proxy_of_the_environment(caption_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChatServer() as proxy:
        monkeypatch.setitem(ENVIRONMENT, "http_proxy", proxy.url.removesuffix("/v1"))
        assert len(reason_with(caption_dir, "http://models.example/v1")) == len(proxy.served) == 24


def test_the_usual_concurrency_fits_the_limit_of_open_files(caption_dir: Path) -> None:
    with ChatServer() as server:
        limited = f"ulimit -n 300; exec {' '.join(SOPHIA)} reason caps.jsonl --llm m {f'--base-url {server.url} ' * 2}"
        done = subprocess.run(["bash", "-c", limited], cwd=caption_dir, env=ENVIRONMENT, capture_output=True, timeout=60)
        assert done.returncode == 0 and len(records_of(done.stdout)) == 96
        done = subprocess.run(
            ["bash", "-c", f"{limited} --concurrency 300"], cwd=caption_dir, env=ENVIRONMENT, capture_output=True
        )
        assert done.returncode == 2 and b"--concurrency 300" in done.stderr


def test_a_full_or_closed_stderr_spoils_no_record(caption_dir: Path) -> None:
    with ChatServer(["invalid"]) as server:
        command = f"{' '.join(SOPHIA)} reason caps.jsonl --llm m -n 2 --base-url {server.url}"
        for ending, code in (("2> /dev/full", 3), ("2>&1 >out.jsonl | true; exit ${PIPESTATUS[0]}", 0)):
            done = subprocess.run(
                ["bash", "-c", f"{command} {ending}"], cwd=caption_dir, env=ENVIRONMENT, capture_output=True
            )
            assert done.returncode == code
    assert len(records_of(caption_dir / "out.jsonl")) == 24


@pytest.mark.parametrize("options", [(), ("--stop-early", "--alpha", "0.5")])
def test_an_interrupt_leaves_all_that_was_answered_in_the_file(options: tuple[str, ...], tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(3000))
    with ChatServer(delay=0.02) as server:
        command = [*SOPHIA, "reason", "caps.jsonl", "-n", "4", "--llm", "m", "--base-url", server.url, *options]
        command += ["--concurrency", "64", "-o", "raw.jsonl"]
        with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE) as client:
            wait_until(lambda: len(server.served) > 400)
            answered = len(server.served)
            client.send_signal(signal.SIGINT)
            assert client.wait(60) == 130
        kept = [records_of(file) for file in tmp_path.glob("raw.jsonl*") if file.suffix in (".jsonl", ".held")]
        assert sum(map(len, kept)) >= answered - 128  # what is on its way to the client, and back


@pytest.mark.slow
def test_an_interrupt_ends_even_a_step_whose_reader_has_stopped(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(5000))
    with ChatServer() as server:
        command = [*SOPHIA, "reason", "caps.jsonl", "-n", "2", "--llm", "m", "--base-url", server.url]
        with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE) as client:
            wait_until(lambda: server.arrived > 2000 and not server.in_flight)
            time.sleep(1)
            assert server.arrived < 9000, "nothing new is sent while nobody takes what is there"
            client.send_signal(signal.SIGTERM)
            assert client.wait(60) == 130


@pytest.mark.slow
def test_a_hasty_ctrl_c_is_never_success(caption_dir: Path) -> None:
    with ChatServer(delay=5.0) as server:
        for tenths in range(16):
            command = [*SOPHIA, "reason", "caps.jsonl", "--llm", "m", "--base-url", server.url]
            told = {**ENVIRONMENT, "PYTHONPROFILEIMPORTTIME": "1"}  # names what is imported: before typer, nothing is ours
            client = subprocess.Popen(command, cwd=caption_dir, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert client.stderr is not None
            while b"typer" not in client.stderr.readline():
                pass
            time.sleep(0.05 * tenths)
            client.send_signal(signal.SIGINT)
            _, said = client.communicate(timeout=60)
            in_an_import = client.returncode == -2 or b"<frozen " in said  # Python itself may swallow it there
            assert (client.returncode == 130 and b"Traceback" not in said) or in_an_import, (tenths, client.returncode, said)


def test_a_connection_whose_other_end_has_vanished_is_noticed_before_its_answer_is_late() -> None:
    with socket.socket() as made:
        enable_keepalive(made)
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        waits = [made.getsockopt(socket.IPPROTO_TCP, name) for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)]
        assert waits[0] + waits[1] * made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) <= 120


def test_an_image_that_is_no_file_fails_alone(lab: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    image = str(next((lab / "imgs").glob("*.png")))
    rows = [
        {"id": str(i), "image": path, "question": "?", "answer": "1"} for i, path in enumerate([image, "pipe.png", image])
    ]
    write_lines(tmp_path / "items.jsonl", rows)
    with ChatServer() as server:
        done = sophia("caption", "items.jsonl", "-k", "1", "-m", "m", "--base-url", server.url, cwd=tmp_path, code=3)
    failed = [row for row in records_of(done.stdout) if "error" in row]
    assert [row["id"] for row in failed] == ["1"] and "not a file" in failed[0]["error"]


def test_a_host_name_that_is_none_does_not_swallow_what_the_others_would_answer(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(60))
    with ChatServer(delay=0.01) as server:
        assert len(reason_with(tmp_path, "http://gpu1..cluster:8000/v1", server, options=("--concurrency", "8"))) == 120
