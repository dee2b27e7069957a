"""Tests of early stop: the same selection from fewer trajectories, with any timing, failures and kills."""

import json
import math
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from helpers.chat_server import PASSING, ChatServer
from helpers.commands import ENVIRONMENT, SOPHIA, kill_after, records_of, sophia, wait_until, write_lines
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sophia_cli.errors import UsageError
from sophia_cli.inference.early_stop import (
    CaptionPlan,
    EarlyStopSampler,
    EarlyStopStats,
    QuestionGroup,
    max_failures,
    min_correct,
)
from sophia_cli.inference.types import Completion, Failure, Job, Request, SamplingParams
from sophia_cli.records import Record
from sophia_cli.rewards.selection import select_in_memory
from sophia_cli.rewards.trajectory import SelectionRule, Trajectory, decode_checked
from sophia_cli.runtime.read_ahead import ReadAhead

CHANCES = st.fractions(0, 1, max_denominator=16)


@given(alpha=st.floats(0, 1), count=st.integers(1, 64))
def test_a_caption_passes_with_the_fewest_right_and_not_with_one_fewer(alpha: float, count: int) -> None:
    fewest = min_correct(alpha, count)
    if fewest > count:
        with pytest.raises(UsageError):
            max_failures(alpha, count)
    else:
        assert fewest / count > alpha and (fewest == 0 or not (fewest - 1) / count > alpha)


@pytest.mark.parametrize("count", [1, 4, 8, 10, 16])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75])
def test_the_allowed_failures_are_those_of_the_method(alpha: float, count: int) -> None:
    assert max_failures(alpha, count) == count - math.floor(Fraction(alpha) * count) - 1


def chosen(trajectories: list[Trajectory], rule: SelectionRule) -> set[str]:
    """Returns the names of the trajectories that Eq. 6 keeps."""
    numbers = select_in_memory([(trajectory, place, "") for place, trajectory in enumerate(trajectories)], rule)
    return {trajectories[number].name for number in numbers}


CAPTIONS = st.lists(st.lists(st.sampled_from([1.0, 1.0, 0.0, None]), min_size=8, max_size=8), min_size=1, max_size=6)


