"""Tests of the openai backend against a scripted server: requests, responses, and every failure."""

import itertools
import json
import random
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.chat_server import PASSING, ChatServer, answer_of, reason_with
from helpers.commands import ENVIRONMENT, SOPHIA, kill_after, records_of, sophia, wait_until, write_lines
from helpers.records import captions
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sophia_cli.backends._openai.client_config import ClientConfig
from sophia_cli.backends._openai.load_balancer import LoadBalancer, RequestFailure
from sophia_cli.backends._openai.proxy import find_proxy
from sophia_cli.backends._openai.retry_after import parse_retry_after
from sophia_cli.records import sample_seed


@pytest.mark.parametrize(
    ("owner", "untuned"),
    [("openai", set()), *((engine, {"top_k", "min_p", "repetition_penalty"}) for engine in ("vllm", "sglang"))],
)
def test_a_request_holds_the_sampling_its_own_seed_and_no_more(owner: str, untuned: set[str], caption_dir: Path) -> None:
    """Engines that take defaults from the model's generation config are told to use none."""
    with ChatServer(owner=owner) as server:
        rows = reason_with(
            caption_dir, server, options=("--top-p", "0.9", "--temperature", "0.7", "--max-tokens", "999", "--seed", "5")
        )
    assert len(rows) == 24
    for body in server.served:
        assert set(body) == {"model", "messages", "temperature", "top_p", "seed", "max_tokens"} | untuned
        assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("m", 0.7, 0.9, 999)
    wanted = {sample_seed(5, f"q{i}/c0", n) for i in range(12) for n in range(2)}
    assert {body["seed"] for body in server.served} == wanted
    by_seed = {body["seed"]: answer_of(body) for body in server.served}
    for row in rows:
        number = int(row["trajectory_id"].rpartition("/t")[2])
        assert (row["trajectory"], row["trajectory_tokens"]) == by_seed[sample_seed(5, row["caption_id"], number)]
        assert row["finish_reason"] == "stop" and row["reason_model"] == "m"


def test_images_go_as_bytes_paths_or_urls_and_are_named_for_vllm(lab: Path) -> None:
    with ChatServer() as server, ChatServer(owner="openai") as other:
        for options, url, start in [((), server, "data:image/png;base64,"), (("--shared-disk",), server, "file:///")]:
            url.served.clear()
            sophia("caption", "imgs", "-k", "2", "-m", "m", "--base-url", url.url, *options, cwd=lab)
            parts = [body["messages"][0]["content"][0] for body in url.served]
            assert all(part["image_url"]["url"].startswith(start) for part in parts)
            assert len({part["uuid"] for part in parts}) == 8 and len(parts) == 16
        sophia("caption", "imgs", "-k", "1", "-m", "m", "--base-url", other.url, cwd=lab)
        assert all("uuid" not in body["messages"][0]["content"][0] for body in other.served)


def test_an_image_by_url_is_left_to_the_server(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "items.jsonl", [{"id": "a", "image": "https://example.org/a.png", "question": "?", "answer": "1"}]
    )
    with ChatServer() as server:
        sophia("caption", "items.jsonl", "-k", "1", "-m", "m", "--base-url", server.url, cwd=tmp_path)
    assert server.served[0]["messages"][0]["content"][0]["image_url"]["url"] == "https://example.org/a.png"


def test_the_key_is_sent_and_never_written(caption_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "OPENAI_API_KEY", "sk-secret")
    with ChatServer() as server:
        reason_with(caption_dir, server, options=("-o", "raw.jsonl"))
    assert all(headers["Authorization"] == "Bearer sk-secret" for headers in server.headers)
    assert all(b"sk-secret" not in file.read_bytes() for file in caption_dir.iterdir())


