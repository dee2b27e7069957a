"""Tests of Eq. 5 and Eq. 6 against a brute-force implementation of the paper and the contract."""

import contextlib
import gzip
import io
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines
from helpers.records import graded, table
from helpers.reward_reference import brute_force, data_sets, run
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_cli.errors import InputError
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.io.rereadable import RereadableInputs
from sophia_cli.io.shards import Shard
from sophia_cli.rewards import loading
from sophia_cli.rewards.trajectory import SelectionRule
from sophia_cli.steps.propagate import propagate_records


@settings(max_examples=300)
@given(data_sets(), st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.75, 0.99]), st.integers(1, 5))
def test_propagate_equals_a_brute_force_reading_of_the_equations(
    records: list[dict[str, Any]], alpha: float, keep: int
) -> None:
    means, kept = brute_force(records, alpha, keep)
    out = run(records, SelectionRule(alpha=alpha, keep=keep))
    assert [{field: record[field] for field in records[0]} for record in out] == records
    assert {record["trajectory_id"] for record in out if record["selected"]} == kept
    for record in out:
        assert record["caption_reward"] == means[record["caption_id"]]
        assert record["weight"] == (1.0 if record["selected"] else 0.0)
    assert [record for record in out if record["selected"]] == run(
        records, SelectionRule(alpha=alpha, keep=keep), emit="selected"
    )


@given(data_sets(), st.integers(1, 4), st.sampled_from(["shortest", "random", "all"]))
def test_shards_choose_as_the_whole_does(records: list[dict[str, Any]], count: int, select: str) -> None:
    rule = SelectionRule(alpha=0.5, select=select, seed=3)
    whole = {json.dumps(record) for record in run(records, rule)}
    parts = [run(records, rule, Shard(index, count)) for index in range(count)]
    assert {json.dumps(record) for part in parts for record in part} == whole
    assert sum(map(len, parts)) == len(records)


@given(data_sets(), st.integers(0, 10**6))
def test_the_order_of_the_records_does_not_matter(records: list[dict[str, Any]], seed: int) -> None:
    shuffled = random.Random(seed).sample(records, len(records))
    for select in ("shortest", "random", "all"):
        chosen = [
            {r["trajectory_id"] for r in run(rows, SelectionRule(select=select)) if r["selected"]}
            for rows in (records, shuffled)
        ]
        assert chosen[0] == chosen[1]


def kept(records: list[dict[str, Any]], **rule: Any) -> list[str]:
    return [record["trajectory_id"][-2:] for record in run(records, SelectionRule(**rule)) if record["selected"]]


def test_six_of_eight_do_not_pass_alpha_and_seven_do() -> None:
    assert kept(table(*[1.0] * 6, 0.0, 0.0)) == []
    assert kept(table(*[1.0] * 7, 0.0)) == ["t6"]


def test_what_could_not_be_graded_counts_against_its_caption_unless_min_graded_is_given() -> None:
    rows = table(*[1.0] * 6, None, None)
    assert kept(rows) == []
    assert kept(rows, min_graded=6) == ["t5"]
    assert kept(rows, min_graded=7) == []
    assert run(rows, SelectionRule())[0]["caption_reward"] == 1.0


def test_what_was_never_sampled_counts_against_its_caption() -> None:
    assert kept(table(*[1.0] * 6, planned=8)) == []
    bare = [
        {field: value for field, value in row.items() if field != "trajectory_count"} for row in table(*[1.0] * 6, planned=8)
    ]
    assert kept(bare) == ["t5"]


def test_the_ablations_of_the_paper_are_flags() -> None:
    rows = table(1.0, 0.0, 0.0, 0.0)
    assert kept(rows) == []
    assert kept(rows, caption_reward=False) == ["t0"]
    assert len(kept(rows, caption_reward=False, correctness=False, select="random")) == 1
    drawn = {kept(rows, caption_reward=False, correctness=False, select="random", seed=seed)[0] for seed in range(40)}
    assert drawn == {"t0", "t1", "t2", "t3"}
    assert kept(table(*[1.0] * 8), keep=3) == ["t5", "t6", "t7"]
    assert len(kept(table(*[1.0] * 8), select="all")) == 8