@given(data=st.data(), captions=CAPTIONS, alpha=st.sampled_from([0.0, 0.2, 0.5, 0.75, 0.87]))
def test_what_is_selected_is_what_the_full_run_selects(data: st.DataObject, captions: list[list[Any]], alpha: float) -> None:
    full, early = [], []
    for number, rewards in enumerate(captions):
        group = [
            Trajectory(f"{number}/t{n}", "item", f"c{number}", reward, data.draw(st.integers(1, 50)), 8)
            for n, reward in enumerate(rewards)
        ]
        full += group
        failures, asked = 0, 0
        while asked < 8 and failures <= max_failures(alpha, 8):
            failures += rewards[asked] == 0.0
            asked += 1
        early += group[:asked]
    for keep in (1, 3):
        assert chosen(full, SelectionRule(alpha, keep)) == chosen(early, SelectionRule(alpha, keep))
        assert chosen(full, SelectionRule(max(alpha, 0.75), keep)) == chosen(early, SelectionRule(max(alpha, 0.75), keep))


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of six images, two captions each, at a temperature that makes many answers wrong, with all eight
    trajectories of each.
    """
    folder = tmp_path_factory.mktemp("hard")
    sophia("world", "imgs", "-n", "6", "--seed", "23", cwd=folder)
    sophia("caption", "imgs", "-k", "2", "--temperature", "1.3", "-o", "caps.jsonl", cwd=folder)
    for count in (4, 8):
        sophia("reason", "caps.jsonl", "-n", str(count), "-o", f"raw{count}.jsonl", cwd=folder)
        sophia("grade", f"raw{count}.jsonl", "-o", f"traj{count}.jsonl", cwd=folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shortest", [False, True])
@pytest.mark.parametrize(("alpha", "count"), [("0.75", 8), ("0.5", 8), ("0.25", 4)])
def test_on_the_embedded_world_the_selected_records_are_those_of_the_full_run(
    alpha: str, count: int, shortest: bool, hard: Path, tmp_path: Path
) -> None:
    early = ("--stop-early", "--alpha", alpha, "-o", str(tmp_path / "raw.jsonl"), *(["--bound-length"] * shortest))
    sophia("reason", "caps.jsonl", "-n", str(count), *early, cwd=hard)
    sophia("grade", "raw.jsonl", "-o", "traj.jsonl", cwd=tmp_path)
    for keep in ("1",) if shortest else ("1", "2"):
        options = ("--alpha", alpha, "--keep", keep, "--selected")
        wanted = sophia("propagate", f"traj{count}.jsonl", *options, cwd=hard).stdout
        found = sophia("propagate", "traj.jsonl", *options, cwd=tmp_path).stdout
        assert sorted(found.splitlines()) == sorted(wanted.splitlines())
    rows, everything = records_of(tmp_path / "raw.jsonl"), records_of(hard / f"raw{count}.jsonl")
    assert {row["trajectory_id"] for row in rows} < {row["trajectory_id"] for row in everything}
    figures = json.loads((tmp_path / "raw.jsonl.manifest.json").read_text())["early_stop"]
    assert figures["trajectories_sampled"] == len(rows) < figures["trajectories_planned"] == len(everything)
    assert shortest or figures["tokens_sampled"] == sum(row["trajectory_tokens"] for row in rows)
    if shortest:
        assert figures["trajectories_cut"] == sum(
            row["finish_reason"] == "length" and row["trajectory_tokens"] == row.get("stop_length") for row in rows
        )
    else:
        check_marks(tmp_path / "traj.jsonl", float(alpha), count)


def test_a_bound_on_lengths_needs_early_stop_and_whole_questions(hard: Path) -> None:
    assert b"--stop-early" in sophia("reason", "caps.jsonl", "--bound-length", cwd=hard, code=2).stderr
    options = ("--bound-length", "--stop-early", "--shard", "0/2")
    assert b"give --shard to `caption`" in sophia("reason", "caps.jsonl", *options, cwd=hard, code=2).stderr


def check_marks(traj: Path, alpha: float, count: int) -> None:
    """Checks that each record has `stop_alpha`, and that a caption with fewer than N ends with the deciding failure and has
    no caption reward.
    """
    by_caption = defaultdict(list)
    for row in records_of(traj):
        by_caption[row["caption_id"]].append(row)
    propagated = records_of(sophia("propagate", traj.name, "--alpha", str(alpha), cwd=traj.parent).stdout)
    rewards = {row["caption_id"]: row["caption_reward"] for row in propagated}
    for caption, rows in by_caption.items():
        failures = sum(row["reward"] == 0.0 for row in rows)
        assert all(row["stop_alpha"] == alpha for row in rows)
        if len(rows) < count:
            assert failures == max_failures(alpha, count) + 1 and rewards[caption] is None
        else:
            assert rewards[caption] == sum(row["reward"] for row in rows) / count


@pytest.mark.slow
def test_a_selection_that_asks_for_less_is_refused(hard: Path, tmp_path: Path) -> None:
    sophia("reason", "caps.jsonl", "-n", "4", "--stop-early", "-o", str(tmp_path / "raw.jsonl"), cwd=hard)
    sophia("grade", "raw.jsonl", "-o", "traj.jsonl", cwd=tmp_path)
    for options in (["--alpha", "0.5"], ["--no-caption-reward"]):
        done = sophia("propagate", "traj.jsonl", *options, cwd=tmp_path, code=2)
        assert "--stop-early --alpha 0.75" in done.stderr.decode() and done.stdout == b""
    done = sophia("train", "traj.jsonl", "--alpha", "0.5", "-o", "out", cwd=tmp_path, code=2)
    assert "--stop-early --alpha 0.75" in done.stderr.decode()
    sophia("propagate", "traj.jsonl", "--alpha", "0.8", cwd=tmp_path)


@pytest.mark.parametrize(
    "options", [("--keep", "2"), ("--alpha", "0.8"), ("--select", "random"), ("--no-correctness",), ("--drop-leaks",)]
)
def test_a_bounded_file_serves_keep_1_of_its_alpha_alone(options: tuple[str, ...], tmp_path: Path) -> None:
    shared = {"id": "q", "answer": "1", "reason_model": "m", "trajectory_count": 2, "reward": 1.0}
    marks = {"stop_alpha": 0.75, "stop_length": 4}
    short = [{**shared, "caption_id": "c0", "trajectory_id": f"c0/t{n}", "trajectory_tokens": 4} for n in range(2)]
    long = [{**shared, "caption_id": "c1", "trajectory_id": f"c1/t{n}", "trajectory_tokens": 4, "reward": 0.0, **marks}
            for n in range(2)]  # fmt: skip
    write_lines(tmp_path / "traj.jsonl", short + long)
    kept = records_of(sophia("propagate", "traj.jsonl", "--selected", cwd=tmp_path).stdout)
    assert [row["trajectory_id"] for row in kept] == ["c0/t0"]
    done = sophia("propagate", "traj.jsonl", *options, cwd=tmp_path, code=2)
    assert "--stop-early --bound-length --alpha 0.75" in done.stderr.decode()


def test_an_alpha_that_none_can_pass_is_refused(hard: Path) -> None:
    done = sophia("reason", "caps.jsonl", "--stop-early", "--alpha", "1", cwd=hard, code=2)
    assert "--alpha 1" in done.stderr.decode()


def test_a_file_of_all_trajectories_is_not_continued_with_early_stop(hard: Path) -> None:
    done = sophia("reason", "caps.jsonl", "-n", "4", "--stop-early", "-o", "raw4.jsonl", cwd=hard, code=2)
    assert "stop_alpha was None, is 0.75" in done.stderr.decode()


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(st.sampled_from([*PASSING, "well", "well", "invalid", "filtered"]), max_size=16),
    kills=st.lists(st.tuples(st.integers(1, 30), st.sampled_from([signal.SIGKILL, signal.SIGINT])), max_size=3),
    alpha=st.sampled_from(["0.2", "0.4", "0.6"]),
    shortest=st.booleans(),
)
@example(faults=["half", "invalid"], kills=[], alpha="0.2", shortest=True)
def test_what_is_written_depends_on_no_timing_fault_or_kill(
    faults: list[str], kills: list[tuple[int, signal.Signals]], alpha: str, shortest: bool, tmp_path: Path
) -> None:
    """A resumed run writes the records of an uninterrupted one. Where a trajectory failed and was sampled again, there may
    be more of them, and the selection is the same.
    """
    for file in tmp_path.iterdir():
        file.unlink()
    rows = [
        {
            "id": f"q{i}",
            "question": f"Which? {i}",
            "answer": "1",
            "caption_id": f"q{i}/c{c}",
            "caption_count": 3,
            "caption": f"{c}",
        }
        for c in range(3)
        for i in range(10)
    ]
    write_lines(tmp_path / "caps.jsonl", rows)
    options = ["reason", "caps.jsonl", "-n", "5", "--llm", "m", "--stop-early", "--alpha", alpha, "--retries", "20"]
    options += ["--bound-length"] * shortest
    with ChatServer() as server:
        undisturbed = sophia(*options, "--base-url", server.url, "--concurrency", "1", cwd=tmp_path).stdout
    with ChatServer(faults, delay=0.003) as server:
        command = [*options, "--base-url", server.url, "--concurrency", "7", "-o", "raw.jsonl"]
        for lines, number in kills:
            kill_after(lines, command, tmp_path, number)
        while sophia(*command, cwd=tmp_path, code=None).returncode == 3:
            assert any(fault in ("invalid", "filtered") for fault in faults)
    written, wished = (tmp_path / "raw.jsonl").read_bytes().splitlines(), undisturbed.splitlines()
    if not {"invalid", "filtered"} & set(faults):
        assert sorted(written) == sorted(wished)
        figures = json.loads((tmp_path / "raw.jsonl.manifest.json").read_text())["early_stop"]
        assert figures["trajectories_sampled"] == len(wished) < figures["trajectories_planned"] == 150
        assert figures["tokens_spared_about"] > 0
    selected = []
    for raw in (b"\n".join(written), undisturbed):
        graded = sophia("grade", "-", cwd=tmp_path, stdin=raw).stdout
        selected.append(sorted(sophia("propagate", "-", "--alpha", alpha, "--selected", cwd=tmp_path, stdin=graded).stdout))
    assert selected[0] == selected[1]


def test_a_trajectory_that_cannot_be_sampled_is_no_failure(tmp_path: Path) -> None:
    row = {"id": "q", "question": "Which?", "answer": "9", "caption_id": "q/c0", "caption": "a thing"}
    write_lines(tmp_path / "caps.jsonl", [row])
    options = ("-n", "4", "--llm", "m", "--stop-early", "--alpha", "0.5", "--concurrency", "1")
    with ChatServer(["filtered"]) as server:
        done = sophia("reason", "caps.jsonl", *options, "--base-url", server.url, cwd=tmp_path, code=3)
    rows = records_of(done.stdout)
    assert len(rows) == 3 and "content filter" in rows[0]["error"]  # two failures decide; the first was none


def test_an_interrupt_leaves_what_is_done_and_the_next_run_goes_on_from_it(tmp_path: Path) -> None:
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
    first = records_of(tmp_path / "raw.jsonl")
    assert len(first) == 5 and all(row["stop_alpha"] == 0.3 for row in first)
    with ChatServer() as server:
        sophia(*command[len(SOPHIA) : -1], server.url, cwd=tmp_path)
        assert len(server.served) == 19, "nothing that was paid for is sampled again"
    rows = records_of(tmp_path / "raw.jsonl")
    assert len(rows) == 24 and rows[:5] == first and all(row["stop_alpha"] == 0.3 for row in rows)
    before = (tmp_path / "raw.jsonl").stat()
    with ChatServer() as server:
        sophia(*command[len(SOPHIA) : -1], server.url, cwd=tmp_path)
        assert not server.served
    after = (tmp_path / "raw.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "a finished file is not written again"


def test_no_finished_record_is_lost_by_the_next_command(tmp_path: Path) -> None:
    """A typo, a limit or a kill must not lose what was sampled."""
    rows = [{"id": f"q{i}", "question": "?", "answer": "9", "caption_id": f"q{i}/c0", "caption": f"{i}"} for i in range(20)]
    write_lines(tmp_path / "caps.jsonl", rows)
    command = ["reason", "caps.jsonl", "-n", "4", "--llm", "m", "--stop-early", "--alpha", "0", "-o", "raw.jsonl"]
    with ChatServer(["well", "well", "well", "invalid"] * 20) as server:
        sophia(*command, "--base-url", server.url, "--concurrency", "1", cwd=tmp_path, code=3)
    good = [row for row in records_of(tmp_path / "raw.jsonl") if "error" not in row]
    assert len(good) == 60
    with ChatServer() as server:
        there = ("--base-url", server.url)
        sophia("reason", "cpas.jsonl", *command[2:], *there, cwd=tmp_path, code=2)
        sophia(*command, "--limit", "3", *there, cwd=tmp_path)
        with ChatServer(["stall"] * 99) as stalled:
            client = subprocess.Popen([*SOPHIA, *command, "--base-url", stalled.url], cwd=tmp_path, env=ENVIRONMENT)
            wait_until(lambda: stalled.arrived)
            client.kill()
            client.wait()
        sophia(*command, *there, cwd=tmp_path)
        assert len(server.served) == 20
    assert len(records_of(tmp_path / "raw.jsonl")) == 80
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caps.jsonl", "raw.jsonl", "raw.jsonl.manifest.json"]


@pytest.mark.slow
def test_what_grade_keeps_of_an_interrupted_pipe_is_what_an_undisturbed_one_gives(tmp_path: Path) -> None:
    rows = [{"id": f"q{i}", "question": "?", "answer": "9", "caption_id": f"q{i}/c0", "caption": f"{i}"} for i in range(300)]
    write_lines(tmp_path / "caps.jsonl", rows)
    with ChatServer(delay=0.02) as server:
        step = " ".join([*SOPHIA, "reason", "caps.jsonl", "-n", "5", "--llm", "m", "--stop-early", "--alpha", "0.4"])
        pipe = f"{step} --base-url {server.url} --concurrency 16 --tee raw.jsonl | {' '.join(SOPHIA)} grade -o traj.jsonl"
        with subprocess.Popen(f"exec {step} --base-url {server.url} --concurrency 16 --tee raw.jsonl", shell=True,
                              cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE) as client:  # fmt: skip
            wait_until(lambda: len(server.served) > 200)
            client.send_signal(signal.SIGTERM)
            assert client.stdout is not None
            first = client.stdout.read()
        sophia("grade", "-", "-o", "traj.jsonl", cwd=tmp_path, stdin=first)
        assert subprocess.run(pipe, shell=True, cwd=tmp_path, env=ENVIRONMENT).returncode == 0
        undisturbed = sophia(*step.split()[len(SOPHIA) :], "--base-url", server.url, cwd=tmp_path).stdout
        undisturbed = sophia("grade", "-", cwd=tmp_path, stdin=undisturbed).stdout
    assert sorted((tmp_path / "traj.jsonl").read_bytes().splitlines()) == sorted(undisturbed.splitlines())


@pytest.mark.parametrize("shortest", [False, True])
def test_a_file_cut_anywhere_becomes_what_it_was(shortest: bool, tmp_path: Path) -> None:
    """A crash may leave half a line and a part of a caption's records."""
    rows = [
        {"id": f"q{i}", "question": "?", "answer": "1", "caption_id": f"q{i}/c{c}", "caption_count": 2, "caption": f"{c}"}
        for i in range(6)
        for c in range(2)
    ]
    write_lines(tmp_path / "caps.jsonl", rows)
    out = tmp_path / "raw.jsonl"
    with ChatServer() as server:
        command = ["reason", "caps.jsonl", "-n", "5", "--llm", "m", "--stop-early", "--alpha", "0.4", "-o", "raw.jsonl"]
        command += [*["--bound-length"] * shortest, "--base-url", server.url]
        sophia(*command, cwd=tmp_path)
        whole = out.read_bytes().splitlines(keepends=True)
        assert sum(b"stop_alpha" in line for line in whole) > len(whole) / 2
        for kept in range(0, len(whole), 3):
            out.write_bytes(b"".join(whole[:kept]) + whole[kept][:50])
            sophia(*command, cwd=tmp_path)
            assert sorted(out.read_bytes().splitlines(keepends=True)) == sorted(whole)


