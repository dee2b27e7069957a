"""From lines to the rows of a ledger. A large file is read in blocks by several processes: what costs time is to step over
the texts.

A worker reads only what is plainly sound. Of a block with anything else in it (a bad field, a blank line, a failure) it says
nothing, and that block is read here, where errors are named.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from sophia_cli.errors import RecordError
from sophia_cli.io.jsonl import parse_record
from sophia_cli.io.rereadable import RereadableFile, RereadableInputs
from sophia_cli.records import Record, error_record, has_failed
from sophia_cli.rewards.table import RecordLookup, TrajectoryTable, content_hash
from sophia_cli.rewards.trajectory import SelectionRule, Trajectory, decode_checked, decode_fast
from sophia_cli.runtime.fork_map import forked_map

if TYPE_CHECKING:  # a worker's start is part of what it costs
    from sophia_cli.io.counter import RecordCounter
BATCH_ROWS = 1024
"""Rows that are noted together."""
BUFFER_BYTES = 1 << 18
"""Bytes that are read at once: no more than stays in a core's own cache."""
BLOCK_BYTES = 1 << 20
"""Bytes of a block, at least."""
MAX_BLOCKS = 1 << 13
PARALLEL_FILE_BYTES = 1 << 26
"""Bytes of a file that is worth the start of workers."""
MAX_WORKERS = 8

NumberedLines = Iterable[tuple[int, int, bytes]]
"""Place, number and bytes of lines."""
Block = tuple[str, int, int, int, SelectionRule]
"""A file, where a block of it begins and ends, the place of the file's first byte among all inputs, and the rule."""


def load_table(lines: RereadableInputs, ledger: TrajectoryTable, counter: "RecordCounter") -> Iterator[tuple[int, str]]:
    """Fills the ledger, a row for each record; yields the rows of which no facts can be read, and where they stand."""
    for source in lines.iter_files():
        if (workers := worker_count(source.plain_size)) > 1:
            yield from _read_blocks(source, ledger, counter, workers)
        else:
            yield from _read_serially(source.read_lines(), source.name, ledger, counter)


def _read_blocks(
    source: RereadableFile, ledger: TrajectoryTable, counter: "RecordCounter", workers: int
) -> Iterator[tuple[int, str]]:
    """The rows of a large file, read by several processes; what they leave alone is read here."""
    source.size, number = source.plain_size, 0
    blocks = list(split_blocks(source.path, source.offset, source.size, ledger.rule))
    read = forked_map(load_block, blocks, workers)
    import sophia_cli.rewards.selection  # noqa: F401  (needed next, and it takes a while: the others read meanwhile)

    for (path, begin, end, start, _), packed in zip(blocks, read, strict=True):
        if packed is not None:
            rows = ledger.extend_from_bytes(packed)
            counter.count += rows
            number += rows
            continue
        left = [(start + offset, line) for offset, line in block_lines(path, begin, end)]
        numbered = ((place, number + index, line) for index, (place, line) in enumerate(left, 1))
        yield from _read_serially(numbered, source.name, ledger, counter)
        number += len(left)


def _read_serially(
    lines: NumberedLines, name: str, ledger: TrajectoryTable, counter: "RecordCounter"
) -> Iterator[tuple[int, str]]:
    facts, places, contents = list[Trajectory](), list[int](), list[int]()

    def flush() -> None:
        ledger.add_rows(facts, places, contents)
        for column in (facts, places, contents):
            column.clear()

    for place, content, row in decode_lines(lines, name):
        counter.count += 1
        if isinstance(row, Record):
            flush()
            ledger.add_non_trajectory(row, place)
            if not content:
                yield len(ledger) - 1, row.where
            continue
        facts.append(row)
        places.append(place)
        contents.append(content)
        if len(facts) == BATCH_ROWS:
            flush()
    flush()


def decode_lines(lines: NumberedLines, name: str) -> Iterator[tuple[int, int, Trajectory | Record]]:
    """Place, hash and facts of each record of an input of this name.

    Where no facts can be read, the record itself: an earlier step's failure as it came, and 1 for a hash; any other with
    `error`, and 0. Raises InputError for a line that is no JSON object.
    """
    for place, number, line in lines:
        if facts := decode_fast(line):
            yield place, xxh3_64_intdigest(line), facts
            continue
        if line.isspace():
            continue
        record = parse_record(line, f"{name}:{number}")
        try:
            yield place, xxh3_64_intdigest(line), decode_checked(record)
        except RecordError as error:
            if has_failed(record):
                yield place, 1, record
            else:
                yield place, 0, error_record(record, str(error), {})


def worker_count(size: int) -> int:
    """How many processes read a file of so many bytes; 1: this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS) if size >= PARALLEL_FILE_BYTES and hasattr(os, "fork") else 1


def split_blocks(path: str, start: int, size: int, rule: SelectionRule) -> Iterator[Block]:
    """A file in blocks. A line belongs to the block in which it begins."""
    step = max(BLOCK_BYTES, size // MAX_BLOCKS + 1)
    for begin in range(0, size, step):
        yield path, begin, min(begin + step, size), start, rule


def block_lines(path: str, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of the lines that begin in a block; one by one, so that a block's memory is used again and again."""
    with Path(path).open("rb", buffering=BUFFER_BYTES) as stream:
        stream.seek(max(begin - 1, 0))
        before = b"\n" if begin == 0 else stream.readline(end - begin + 1)  # no more: the line may be far longer
        offset = begin if begin == 0 else begin - 1 + len(before)
        for line in stream if before.endswith(b"\n") and offset < end else ():
            yield offset, line
            offset += len(line)
            if offset >= end:
                return


def load_block(block: Block) -> dict[str, bytes] | None:
    """The columns of a block's rows; None when any line of it is to be read with care. What a worker does."""
    path, begin, end, start, rule = block
    ledger = TrajectoryTable(rule)
    facts, places, contents = list[Trajectory](), list[int](), list[int]()
    try:
        for offset, line in block_lines(path, begin, end):
            if (row := decode_fast(line)) is None:
                return None
            facts.append(row)
            places.append(start + offset)
            contents.append(xxh3_64_intdigest(line))
        ledger.add_rows(facts, places, contents)
    except Exception:  # noqa: BLE001  (whatever it is, it is met again where it is named)
        return None
    return ledger.to_bytes()


def make_lookup(lines: RereadableInputs, ledger: TrajectoryTable) -> RecordLookup:
    """What the columns do not hold is read again."""

    def names(rows: list[int]) -> Iterator[str]:
        return (parse_record(line, "")["trajectory_id"] for line in lines.lines_at(ledger.offsets[row] for row in rows))

    def digests(rows: list[int]) -> Iterator[int]:
        records = (parse_record(line, "") for line in lines.lines_at(ledger.offsets[row] for row in rows))
        return map(content_hash, records)

    return RecordLookup(names, digests, lambda row: lines.location_of(ledger.offsets[row]))