def test_leaks_can_be_dropped_but_count_for_their_caption() -> None:
    rows = [{**row, "mentions_caption": number == 7} for number, row in enumerate(table(*[1.0] * 8))]
    assert kept(rows) == ["t7"]
    assert kept(rows, drop_leaks=True) == ["t6"]


def test_unsolved_hands_out_the_captions_as_caption_wrote_them(lab: Path) -> None:
    captions = {record["caption_id"]: record for record in records_of(lab / "caps.jsonl")}
    rows = records_of(sophia("propagate", "traj.jsonl", cwd=lab).stdout)
    solved = {record["id"] for record in rows if record["selected"]}
    out = records_of(sophia("propagate", "traj.jsonl", "--unsolved", cwd=lab).stdout)
    assert {record["caption_id"] for record in out} == {
        name for name, record in captions.items() if record["id"] not in solved
    }
    assert all(list(record.items()) == list(captions[record["caption_id"]].items()) for record in out)
    assert solved and out  # both sorts occur, else this test shows nothing


def test_a_trajectory_id_with_other_content_names_both_lines(tmp_path: Path) -> None:
    rows = table(1.0, 1.0)
    write_lines(tmp_path / "a.jsonl", rows)
    write_lines(tmp_path / "b.jsonl", [{**rows[1], "trajectory": "other"}])
    done = sophia("propagate", "a.jsonl", "b.jsonl", cwd=tmp_path, code=2)
    assert "b.jsonl:1" in done.stderr.decode() and "a.jsonl:2" in done.stderr.decode()


def test_a_repeated_record_counts_once_and_goes_out_twice() -> None:
    rows = table(1.0, 0.0)
    out = run([*rows, rows[0]], SelectionRule(alpha=0.4))
    assert [record["selected"] for record in out] == [True, False, False]
    assert out[0]["caption_reward"] == 0.5


def test_records_that_failed_before_are_passed_on(tmp_path: Path) -> None:
    rows = [{"id": "q", "caption_id": "q/c0", "error": "no image"}, *table(1.0)]
    write_lines(tmp_path / "a.jsonl", rows)
    done = sophia("propagate", "a.jsonl", cwd=tmp_path, code=3)
    assert records_of(done.stdout)[0] == rows[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("caption_id", None),
        ("reward", "1"),
        ("reward", True),
        ("trajectory_tokens", -3),
        ("trajectory_tokens", 2.5),
        ("id", 7),
    ],
)
def test_a_record_with_a_bad_field_goes_out_with_an_error_that_names_line_and_field(
    field: str, value: Any, tmp_path: Path
) -> None:
    rows = table(1.0, 1.0, 1.0)
    rows[1][field] = value
    write_lines(tmp_path / "a.jsonl", rows)
    done = sophia("propagate", "a.jsonl", cwd=tmp_path, code=3)
    out = records_of(done.stdout)
    assert len(out) == 3
    assert "a.jsonl:2" in out[1]["error"] and f"`{field}`" in out[1]["error"]
    assert "a.jsonl:2" in done.stderr.decode()


def test_one_trajectory_id_of_two_contents_is_refused_in_the_library_too() -> None:
    rows = table(1.0, 1.0)
    with pytest.raises(InputError, match="different content"):
        run([rows[0], {**rows[0], "answer": "2"}], SelectionRule())


def piped(lines: bytes, *options: str, code: int = 0) -> tuple[list[dict[str, Any]], str]:
    """Returns what propagate writes to stdout and stderr when the lines come through a real pipe."""
    done = subprocess.run([*SOPHIA, "propagate", *options], input=lines, capture_output=True, env=ENVIRONMENT)
    assert done.returncode == code, done.stderr
    return records_of(done.stdout), done.stderr.decode()


