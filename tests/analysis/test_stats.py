"""Tests of `sophia stats`: its figures against plain Python, on records of every stage, and on bad records."""

import contextlib
import json
import os
import pty
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from statistics import mean, median
from typing import Any

from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines
from helpers.records import graded, table
from helpers.reward_reference import brute_force, data_sets, run
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_cli.analysis.dataset_stats import StatsTable, repeat_counts
from sophia_cli.io.rereadable import RereadableInputs
from sophia_cli.rewards.loading import make_lookup
from sophia_cli.rewards.trajectory import SelectionRule
from sophia_cli.runtime.progress import Progress
from sophia_cli.steps.stats import all_figures, fill_table, make_selection


def figures_of(records: list[dict[str, Any]], by: tuple[str, ...] = (), rule: SelectionRule | None = None) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        file.flush()
        lines, columns = RereadableInputs([file.name]), StatsTable(rule or SelectionRule(), list(by))
        fill_table(columns, lines, Progress("stats", quiet=True))
        look = make_lookup(lines, columns.table)
        return all_figures(columns, make_selection(columns, look, given=False), look)


@settings(max_examples=200)
@given(data_sets(), st.sampled_from([0.0, 0.5, 0.75]), st.integers(1, 3), st.integers(0, 3))
def test_the_figures_are_those_of_plain_python(records: list[dict[str, Any]], alpha: float, keep: int, copies: int) -> None:
    means, kept = brute_force(records, alpha, keep)
    lengths = [record["trajectory_tokens"] for record in records]
    rewards = [record["reward"] for record in records if record["reward"] is not None]
    found = figures_of(records + records[:copies], rule=SelectionRule(alpha=alpha, keep=keep))
    assert found["trajectories"] == len(records)
    assert found["items"] == len({record["id"] for record in records})
    assert found["captions"] == len(means)
    assert found["verdicts"] == dict(Counter(record["verdict"] for record in records))
    assert found["accuracy"] == (mean(rewards) if rewards else None)
    known = [value for value in means.values() if value is not None]
    assert found["caption_reward"]["captions"] == len(known)
    assert found["caption_reward"]["over_alpha"] == sum(value > alpha for value in known)
    assert sum(bin["count"] for bin in found["caption_reward"]["histogram"]) == len(known)
    assert found["selected"] == len(kept)
    assert found["solved"] == len({name.split("/")[0] for name in kept})
    assert found["tokens"]["trajectories"] == sum(lengths)
    assert found["tokens"]["per_selected"] == (sum(lengths) / len(kept) if kept else None)
    assert found["lengths"]["trajectories"]["p50"] == median(lengths)
    for bin in found["lengths"]["trajectories"]["histogram"]:
        assert bin["count"] == sum(bin["from"] <= length < bin["to"] for length in lengths)
    assert found["leaks"]["count"] == sum(record["mentions_caption"] for record in records)
    assert found["repeated"]["trajectories"] == min(copies, len(records))
    assert found["repeated"]["conflicting"] == 0


def test_each_value_of_a_column_has_figures_of_its_own() -> None:
    subjects = {"a": "geometry", "b": "数学", "c": None, "d": 7}
    records = [{**row, "subject": subject} for item, subject in subjects.items() for row in table(1.0, 1.0, 0.0, item=item)]
    del records[-1]["subject"]
    found = figures_of(records, by=("subject",), rule=SelectionRule(alpha=0.5))["by"]["subject"]
    assert {label: each["trajectories"] for label, each in found.items()} == {"geometry": 3, "数学": 3, "(none)": 4, "7": 2}
    assert {label: each["selected"] for label, each in found.items()} == {"geometry": 1, "数学": 1, "(none)": 1, "7": 1}


def test_what_comes_twice_is_counted_by_what_it_is() -> None:
    rows = table(1.0, 0.0, 1.0)
    rewritten = dict(reversed(rows[0].items()))  # the same record
    other = {**rows[1], "trajectory_tokens": 3}
    same_words = {**rows[2], "trajectory_id": "q/c0/t9"}
    found = figures_of([*rows, rewritten, other, same_words])["repeated"]
    assert found == {"trajectories": 1, "conflicting": 1, "texts": 1, "captions": 0}