@pytest.mark.parametrize(
    ("fault", "trajectory", "finish"),
    [
        ("set_apart", "<think>\nIt is\nseven.\n</think>\n\nso \\boxed{7}", "stop"),
        ("set_apart_cut", "<think>\nIt is", "length"),
        ("opened_in_prompt", "<think>\nIt is seven.\n</think>\n\n\\boxed{7}", "stop"),
        ("cut", "half of", "length"),
    ],
)
def test_a_trajectory_is_whole_however_the_server_cuts_it(
    fault: str, trajectory: str, finish: str, caption_dir: Path
) -> None:
    with ChatServer([fault]) as server:
        rows = reason_with(caption_dir, server, options=("--limit", "1", "-n", "1"))
    assert (rows[0]["trajectory"], rows[0]["finish_reason"]) == (trajectory, finish)


@pytest.mark.parametrize(
    ("fault", "reason_given"),
    [
        ("filtered", "content filter"),
        ("tool", "tool call"),
        ("empty", "empty response"),
        ("invalid", "refused: 400: top_p is odd"),
    ],
)
def test_a_response_without_an_answer_is_named_and_not_retried(fault: str, reason_given: str, caption_dir: Path) -> None:
    with ChatServer([fault]) as server:
        rows = reason_with(caption_dir, server, code=3, options=("--concurrency", "1"))
        assert server.arrived == 24
    bad = [row for row in rows if "error" in row]
    assert len(bad) == 1 and bad[0]["error"].startswith(reason_given)
    assert "trajectory" not in bad[0] and bad[0]["trajectory_id"] and bad[0]["trajectory_count"] == 2


def test_a_limit_beyond_the_known_context_is_left_to_the_server(caption_dir: Path) -> None:
    with ChatServer(context=512) as server:
        reason_with(caption_dir, server, options=("--max-tokens", "512"))
        assert len(server.served) == 24 and all("max_tokens" not in body for body in server.served)
        reason_with(caption_dir, server, options=("--max-tokens", "511"))
        assert all(body["max_tokens"] == 511 for body in server.served[24:])


def test_a_judge_may_be_a_server(lab: Path) -> None:
    with ChatServer(["says_correct"] * 100) as server:
        done = sophia("grade", "raw.jsonl", "--judge", "m", "--judge-all", "--base-url", server.url, cwd=lab)
    rows = records_of(done.stdout)
    assert {row["judge_verdict"] for row in rows} == {"correct"} and {row["reward"] for row in rows} == {1.0}
    assert {row["judge_model"] for row in rows} == {"m"} and {row["rules_verdict"] for row in rows} >= {"correct"}