@settings(max_examples=150, deadline=None)
@given(data_sets(), st.data())
def test_what_comes_from_a_pipe_is_chosen_as_from_a_file(records: list[dict[str, Any]], data: st.DataObject) -> None:
    """With shuffled and repeated records, failed captions, and records without counts."""
    again = data.draw(st.lists(st.sampled_from(records), max_size=3))
    records = data.draw(st.permutations([*records, *again]))
    records = [dict(record) for record in records]
    if data.draw(st.booleans()):
        records.insert(0, {"id": "q0", "caption_id": "q0/c9", "error": "no image"})
    for record in records:
        record["caption_count"] = len({other["caption_id"] for other in records if other["id"] == record["id"]})
    for failed in data.draw(st.lists(st.sampled_from([record for record in records if "answer" in record]), max_size=2)):
        for record in records:
            if record.get("trajectory_id") == failed["trajectory_id"]:  # tried again after its item has left: too late
                record["error"] = "no server"
                record.pop("reason_model", None)
    part = Shard(data.draw(st.integers(0, 1)), 2) if data.draw(st.booleans()) else None
    rule = SelectionRule(alpha=data.draw(st.sampled_from([0.0, 0.5, 0.75])), keep=data.draw(st.integers(1, 3)))
    for emit in ("all", "selected"):
        whole: Any = trouble(lambda emit=emit: run(records, rule, part, emit))
        with monkeypatched_pipe():
            assert trouble(lambda emit=emit: run(records, rule, part, emit)) == whole


def trouble(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except InputError as error:
        return str(error).rpartition(": ")[2]


@contextlib.contextmanager
def monkeypatched_pipe() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RereadableInputs, "from_pipe", property(lambda self: True))
        yield


