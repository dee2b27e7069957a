"""Early stop: the same selection from fewer trajectories, whatever the timing, the faults and the kills."""

import json
import math
import signal
import subprocess
import time
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from chat_server import PASSING, ChatServer
from conftest import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_servers import kill_after, wait_until

from sophia_cli.errors import UsageError
from sophia_cli.rewards import Rule, Trajectory, select
from sophia_cli.waves import allowed_failures, fewest_right

CHANCES = st.fractions(0, 1, max_denominator=16)


@given(alpha=st.floats(0, 1), count=st.integers(1, 64))
def test_a_caption_passes_with_the_fewest_right_and_not_with_one_fewer(alpha: float, count: int) -> None:
    fewest = fewest_right(alpha, count)
    if fewest > count:
        with pytest.raises(UsageError):
            allowed_failures(alpha, count)
    else:
        assert fewest / count > alpha and (fewest == 0 or not (fewest - 1) / count > alpha)


@pytest.mark.parametrize("count", [1, 4, 8, 10, 16])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75])
def test_the_allowed_failures_are_those_of_the_method(alpha: float, count: int) -> None:
    assert allowed_failures(alpha, count) == count - math.floor(Fraction(alpha) * count) - 1


CAPTIONS = st.lists(st.lists(st.sampled_from([1.0, 1.0, 0.0, None]), min_size=8, max_size=8), min_size=1, max_size=6)