@pytest.mark.parametrize("options", [(), ("--stop-early", "--alpha", "0.2")])
def test_text_that_no_request_can_carry_fails_alone(options: tuple[str, ...], tmp_path: Path) -> None:
    rows = captions(3)
    rows[1]["caption"] = "half a pair: \ud800"
    (tmp_path / "caps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ChatServer() as server:
        out = reason_with(tmp_path, server, code=3, options=options)
    assert [row["id"] for row in out if "error" in row] == ["q1", "q1"]
    assert {row["id"] for row in out if "trajectory" in row} == {"q0", "q2"}


def test_a_limit_beyond_the_context_ends_at_the_context_and_a_prompt_beyond_it_is_named(caption_dir: Path) -> None:
    with ChatServer(["too_long_with_limit"] * 100) as server:
        rows = reason_with(caption_dir, server)
        assert len(rows) == 24 and server.arrived == 48
    with ChatServer(["too_long"] * 100) as server:
        rows = reason_with(caption_dir, server, code=3)
        assert server.arrived == 48
    assert all(row["error"].startswith("context length: 400: This model's maximum context length") for row in rows)


@pytest.mark.parametrize("fault", [*PASSING, "stall"])
def test_a_fault_that_passes_leaves_no_trace(fault: str, caption_dir: Path) -> None:
    with ChatServer() as server:
        undisturbed = reason_with(caption_dir, server)
    with ChatServer([fault] * 3) as server:
        rows = reason_with(caption_dir, server, options=("--timeout", "1") if fault == "stall" else ())
        assert server.arrived == 24 + 3
    assert sorted(map(json.dumps, rows)) == sorted(map(json.dumps, undisturbed))


def test_a_fault_that_stays_ends_after_so_many_tries(caption_dir: Path) -> None:
    with ChatServer(["no_json"] * 1000) as server:
        rows = reason_with(caption_dir, server, code=3, options=("--retries", "1", "--limit", "2"))
        assert server.arrived <= 8
    assert len(rows) == 4 and all("error" in row for row in rows)


def test_a_server_that_is_not_there_costs_a_bounded_wait_and_names_itself(caption_dir: Path) -> None:
    rows = reason_with(caption_dir, "http://127.0.0.1:9/v1", code=3, options=("--retries", "2"))
    assert len(rows) == 24
    assert all("http://127.0.0.1:9/v1" in row["error"] and "no connection" in row["error"] for row in rows)


def test_a_dead_fleet_ends_the_step_before_it_spoils_a_long_input(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(3000))
    url = ("--base-url", "http://127.0.0.1:9/v1", "--retries", "1", "--llm", "m")
    done = sophia("reason", "caps.jsonl", "-n", "2", "-o", "raw.jsonl", *url, cwd=tmp_path, code=1)
    assert "no server answers" in done.stderr.decode() and "it resumes" in done.stderr.decode()
    assert len(records_of(tmp_path / "raw.jsonl")) < 3000
    with ChatServer() as server:
        sophia("reason", "caps.jsonl", "-n", "2", "-o", "raw.jsonl", "--base-url", server.url, "--llm", "m", cwd=tmp_path)
    rows = records_of(tmp_path / "raw.jsonl")
    assert len({row["trajectory_id"] for row in rows}) == len(rows) == 6000 and not any("error" in row for row in rows)


def test_a_wrong_key_or_model_ends_the_step_with_one_line(caption_dir: Path) -> None:
    with ChatServer(["forbidden"] * 1000) as server:
        done = sophia("reason", "caps.jsonl", "--llm", "m", "--base-url", server.url, cwd=caption_dir, code=1)
    assert "OPENAI_API_KEY" in done.stderr.decode() and done.stdout == b""
    with ChatServer(model="qwen") as server:
        done = sophia("reason", "caps.jsonl", "--llm", "m", "--base-url", server.url, cwd=caption_dir, code=1)
    assert "m: the server does not serve this model; it serves qwen" in done.stderr.decode() and done.stdout == b""


def test_a_server_that_lists_no_models_is_trusted(caption_dir: Path) -> None:
    with ChatServer(model=None) as server:
        assert len(reason_with(caption_dir, server)) == 24


def test_an_alias_is_asked_for_by_the_name_that_the_server_knows(caption_dir: Path) -> None:
    with ChatServer(model="Qwen/QwQ-32B") as server:
        sophia("reason", "caps.jsonl", "-n", "1", "--llm", "qwq", "--base-url", server.url, cwd=caption_dir)
    assert {body["model"] for body in server.served} == {"Qwen/QwQ-32B"}


def test_the_load_is_even_and_a_slow_server_does_not_hold_the_others_up(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(400))
    fast = 0.05  # longer than what the threads of this process wait for each other
    with (
        ChatServer(delay=fast) as a,
        ChatServer(delay=fast) as b,
        ChatServer(delay=fast) as c,
        ChatServer(delay=1.0) as slow,
    ):
        reason_with(tmp_path, a, b, c, slow, options=("--concurrency", "32"))
        counts = [len(server.served) for server in (a, b, c)]
        assert sum(counts) + len(slow.served) == 800
        assert max(counts) - min(counts) <= 0.2 * max(counts)
        assert len(slow.served) < min(counts)
        assert max(server.most_in_flight for server in (a, b, c, slow)) <= 32


def test_concurrency_bounds_what_is_in_flight_and_reaches_it(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(100))
    with ChatServer(delay=0.2) as server:
        reason_with(tmp_path, server, options=("--concurrency", "50"))
        assert server.most_in_flight == 50


def test_a_server_that_dies_and_comes_back_is_used_again(tmp_path: Path) -> None:
    write_lines(tmp_path / "caps.jsonl", captions(300))
    with ChatServer(delay=0.02) as lasting, ChatServer(delay=0.02) as dying:
        step = subprocess.Popen(
            [*SOPHIA, "reason", "caps.jsonl", "-n", "4", "--llm", "m", "--concurrency", "8", "-o", "raw.jsonl"]
            + ["--base-url", lasting.url, "--base-url", dying.url],
            cwd=tmp_path,
            env=ENVIRONMENT,
        )
        wait_until(lambda: len(dying.served) > 50)
        dying.stop()
        before = len(dying.served)
        wait_until(lambda: len(lasting.served) > 300)
        dying.start()
        assert step.wait(timeout=120) == 0
        assert len(dying.served) > before
    rows = records_of(tmp_path / "raw.jsonl")
    assert len({row["trajectory_id"] for row in rows}) == len(rows) == 1200 and not any("error" in row for row in rows)


@pytest.mark.slow
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],  # an example takes up to a minute of rests: shrinking one would take hours
)
@given(
    schedules=st.lists(st.lists(st.sampled_from([*PASSING, "well", "well", "stall"]), max_size=8), min_size=1, max_size=3),
    kills=st.lists(st.integers(1, 30), max_size=2),
)
def test_whatever_the_faults_and_kills_the_records_are_those_of_an_undisturbed_run(
    schedules: list[list[str]], kills: list[int], tmp_path: Path
) -> None:
    for file in tmp_path.iterdir():
        file.unlink()
    write_lines(tmp_path / "caps.jsonl", captions(40))
    with ChatServer() as server:
        undisturbed = reason_with(tmp_path, server)
    servers = [ChatServer(faults, delay=0.005) for faults in schedules]
    command = ["reason", "caps.jsonl", "-n", "2", "--llm", "m", "--concurrency", "4", "--timeout", "0.5"]
    command += ["--retries", "20", "-o", "raw.jsonl"]
    try:
        for server in servers:
            server.__enter__()
            command += ["--base-url", server.url]
        for lines in kills:
            kill_after(lines, command, tmp_path)
        # A record that meets two unusable responses in a row fails; the same command samples it again.
        codes = [sophia(*command, cwd=tmp_path, code=None).returncode for _ in range(3)]
    finally:
        for server in servers:
            server.__exit__()
    rows = records_of(tmp_path / "raw.jsonl")
    assert sorted(map(json.dumps, rows)) == sorted(map(json.dumps, undisturbed)) and codes[-1] == 0