def test_items_leave_a_pipe_as_soon_as_they_are_complete(tmp_path: Path) -> None:
    rows = [
        graded(item, caption, number, 1.0, 9 - number, 3)
        for item in ("a", "b")
        for caption in range(3)
        for number in range(3)
    ]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    with subprocess.Popen(
        [*SOPHIA, "propagate", "--selected"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as step:
        assert step.stdin and step.stdout
        step.stdin.write(b"".join(lines[:9]))
        step.stdin.flush()
        assert json.loads(step.stdout.readline())["trajectory_id"] == "a/c0/t2"
        step.stdin.write(b"".join(lines[9:-1]))
        step.stdin.close()
        assert [row["trajectory_id"] for row in records_of(step.stdout.read())] == ["b/c0/t2"]
    assert step.wait() == 0


def test_a_caption_that_failed_does_not_hold_its_item_in_the_pipe() -> None:
    rows = [graded("a", caption, number, 1.0, 9 - number, 3) for caption in range(2) for number in range(3)]
    rows.insert(3, {"id": "a", "caption_id": "a/c2", "caption_count": 3, "error": "no caption"})
    with subprocess.Popen(
        [*SOPHIA, "propagate", "--selected"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as step:
        assert step.stdin and step.stdout
        step.stdin.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        step.stdin.flush()
        assert json.loads(step.stdout.readline())["trajectory_id"] == "a/c0/t2"
        step.stdin.close()
    assert step.wait() == 0


def test_what_comes_after_its_item_has_left_is_an_error_unless_it_came_before() -> None:
    rows = [graded("a", caption, number, 1.0, 9 - number, 3) for caption in range(3) for number in range(3)]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    out, _ = piped(lines + json.dumps(rows[4]).encode() + b"\n")
    assert len(out) == 10 and not out[-1]["selected"] and out[-1]["caption_reward"] == 1.0
    out, said = piped(lines + json.dumps({**rows[4], "trajectory": "other"}).encode() + b"\n", code=2)
    assert "stdin:5" in said and "stdin:10" in said
    late = {**graded("a", 0, 7, 1.0, 1, 3), "reason_model": "r1"}
    out, said = piped(lines + json.dumps(late).encode() + b"\n", code=2)
    assert len(out) == 9 and "stdin:10" in said and "already written" in said


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_files_of_several_runs_are_joined_whatever_their_form(suffix: str, tmp_path: Path) -> None:
    first = [graded("a", 0, number, 1.0, 20 - number, 3) for number in range(3)]
    second = [{**graded("a", 0, number, 1.0, 10 - number, 3), "reason_model": "r1"} for number in range(3)]
    for row in second:
        row["trajectory_id"] = row["trajectory_id"].replace("/t", "/r1.t")
    write_lines(tmp_path / "a.jsonl", first)
    packed = b"".join(json.dumps(row).encode() + b"\n\n" for row in second)
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    (tmp_path / f"b.jsonl{suffix}").write_bytes(pack(packed))
    done = sophia("propagate", "a.jsonl", f"b.jsonl{suffix}", cwd=tmp_path)
    out = records_of(done.stdout)
    assert len(out) == 6 and [row["trajectory_id"] for row in out if row["selected"]] == ["a/c0/r1.t2"]


def test_a_stdin_that_is_a_file_is_read_from_its_position(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"heading": 1}, *table(1.0, 1.0)])
    command = f"python3 -c 'import os; os.lseek(0, {len(json.dumps({'heading': 1})) + 1}, 0)' < a.jsonl; "
    command = f"{{ {command.split('<')[0]}; {' '.join(SOPHIA)} propagate --selected; }} < a.jsonl"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert [row["trajectory_id"] for row in records_of(done.stdout)] == ["q/c0/t1"]


def test_lines_are_written_unchanged_and_earlier_propagation_is_replaced(tmp_path: Path) -> None:
    odd = json.dumps(table(1.0)[0], indent=None, separators=(" ,  ", " : ")).replace('"?"', '"\\u00e9 \\/ 1.50"')
    again = json.dumps({**table(1.0, item="p")[0], "weight": 7.0, "selected": None, "mine": 1})
    (tmp_path / "a.jsonl").write_text(f"{odd}\r\n{again}\n\n", encoding="utf-8")
    first, second = sophia("propagate", "a.jsonl", cwd=tmp_path).stdout.splitlines()
    assert first == odd[:-1].encode() + b',"caption_reward":1.0,"selected":true,"weight":1.0}'
    assert list(json.loads(second))[-4:] == ["weight", "selected", "mine", "caption_reward"]
    assert json.loads(second)["weight"] == 1.0


def test_bad_lines_are_named_and_nothing_is_lost(tmp_path: Path) -> None:
    rows = [json.dumps(row).encode() for row in table(1.0, 1.0, 1.0)]
    for bad in (rows[1][:-20], rows[1].replace(b'"a"', b'"\xff"'), rows[1].replace(b"1.0", b"NaN"), b"[1]"):
        (tmp_path / "a.jsonl").write_bytes(b"\n".join([rows[0], bad, rows[2]]))
        for options in ((), ("--selected",)):
            done = sophia("propagate", "a.jsonl", *options, cwd=tmp_path, code=2)
            assert "a.jsonl:2" in done.stderr.decode() and not done.stdout
        out, said = piped(b"\n".join([rows[0], bad, rows[2]]), code=2)
        assert "stdin:2" in said


@settings(max_examples=12, deadline=None)
@given(data_sets(), st.data())
def test_a_large_file_is_read_in_blocks_by_several_as_by_one(records: list[dict[str, Any]], data: st.DataObject) -> None:
    """With blocks that end anywhere, blank lines, records with bad fields, failures, and no line break at the end."""
    lines = [json.dumps(record).encode() for record in records]
    for place in data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=3)):
        odd = [
            b"",
            b"  ",
            lines[place].replace(b'"reward": ', b'"reward": "x", "was": '),
            b'{"id": "q", "error": "no image"}',
        ]
        lines[place] = data.draw(st.sampled_from(odd))
    emit = data.draw(st.sampled_from(["all", "selected", "unsolved"]))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        file = Path(folder) / "x.jsonl"
        file.write_bytes(b"\n".join(lines) + data.draw(st.sampled_from([b"", b"\n"])))
        found = []
        for workers in (1, 2):
            patch.setattr("sophia_cli.rewards.loading.worker_count", lambda size, workers=workers: workers)
            patch.setattr("sophia_cli.rewards.loading.BLOCK_BYTES", data.draw(st.integers(60, 2000)))
            counter, output = RecordCounter(), RecordWriter("trajectory_id", None)
            out = list(
                propagate_records(
                    RereadableInputs([str(file)]), SelectionRule(alpha=0.5), Shard(), None, emit, output, counter
                )
            )
            found.append((out, counter.count, output.failed))
    assert found[0] == found[1]


