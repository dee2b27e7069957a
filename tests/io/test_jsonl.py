"""Tests of reading and writing JSONL: every compression, every shard, unchanged lines."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from helpers.commands import records_of, sophia, write_lines
from hypothesis import given
from hypothesis import strategies as st

from sophia_cli.errors import InputError, UsageError
from sophia_cli.io.jsonl import load_json, parse_records, read_records, to_line
from sophia_cli.io.shards import Shard

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6))
def test_a_record_survives_the_way_out_and_in(record: dict) -> None:
    line = to_line(record)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert load_json(line) == record
    assert list(load_json(line)) == list(record)


def test_an_integer_beyond_64_bits_keeps_its_digits() -> None:
    line = b'{"big":123456789012345678901234567890,"small":1}\n'
    assert to_line(next(parse_records([line], "x"))) == b'{"big": 123456789012345678901234567890, "small": 1}\n'


@pytest.mark.parametrize(
    "line", [b'{"a": NaN}\n', b'{"a": 12345678901234567890, "b": Infinity}\n', b"3\n", b'"text"\n', b"{\n", b"\xff\n"]
)
def test_a_line_that_is_no_json_object_is_named(line: bytes) -> None:
    with pytest.raises(InputError, match=r"^some\.jsonl:2: "):
        list(parse_records([b'{"id": "a"}\n', line], "some.jsonl"))


def test_empty_lines_and_a_byte_order_mark_are_no_records() -> None:
    assert list(parse_records([b'\xef\xbb\xbf{"id":"a"}\n', b"\n", b'{"id":"b"}'], "x")) == [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize("name", ["some.jsonl.gz", "some.jsonl.zst"])
def test_a_compressed_file_that_is_cut_off_is_an_error_and_not_a_short_file(name: str, tmp_path: Path) -> None:
    rows = b"".join(to_line({"id": str(number), "text": json.dumps([number] * 50)}) for number in range(500))
    whole = gzip.compress(rows) if name.endswith(".gz") else zstandard.compress(rows)
    (tmp_path / name).write_bytes(whole)
    assert len(list(read_records([str(tmp_path / name)]))) == 500
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=name):
        list(read_records([str(tmp_path / name)]))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_the_name_decides_the_compression(suffix: str, lab: Path, tmp_path: Path) -> None:
    out = tmp_path / f"traj.jsonl{suffix}"
    sophia("grade", "raw.jsonl", "-o", str(out), cwd=lab)
    again = sophia("grade", str(out), cwd=lab).stdout
    assert again == (lab / "traj.jsonl").read_bytes()
    assert out.read_bytes()[:2] == {"": b'{"', ".gz": b"\x1f\x8b", ".zst": b"\x28\xb5"}[suffix]


@given(st.integers(1, 7), st.integers(0, 40), st.none() | st.integers(1, 50))
def test_the_union_of_the_shards_is_the_whole(count: int, rows: int, limit: int | None) -> None:
    parts = [list(Shard(index, count).take(range(rows))) for index in range(count)]
    assert sorted(row for part in parts for row in part) == list(range(rows))
    assert len(list(Shard(0, count).take(range(rows), limit))) == min(len(parts[0]), limit if limit is not None else rows)


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "0/0", "a/b", "0/2/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)


def test_the_users_own_columns_reach_the_end_in_their_order(tmp_path: Path) -> None:
    mine = {"zebra": 1, "id": "q1", "subject": {"deep": [1, "二"]}, "question": "1+1?", "answer": "2"}
    row = {**mine, "caption_id": "q1/c0", "trajectory_id": "q1/c0/t0", "trajectory": "\\boxed{2}", "trajectory_tokens": 3}
    write_lines(tmp_path / "in.jsonl", [row])
    graded = sophia("grade", "in.jsonl", cwd=tmp_path).stdout
    final = records_of(sophia("propagate", cwd=tmp_path, stdin=graded).stdout)[0]
    assert {field: final[field] for field in mine} == mine
    assert list(final)[: len(row)] == list(row)
    assert final["weight"] == 1.0