def test_a_server_backs_off_as_long_as_it_asks_and_then_gets_half() -> None:
    fleet = LoadBalancer.from_urls(["a"], retries=2)
    servers = [fleet.pick_server(10.0) for _ in range(8)]
    assert servers == [fleet.servers[0]] * 8
    fleet.on_failure(fleet.servers[0], "q0", 10.0, 11.0, RequestFailure("429", unhealthy=True, busy=True, retry_after=30.0))
    assert fleet.pick_server(12.0) is None and fleet.seconds_until_ready(11.0) == 30.0
    assert "0/1 servers healthy, a paused for 30 s (429)" in fleet.health_text(11.0)
    for _ in range(7):
        fleet.on_response(fleet.servers[0])
    assert fleet.servers[0].max_in_flight == pytest.approx(4.0, abs=1.6) and fleet.pick_server(12.0) is None
    assert fleet.pick_server(41.5) is fleet.servers[0]


def test_one_record_that_fails_says_nothing_of_its_server_and_three_do() -> None:
    for records, rests in ([7, 7, 7, 7, 7], 0), ([7, 8, 7, 8], 0), ([7, 8, 7, 9], 1):
        fleet = LoadBalancer.from_urls(["a"], retries=3)
        for record in records:
            server = fleet.pick_server(1.0)
            assert server is not None
            fleet.on_failure(server, record, 1.0, 2.0, RequestFailure("500"))
        assert server.backoffs == rests