def test_propagated_records_keep_their_selection(lab: Path, tmp_path: Path) -> None:
    options = ("--alpha", "0.4", "--keep", "2")
    plain = sophia("stats", str(lab / "traj.jsonl"), *options, "--json", cwd=tmp_path).stdout
    (tmp_path / "done.jsonl").write_bytes(sophia("propagate", str(lab / "traj.jsonl"), *options, cwd=tmp_path).stdout)
    carried = sophia("stats", "done.jsonl", "--json", cwd=tmp_path).stdout
    ours, theirs = json.loads(plain), json.loads(carried)
    assert {**ours, "alpha": 0, "caption_reward": 0} == {**theirs, "alpha": 0, "caption_reward": 0}
    assert ours["caption_reward"]["mean"] == theirs["caption_reward"]["mean"]
    assert theirs["selected"] == sum(record["selected"] for record in records_of(tmp_path / "done.jsonl")) > 0
    done = sophia("stats", "done.jsonl", "--alpha", "0.5", cwd=tmp_path, code=2)
    assert b"omit the options" in done.stderr
    (tmp_path / "half.jsonl").write_bytes(b"".join((lab / "traj.jsonl").read_bytes().splitlines(keepends=True)[16:]))
    (tmp_path / "rest.jsonl").write_bytes(b"".join((tmp_path / "done.jsonl").read_bytes().splitlines(keepends=True)[:16]))
    both = sophia("stats", "rest.jsonl", "half.jsonl", cwd=tmp_path, code=2)
    assert b"some do not" in both.stderr


def test_of_kept_records_alone_the_reward_is_that_of_all_their_captions_trajectories() -> None:
    rows = run(table(*[1.0] * 7, 0.0), SelectionRule(), emit="selected")
    found = figures_of(rows)["caption_reward"]
    assert (found["captions"], found["mean"], found["over_alpha"]) == (1, 0.875, 1)


def test_leaks_are_a_share_of_the_trajectories_that_were_looked_at() -> None:
    rows = [
        {**row, "mentions_caption": mentions}
        for row, mentions in zip(table(*[1.0] * 4), (True, False, None, 0), strict=True)
    ]
    del rows[3]["mentions_caption"]
    leaks = figures_of(rows)["leaks"]
    assert (leaks["judged"], leaks["count"], leaks["rate"]) == (2, 1, 0.5)


def test_every_stage_has_figures(lab: Path, tmp_path: Path) -> None:
    stages = {name: sophia("stats", str(lab / name), "--json", cwd=tmp_path) for name in ("caps.jsonl", "raw.jsonl")}
    found = {name: json.loads(done.stdout) for name, done in stages.items()}
    assert [found["caps.jsonl"][field] for field in ("items", "captions", "trajectories")] == [8, 16, 0]
    assert [found["raw.jsonl"][field] for field in ("items", "captions", "trajectories", "graded")] == [8, 16, 32, 0]
    source = json.loads(sophia("stats", str(lab / "imgs" / "metadata.jsonl"), "--json", cwd=tmp_path).stdout)
    assert (source["records"], source["items"]) == (8, 8)
    captions = records_of(lab / "caps.jsonl")
    assert found["raw.jsonl"]["tokens"]["captions"] == sum(record["caption_tokens"] for record in captions)


def test_a_bad_field_is_named_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = table(1.0, 1.0, 0.0)
    rows[1]["reward"] = "yes"
    rows[2]["verdict"] = 3
    failure = {"id": "z", "caption_id": "z/c0", "caption_count": 3, "error": "no image"}
    write_lines(tmp_path / "x.jsonl", [*rows, failure, {**graded("q", 1, 0, 1.0, 4, 1), "caption_id": ""}])
    done = sophia("stats", "x.jsonl", "--json", cwd=tmp_path, code=3)
    found = json.loads(done.stdout)
    assert (found["records"], found["trajectories"], found["unreadable"], found["failed"]) == (2, 1, 3, 1)
    for words in ("x.jsonl:2: field `reward`", "x.jsonl:3: field `verdict`", "x.jsonl:5: field `caption_id`"):
        assert words in done.stderr.decode()
    (tmp_path / "cut.jsonl").write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[0])[:-9])
    assert b"cut.jsonl:2" in sophia("stats", "cut.jsonl", cwd=tmp_path, code=2).stderr