@given(data=st.data(), captions=CAPTIONS, alpha=st.sampled_from([0.0, 0.2, 0.5, 0.75, 0.87]))
def test_what_is_selected_is_what_the_full_run_selects(data: st.DataObject, captions: list[list[Any]], alpha: float) -> None:
    full, early = [], []
    for number, rewards in enumerate(captions):
        group = [
            Trajectory(f"{number}/t{n}", "item", (f"c{number}", "m"), reward, data.draw(st.integers(1, 50)), 8)
            for n, reward in enumerate(rewards)
        ]
        full += group
        failures, asked = 0, 0
        while asked < 8 and failures <= allowed_failures(alpha, 8):
            failures += rewards[asked] == 0.0
            asked += 1
        early += group[:asked]
    for keep in (1, 3):
        assert select(full, Rule(alpha, keep)) == select(early, Rule(alpha, keep))
        assert select(full, Rule(max(alpha, 0.75), keep)) == select(early, Rule(max(alpha, 0.75), keep))


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of six images, two captions each, hot enough to be often wrong, with all eight trajectories of each."""
    folder = tmp_path_factory.mktemp("hard")
    sophia("world", "imgs", "-n", "6", "--seed", "23", cwd=folder)
    sophia("caption", "imgs", "-k", "2", "--temperature", "1.3", "-o", "caps.jsonl", cwd=folder)
    for count in (4, 8):
        sophia("reason", "caps.jsonl", "-n", str(count), "-o", f"raw{count}.jsonl", cwd=folder)
        sophia("grade", f"raw{count}.jsonl", "-o", f"traj{count}.jsonl", cwd=folder)
    return folder


@pytest.mark.parametrize(("alpha", "count"), [("0.75", 8), ("0.5", 8), ("0.25", 4)])
def test_on_the_embedded_world_the_selected_records_are_those_of_the_full_run(
    alpha: str, count: int, hard: Path, tmp_path: Path
) -> None:
    early = ("--stop-early", "--alpha", alpha, "-o", str(tmp_path / "raw.jsonl"))
    sophia("reason", "caps.jsonl", "-n", str(count), *early, cwd=hard)
    sophia("grade", "raw.jsonl", "-o", "traj.jsonl", cwd=tmp_path)
    for keep in ("1", "2"):
        options = ("--alpha", alpha, "--keep", keep, "--selected")
        wanted = sophia("propagate", f"traj{count}.jsonl", *options, cwd=hard).stdout
        found = sophia("propagate", "traj.jsonl", *options, cwd=tmp_path).stdout
        assert sorted(found.splitlines()) == sorted(wanted.splitlines())
    rows, everything = records_of(tmp_path / "raw.jsonl"), records_of(hard / f"raw{count}.jsonl")
    assert {row["trajectory_id"] for row in rows} < {row["trajectory_id"] for row in everything}
    figures = json.loads((tmp_path / "raw.jsonl.manifest.json").read_text())["early_stop"]
    assert figures["trajectories_sampled"] == len(rows) < figures["trajectories_planned"] == len(everything)
    check_marks(tmp_path / "traj.jsonl", float(alpha), count)


def check_marks(traj: Path, alpha: float, count: int) -> None:
    """Stopped captions carry `stop_alpha` on each record, end with the failure that decided, and have no caption reward."""
    by_caption = defaultdict(list)
    for row in records_of(traj):
        by_caption[row["caption_id"]].append(row)
    propagated = records_of(sophia("propagate", traj.name, "--alpha", str(alpha), cwd=traj.parent).stdout)
    rewards = {row["caption_id"]: row["caption_reward"] for row in propagated}
    for caption, rows in by_caption.items():
        failures = sum(row["reward"] == 0.0 for row in rows)
        if len(rows) < count:
            assert failures == allowed_failures(alpha, count) + 1
            assert all(row["stop_alpha"] == alpha for row in rows) and rewards[caption] is None
        else:
            assert not any("stop_alpha" in row for row in rows)
            assert rewards[caption] == sum(row["reward"] for row in rows) / count


def test_a_selection_that_asks_for_less_is_refused(hard: Path, tmp_path: Path) -> None:
    sophia("reason", "caps.jsonl", "-n", "4", "--stop-early", "-o", str(tmp_path / "raw.jsonl"), cwd=hard)
    sophia("grade", "raw.jsonl", "-o", "traj.jsonl", cwd=tmp_path)
    for options in (["--alpha", "0.5"], ["--no-caption-reward"]):
        done = sophia("propagate", "traj.jsonl", *options, cwd=tmp_path, code=2)
        assert "--stop-early --alpha 0.75" in done.stderr.decode() and done.stdout == b""
    done = sophia("train", "traj.jsonl", "--alpha", "0.5", "-o", "out", cwd=tmp_path, code=2)
    assert "--stop-early --alpha 0.75" in done.stderr.decode()
    sophia("propagate", "traj.jsonl", "--alpha", "0.8", cwd=tmp_path)


def test_an_alpha_that_none_can_pass_is_refused(hard: Path) -> None:
    done = sophia("reason", "caps.jsonl", "--stop-early", "--alpha", "1", cwd=hard, code=2)
    assert "--alpha 1" in done.stderr.decode()


def test_a_file_of_all_trajectories_is_not_continued_with_early_stop(hard: Path) -> None:
    done = sophia("reason", "caps.jsonl", "-n", "4", "--stop-early", "-o", "raw4.jsonl", cwd=hard, code=2)
    assert "stop_alpha was None, is 0.75" in done.stderr.decode()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(st.sampled_from([*PASSING, "well", "well", "invalid", "filtered"]), max_size=16),
    kills=st.lists(st.tuples(st.integers(1, 30), st.sampled_from([signal.SIGKILL, signal.SIGINT])), max_size=3),
    alpha=st.sampled_from(["0.2", "0.4", "0.6"]),
)
def test_what_is_written_depends_on_no_timing_fault_or_kill(
    faults: list[str], kills: list[tuple[int, signal.Signals]], alpha: str, tmp_path: Path
) -> None:
    """Failures that were tried again included: a run that goes on leaves the file of an undisturbed one."""
    for file in tmp_path.iterdir():
        file.unlink()
    rows = [
        {"id": f"q{i}", "question": f"Which? {i}", "answer": "1", "caption_id": f"q{i}/c0", "caption": "a thing"}
        for i in range(30)
    ]
    write_lines(tmp_path / "caps.jsonl", rows)
    options = ["reason", "caps.jsonl", "-n", "5", "--llm", "m", "--stop-early", "--alpha", alpha, "--retries", "20"]
    with ChatServer() as server:
        undisturbed = sophia(*options, "--base-url", server.url, "--concurrency", "1", cwd=tmp_path).stdout
    with ChatServer(faults, delay=0.003) as server:
        command = [*options, "--base-url", server.url, "--concurrency", "7", "-o", "raw.jsonl"]
        for lines, number in kills:
            kill_after(lines, command, tmp_path, number)
        while sophia(*command, cwd=tmp_path, code=None).returncode == 3:
            assert any(fault in ("invalid", "filtered") for fault in faults)
    assert sorted((tmp_path / "raw.jsonl").read_bytes().splitlines()) == sorted(undisturbed.splitlines())
    figures = json.loads((tmp_path / "raw.jsonl.manifest.json").read_text())["early_stop"]
    assert figures["trajectories_sampled"] == len(undisturbed.splitlines()) and figures["trajectories_planned"] == 150
    assert len(undisturbed.splitlines()) < 150


def test_a_trajectory_that_cannot_be_sampled_is_no_failure(tmp_path: Path) -> None:
    row = {"id": "q", "question": "Which?", "answer": "9", "caption_id": "q/c0", "caption": "a thing"}
    write_lines(tmp_path / "caps.jsonl", [row])
    options = ("-n", "4", "--llm", "m", "--stop-early", "--alpha", "0.5", "--concurrency", "1")
    with ChatServer(["filtered"]) as server:
        done = sophia("reason", "caps.jsonl", *options, "--base-url", server.url, cwd=tmp_path, code=3)
    rows = records_of(done.stdout)
    assert len(rows) == 3 and "content filter" in rows[0]["error"]  # two failures decide; the first was none


def test_an_interrupt_leaves_what_is_done_and_the_next_run_marks_it(tmp_path: Path) -> None:
    rows = [{"id": f"q{i}", "question": "?", "answer": "9", "caption_id": f"q{i}/c0", "caption": f"{i}"} for i in range(4)]
    write_lines(tmp_path / "caps.jsonl", rows)
    command = [*SOPHIA, "reason", "caps.jsonl", "-n", "8", "--llm", "m", "--stop-early", "--alpha", "0.3", "-o", "raw.jsonl"]
    with ChatServer(["well"] * 5 + ["stall"] * 100) as server:
        command += ["--base-url", server.url]
        with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT) as client:
            wait_until(lambda: server.arrived == 24)  # four first waves of six
            time.sleep(1)
            client.send_signal(signal.SIGINT)
            assert client.wait(60) == 130
    held = records_of(tmp_path / "raw.jsonl")
    assert len(held) == 5 and not any("stop_alpha" in row for row in held)
    with ChatServer() as server:
        sophia(*command[len(SOPHIA) : -1], server.url, cwd=tmp_path)
        assert len(server.served) == 19, "nothing that was paid for is sampled again"
    rows = records_of(tmp_path / "raw.jsonl")
    assert len(rows) == 24 and all(row["stop_alpha"] == 0.3 for row in rows)


def test_two_runs_of_one_reasoner_are_not_joined_where_one_was_given_up(tmp_path: Path) -> None:
    shared = {
        "id": "q",
        "answer": "1",
        "caption_id": "c",
        "reason_model": "m",
        "trajectory_count": 8,
        "trajectory_tokens": 5,
    }
    stopped = [{**shared, "trajectory_id": f"c/a.t{n}", "reward": 0.0, "stop_alpha": 0.75} for n in range(2)]
    whole = [{**shared, "trajectory_id": f"c/b.t{n}", "reward": 1.0} for n in range(8)]
    write_lines(tmp_path / "both.jsonl", stopped + whole)
    done = sophia("propagate", "both.jsonl", cwd=tmp_path, code=2)
    assert "given up early in one of 2 runs of the same reasoner" in done.stderr.decode()


def test_a_judge_who_may_overrule_the_rules_is_refused_on_what_they_stopped(tmp_path: Path) -> None:
    row = {"id": "q", "question": "?", "answer": "1", "caption_id": "c", "trajectory_id": "c/t0", "stop_alpha": 0.75}
    write_lines(tmp_path / "raw.jsonl", [{**row, "trajectory": "2", "finish_reason": "stop"}])
    with ChatServer(["says_correct"] * 9) as server:
        judge = ("--judge", "m", "--base-url", server.url)
        done = sophia("grade", "raw.jsonl", *judge, "--judge-all", cwd=tmp_path, code=2)
        assert "which --judge-all may overrule" in done.stderr.decode()
        sophia("grade", "raw.jsonl", *judge, cwd=tmp_path)