def test_backoffs_grow_until_no_server_is_waited_for() -> None:
    fleet, now, rests = LoadBalancer.from_urls(["a"], retries=3), 0.0, []
    while not fleet.all_failed():
        server = fleet.pick_server(now)
        assert server is not None
        assert not rests or fleet.pick_server(now) is None  # after a rest, one at a time
        fleet.on_failure(server, len(rests), now, now + 0.01, RequestFailure("refused", unhealthy=True))
        rests.append(fleet.seconds_until_ready(now) or 0.0)
        now += rests[-1] + 0.1
    assert len(rests) == 4 and all(later > earlier / 2 for earlier, later in itertools.pairwise(rests))
    assert rests[-1] > 1.9 > rests[0]


def test_the_longest_wait_follows_the_token_budget() -> None:
    assert (
        ClientConfig(("m",), "m", 1).timeout_seconds(32768) > 3600 and ClientConfig(("m",), "m", 1).timeout_seconds(96) < 180
    )
    assert ClientConfig(("m",), "m", 1, timeout=7.0).timeout_seconds(32768) == 7.0


def test_the_last_line_tells_of_retries_and_servers(caption_dir: Path) -> None:
    with ChatServer(["broken"] * 2) as one, ChatServer() as other:
        urls = ("--base-url", one.url, "--base-url", other.url)
        done = sophia("reason", "caps.jsonl", "-n", "2", "--llm", "m", *urls, cwd=caption_dir)
    assert "0 in flight, 2 retries, 2 servers healthy" in done.stderr.decode()


@pytest.mark.slow
@given(st.data())
@settings(max_examples=200)
def test_the_ledger_of_a_fleet_never_loses_count(data: st.DataObject) -> None:
    fleet = LoadBalancer.from_urls([f"s{i}" for i in range(data.draw(st.integers(1, 4)))], retries=3)
    fleet.jitter = random.Random(0)
    first = fleet.pick_server(0.0)
    assert first is not None
    flying: list[tuple[Any, float]] = [(first, 0.0)]
    now = 0.0
    for _ in range(60):
        now += data.draw(st.floats(0, 2))
        if data.draw(st.booleans()):
            server = fleet.pick_server(now)
            if server is not None:
                assert now >= server.backoff_until
                flying.append((server, now))
        elif flying:
            server, sent = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            if data.draw(st.booleans()):
                fleet.on_response(server)
                assert server.accepts_request(max(now, server.backoff_until)) or server.in_flight >= server.max_in_flight
            else:
                trouble = RequestFailure("x", unhealthy=data.draw(st.booleans()), busy=data.draw(st.booleans()))
                fleet.on_failure(server, data.draw(st.integers(0, 9)), sent, now, trouble)
    assert Counter(id(server) for server, _ in flying) == {
        id(server): server.in_flight for server in fleet.servers if server.in_flight
    }


def test_a_retry_after_is_a_number_or_a_date() -> None:
    assert parse_retry_after("3") == 3 and parse_retry_after("1e9") == 600 and parse_retry_after("-5") == 0
    assert parse_retry_after(None) == parse_retry_after("soon") == parse_retry_after("nan") == 0
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert 500 < parse_retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 550))) <= 550


def test_a_proxy_of_the_environment_is_used_and_bypassed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "other.example")
    assert find_proxy("http://example.org/v1") == "http://proxy:3128"
    assert find_proxy("http://127.0.0.1:8000/v1") is find_proxy("http://other.example:8000/v1") is None