def test_a_line_that_is_no_record_is_named_in_a_large_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sophia_cli.rewards.loading.worker_count", lambda size: 2)
    monkeypatch.setattr("sophia_cli.rewards.loading.BLOCK_BYTES", 500)
    lines = [json.dumps(row) for row in table(*[1.0] * 30)]
    lines[20] = lines[20][:-9]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="x.jsonl:21: not a JSON object"):
        list(
            propagate_records(
                RereadableInputs([str(tmp_path / "x.jsonl")]),
                SelectionRule(),
                Shard(),
                None,
                "all",
                RecordWriter("trajectory_id", None),
                RecordCounter(),
            )
        )


def test_a_failure_names_no_reasoner_and_holds_nothing_up(tmp_path: Path) -> None:
    """With failures as `reason` writes them, an item is complete and is written before the end of the input."""
    rows = [graded(item, 0, number, 1.0, 9 - number, 3) for item in ("a", "b") for number in range(3)]
    rows = [{**row, "caption_count": 1} for row in rows]
    rows[1] = {name: rows[1][name] for name in ("id", "caption_id", "caption_count", "trajectory_id", "trajectory_count")}
    rows[1]["error"] = "no server"
    with subprocess.Popen(
        [*SOPHIA, "propagate"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as step:
        assert step.stdin and step.stdout
        step.stdin.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows[:4]))
        step.stdin.flush()
        assert [json.loads(step.stdout.readline())["trajectory_id"] for _ in range(3)] == ["a/c0/t0", "a/c0/t1", "a/c0/t2"]
        step.stdin.close()
        assert len(records_of(step.stdout.read())) == 1
    assert step.wait() == 3


@pytest.mark.parametrize("field", ["trajectory_tokens", "caption_count", "deep", "error"])
def test_odd_fields_are_the_same_from_a_pipe_and_from_a_file(field: str, tmp_path: Path) -> None:
    rows = [{**graded("a", c, n, 1.0, 9 - n, 4), "caption_count": 2} for c in range(2) for n in range(4)]
    deep: Any = 1
    for _ in range(600):
        deep = [deep]
    rows[4] |= {"trajectory_tokens": 2.5} if field == "trajectory_tokens" else {}
    rows[4] |= {"caption_count": 5_000_000_000} if field == "caption_count" else {}
    rows[4] |= {"deep": deep} if field == "deep" else {}
    rows[4] |= {"error": False} if field == "error" else {}
    write_lines(tmp_path / "a.jsonl", rows)
    code = 3 if field in ("trajectory_tokens", "error") else 0
    whole = records_of(sophia("propagate", "a.jsonl", cwd=tmp_path, code=code).stdout)
    out, _ = piped((tmp_path / "a.jsonl").read_bytes(), code=code)
    assert len(whole) == 8 and [row.get("selected") for row in out] == [row.get("selected") for row in whole]
    assert sum("error" in row for row in out) == (code == 3) and not (field == "error" and whole[4].get("selected"))


def test_a_file_that_changes_between_the_passes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for change in (lambda text: text.replace(b'"a"', b'"b"'), lambda text: text[: len(text) // 2]):
        write_lines(file, [{**row, "trajectory_tokens": 5} for row in table(*[1.0] * 2000)])
        steps = propagate_records(
            RereadableInputs([str(file)]),
            SelectionRule(),
            Shard(),
            None,
            "all",
            RecordWriter("trajectory_id", None),
            RecordCounter(),
        )
        next(steps)
        file.write_bytes(change(file.read_bytes()))
        with pytest.raises(InputError, match="changed while it was read"):
            list(steps)


def test_a_packed_fifo_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl.gz")
    packed = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in table(1.0, 1.0)))
    with subprocess.Popen(["sh", "-c", "cat > x.jsonl.gz"], cwd=tmp_path, stdin=subprocess.PIPE) as writer:
        assert writer.stdin
        writer.stdin.write(packed)
        writer.stdin.close()
        assert len(records_of(sophia("propagate", "x.jsonl.gz", cwd=tmp_path).stdout)) == 2