def test_odd_records_are_named_and_never_end_it(tmp_path: Path) -> None:
    good = table(1.0, 1.0)
    odd = [
        {**good[0], "trajectory_id": "\ud800"},
        {**good[0], "caption_tokens": -5},
        {**good[0], "caption_tokens": 3 * 10**9},
    ]
    subjects = [{**good[0], "subject": "[/b]"}, {**good[1], "subject": "half \ud800"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*odd, *subjects]))
    done = sophia("stats", "x.jsonl", "--by", "subject", cwd=tmp_path, code=3)
    assert b"[/b]" in done.stdout and b"half ?" in done.stdout
    for number in (2, 3):
        assert f"x.jsonl:{number}: field `caption_tokens`".encode() in done.stderr
    found = sophia("stats", "x.jsonl", "--json", cwd=tmp_path, code=3)
    assert (json.loads(found.stdout)["trajectories"], json.loads(found.stdout)["unreadable"]) == (3, 2)


def test_an_early_stopped_file_that_was_propagated_has_figures(tmp_path: Path) -> None:
    rows = [{**row, "stop_alpha": 0.9, "selected": False, "weight": 0.0, "caption_reward": None} for row in table(0.0, 0.0)]
    write_lines(tmp_path / "x.jsonl", rows)
    found = json.loads(sophia("stats", "x.jsonl", "--json", cwd=tmp_path).stdout)
    assert (found["trajectories"], found["selected"], found["caption_reward"]["captions"]) == (2, 0, 0)


def test_a_closed_pipe_is_quiet_and_a_full_disk_is_named(lab: Path) -> None:
    command = f"{' '.join(SOPHIA)} stats traj.jsonl --quiet"
    for line, code, words in (
        (f"{command} | head -1; exit ${{PIPESTATUS[0]}}", 0, b""),
        (f"{command} > /dev/full", 1, b"stdout: "),
    ):
        done = subprocess.run(["bash", "-c", line], cwd=lab, env=ENVIRONMENT, capture_output=True, timeout=60)
        assert done.returncode == code
        assert words in done.stderr and b"Traceback" not in done.stderr


def test_the_same_words_are_the_same_however_they_are_escaped() -> None:
    rows = table(1.0, 1.0)
    rows[0]["trajectory"] = rows[1]["trajectory"] = "答案\n7"
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        for row, plain in zip(rows, (True, False), strict=True):
            file.write(json.dumps(row, ensure_ascii=plain).encode() + b"\n")
        file.flush()
        lines, columns = RereadableInputs([file.name]), StatsTable(SelectionRule(), [])
        fill_table(columns, lines, Progress("stats", quiet=True))
        assert repeat_counts(columns, make_lookup(lines, columns.table))["texts"] == 1


def test_a_column_with_as_many_values_as_records_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", [{"id": str(number), "question": "?"} for number in range(1001)])
    assert b"1,001 values" in sophia("stats", "x.jsonl", "--by", "id", cwd=tmp_path, code=2).stderr


def test_an_unknown_column_is_a_usage_error(lab: Path, tmp_path: Path) -> None:
    done = sophia("stats", str(lab / "traj.jsonl"), "--by", "subjct", cwd=tmp_path, code=2)
    assert b"--by subjct" in done.stderr


def test_the_terminal_shows_tables_and_bars(lab: Path) -> None:
    controller, terminal = pty.openpty()
    command = [*SOPHIA, "stats", "traj.jsonl", "--by", "kind", "--quiet", "--alpha", "0.4"]
    environment = {**ENVIRONMENT, "COLUMNS": "100", "TERM": "xterm"}
    process = subprocess.Popen(command, cwd=lab, stdout=terminal, env=environment)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # what Linux says where a terminal's other end is closed
        while part := os.read(controller, 1 << 12):
            shown += part
    os.close(controller)
    assert process.wait(60) == 0
    text = re.sub("\x1b\\[[0-9;]*m", "", shown.decode())
    for words in ("trajectories", "captions by R(c)", "trajectories, tokens", "by kind", "selected", "█"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100