@pytest.mark.slow
@pytest.mark.parametrize("samples", ["5", "9"])
def test_a_bounded_run_cut_anywhere_has_the_records_and_counts_of_a_whole_one(samples: str, tmp_path: Path) -> None:
    """Cut trajectories that were sampled to their ends in a second pass are failures of that pass, not of the first."""
    places = [(f"q{i}", f"Which? {i}", c) for c in range(3) for i in range(10)]
    rows = [
        {"id": i, "question": text, "answer": "1", "caption_id": f"{i}/c{c}", "caption_count": 3, "caption": f"{c}"}
        for i, text, c in places
    ]
    write_lines(tmp_path / "caps.jsonl", rows)
    out, manifest = tmp_path / "raw.jsonl", tmp_path / "raw.jsonl.manifest.json"
    counted = ("captions", "captions_given_up", "trajectories_sampled", "trajectories_cut")
    with ChatServer() as server:
        command = ["reason", "caps.jsonl", "-n", samples, "--llm", "m", "--stop-early", "--alpha", "0.2", "--bound-length"]
        command += ["-o", "raw.jsonl", "--base-url", server.url]
        sophia(*command, cwd=tmp_path)
        whole, stats = out.read_bytes().splitlines(keepends=True), json.loads(manifest.read_bytes())["early_stop"]
        for kept in [*range(len(whole) // 2, len(whole), 3), len(whole)]:
            out.write_bytes(b"".join(whole[:kept]))
            sophia(*command, cwd=tmp_path)
            assert sorted(out.read_bytes().splitlines(keepends=True)) == sorted(whole)
            again = json.loads(manifest.read_bytes())["early_stop"]
            assert {name: again[name] for name in counted} == {name: stats[name] for name in counted}


def test_the_order_in_which_captions_come_changes_nothing(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"q{i}",
            "question": "?",
            "answer": "1",
            "caption_id": f"q{i}/c{c}",
            "caption_count": 12,
            "caption": f"{i} {c}",
        }
        for i in range(4)
        for c in range(12)
    ]
    found = []
    with ChatServer() as server:
        for ordered in (rows, rows[::-1], rows[::2] + rows[1::2]):
            write_lines(tmp_path / "caps.jsonl", ordered)
            options = ("-n", "4", "--llm", "m", "--stop-early", "--alpha", "0.2", "--bound-length", "--base-url", server.url)
            found.append(sorted(sophia("reason", "caps.jsonl", *options, cwd=tmp_path).stdout.splitlines()))
    assert found[0] == found[1] == found[2] and any(b"stop_length" in line for line in found[0])


def test_a_caption_that_comes_twice_is_refused_by_its_line(tmp_path: Path) -> None:
    row = {"id": "q", "question": "?", "answer": "9", "caption_id": "q/c0", "caption": "a"}
    write_lines(tmp_path / "caps.jsonl", [row, row])
    with ChatServer() as server:
        options = ("-n", "4", "--llm", "m", "--stop-early", "--base-url", server.url)
        done = sophia("reason", "caps.jsonl", *options, cwd=tmp_path, code=2)
    assert "caps.jsonl" in done.stderr.decode() and "2: caption_id 'q/c0' occurs twice" in done.stderr.decode()


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
    assert "stopped early in one of several runs of a reasoner" in done.stderr.decode()


def test_a_judge_who_may_overrule_the_rules_is_refused_on_what_they_stopped(tmp_path: Path) -> None:
    row = {"id": "q", "question": "?", "answer": "1", "caption_id": "c", "trajectory_id": "c/t0", "stop_alpha": 0.75}
    write_lines(tmp_path / "raw.jsonl", [{**row, "trajectory": "2", "finish_reason": "stop"}])
    with ChatServer(["says_correct"] * 9) as server:
        judge = ("--judge", "m", "--base-url", server.url)
        done = sophia("grade", "raw.jsonl", *judge, "--judge-all", cwd=tmp_path, code=2)
        assert "which --judge-all may overrule" in done.stderr.decode()
        sophia("grade", "raw.jsonl", *judge, cwd=tmp_path)


class Scripted:
    """A backend with scripted trajectories: length and correctness of each job, by caption and number."""

    def __init__(self, script: dict[tuple[str, int], tuple[int, float | None]]):
        self.script, self.tokens = script, 0

    def stream(self, jobs: ReadAhead[Job]) -> Iterator[tuple[Job, Completion | Failure]]:
        while batch := jobs.take_batch(7):
            for job in reversed(batch):
                length, reward = self.script[job.ids["caption_id"], job.ids["n"]]
                most = job.request.sampling.max_tokens
                self.tokens += min(length, most)
                done = Completion(str(reward), length, "stop") if length <= most else Completion("cut", most, "length")
                yield job, done

    def status(self) -> str:
        return ""

    def close(self) -> None:
        pass


def wave_rewards(record: Record) -> float | None:
    if record["finish_reason"] == "length":
        return 0.0
    return None if record["trajectory"] == "None" else float(record["trajectory"])


def finished(job: Job, done: Completion) -> Record:
    fields = {"trajectory": done.text, "trajectory_tokens": done.tokens, "finish_reason": done.finish_reason}
    return Record({**job.record, **job.ids, **fields})


SCRIPT = st.lists(  # questions of captions of eight trajectories: a length and a reward each
    st.lists(
        st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1.0, 1.0, 1.0, 0.0, None])), min_size=8, max_size=8),
        min_size=1,
        max_size=5,
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.slow
@given(script=SCRIPT, alpha=st.sampled_from([0.0, 0.3, 0.5, 0.75]), shortest=st.booleans())
@settings(max_examples=150, deadline=None)
def test_waves_leave_what_is_selected_of_all_and_never_sample_in_vain(
    script: list[list[list[tuple[int, float | None]]]], alpha: float, shortest: bool
) -> None:
    """Compared with the full set by the public rule; completions longer than 30 tokens are truncated in both."""
    most, everything, items = 30, [], []
    told = {}
    for question, captions_ in enumerate(script):
        plans = []
        for number, trajectories in enumerate(captions_):
            name = f"q{question}/c{number}"
            jobs = []
            for n, (length, reward) in enumerate(trajectories):
                told[name, n] = (length, reward)
                ids = {"caption_id": name, "trajectory_id": f"{name}/t{n}", "trajectory_count": 8, "n": n}
                request = Request([], SamplingParams(max_tokens=most), n)
                jobs.append(Job(Record({"id": f"q{question}"}), ids, request))
                kept = min(length, most)
                everything.append(
                    Trajectory(f"{name}/t{n}", f"q{question}", name, 0.0 if length > most else reward, kept, 8)
                )
            plans.append(CaptionPlan(jobs))
        items += [QuestionGroup(plans)] if shortest else [QuestionGroup([plan]) for plan in plans]
    backend, tally = Scripted(told), EarlyStopStats()
    rows = list(EarlyStopSampler(alpha, 8, shortest, wave_rewards, finished, tally).stream(items, backend))
    early = [decode_checked(Record({**row, "reward": wave_rewards(row)})) for row in rows]
    rule = SelectionRule(alpha)
    assert chosen(early, rule) == chosen(everything, rule)
    assert len({row["trajectory_id"] for row in rows}) == len(rows) == tally.sampled and tally.tokens == backend.tokens
    if not shortest:
        whole = {trajectory.name: trajectory for trajectory in everything}
        assert all(whole[trajectory.name].tokens == trajectory.tokens for trajectory in early)
        assert not any("stop_length" in row for row in rows) and tally.cut == 0
    by_caption = defaultdict(list)
    for row in rows:
        by_caption[row["caption_id"]].append(row)
    for group in by_caption.values():
        assert {row["stop_alpha"] for row in group} == {alpha}
        failures = sum(wave_rewards(row) == 0.0 for row in group if "stop_length" not in row)
        assert len(group) == 8 or failures > max_failures(alpha, 8) or any("stop_length" in row for row in group)