@pytest.mark.parametrize("named", [True, False], ids=["names its reasoner", "names nobody"])
def test_a_failure_counts_against_its_caption_where_no_count_is_given(named: bool, tmp_path: Path) -> None:
    """Three right of four do not exceed 0.75, in every command that selects."""
    rows = [graded("q", 0, number, 1.0, 9 + number, 4) for number in range(4)]
    lost = {name: rows[3][name] for name in ("id", "caption_id", "trajectory_id", "reason_model")} | {"error": "no answer"}
    if not named:
        del lost["reason_model"]
    rows = [{name: value for name, value in row.items() if name != "trajectory_count"} for row in [*rows[:3], lost]]
    write_lines(tmp_path / "t.jsonl", rows)
    done = sophia("propagate", "t.jsonl", "--selected", cwd=tmp_path)
    assert not done.stdout and "q/c0/t3 is left out, it failed before: no answer" in done.stderr.decode()
    assert not piped((tmp_path / "t.jsonl").read_bytes(), "--selected")[0]
    figures = json.loads(sophia("stats", "t.jsonl", "--json", cwd=tmp_path).stdout)
    assert figures["selected"] == 0 and figures["solved"] == 0
    exported = sophia("export", "t.jsonl", "--to", "trl", cwd=tmp_path, code=3)
    assert not exported.stdout and "0 of 3 kept" in exported.stderr.decode()


def test_an_existing_output_stays_until_a_new_record_is_ready(tmp_path: Path) -> None:
    write_lines(tmp_path / "t.jsonl", table(1.0, 1.0))
    sophia("propagate", "t.jsonl", "-o", "o.jsonl", cwd=tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "cut.jsonl").write_bytes((tmp_path / "t.jsonl").read_bytes()[:-9])
    for inputs, said in (("none.jsonl", "none.jsonl"), ("cut.jsonl", "inputs was ['t.jsonl'], is ['cut.jsonl']")):
        refused = sophia("propagate", inputs, "-o", "o.jsonl", cwd=tmp_path, code=2)
        assert said in refused.stderr.decode()
    for inputs in ("none.jsonl", "cut.jsonl"):
        sophia("propagate", inputs, "-o", "o.jsonl", "--force", cwd=tmp_path, code=2)
        sophia("propagate", inputs, "-o", "new.jsonl", cwd=tmp_path, code=2)
    (tmp_path / "cut.jsonl").unlink()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    sophia("propagate", "t.jsonl", "-o", "o.jsonl", cwd=tmp_path)
    assert (tmp_path / "o.jsonl").read_bytes() == before["o.jsonl"]


def test_a_byte_order_mark_stays_at_the_door(tmp_path: Path) -> None:
    for name, item in (("a.jsonl", "a"), ("b.jsonl", "b")):
        write_lines(tmp_path / name, table(1.0, 1.0, item=item))
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    done = sophia("propagate", "a.jsonl", "b.jsonl", cwd=tmp_path)
    assert len(records_of(done.stdout)) == 4 and b"\xef\xbb\xbf" not in done.stdout


class CountedFile(io.BufferedReader):
    """Counts the bytes that are read."""

    handed_out = 0

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        CountedFile.handed_out += len(line)
        return line

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration


def test_a_line_far_longer_than_a_block_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that begins within the line is found empty without reading to the line's end."""
    rows = table(1.0, 1.0, 1.0)
    rows[1]["trajectory"] = "x" * 500_000
    write_lines(tmp_path / "t.jsonl", rows)
    size, found = (tmp_path / "t.jsonl").stat().st_size, list[tuple[int, bytes]]()
    monkeypatch.setattr(Path, "open", lambda self, mode, buffering: CountedFile(io.FileIO(self), buffering))
    for begin in range(0, size, 1000):
        found += loading.block_lines(str(tmp_path / "t.jsonl"), begin, min(begin + 1000, size))
    assert [offset for offset, _ in found] == [0, len(found[0][1]), len(found[0][1]) + len(found[1][1])]
    assert len(found) == 3 and size < CountedFile.handed_out < 3 * size
