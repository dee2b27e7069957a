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
from sophia_cli.io.jsonl import record_of
from sophia_cli.io.rereadable import Input, Lines
from sophia_cli.records import Record, failed, has_failed
from sophia_cli.rewards.table import TrajectoryTable, Lookup, content_of
from sophia_cli.rewards.trajectory import Rule, Trajectory, facts_of, read_trajectory
from sophia_cli.runtime.fork_map import forked_map

if TYPE_CHECKING:  # a worker's start is part of what it costs
    from sophia_cli.io.counter import Counter
AT_ONCE = 1024
"""Rows that are noted together."""
BUFFER = 1 << 18
"""Bytes that are read at once: no more than stays in a core's own cache."""
BLOCK = 1 << 20
"""Bytes of a block, at least."""
MOST_BLOCKS = 1 << 13
LARGE_FILE = 1 << 26
"""Bytes of a file that is worth the start of workers."""
MOST_WORKERS = 8

Numbered = Iterable[tuple[int, int, bytes]]
"""Place, number and bytes of lines."""
Block = tuple[str, int, int, int, Rule]
"""A file, where a block of it begins and ends, the place of the file's first byte among all inputs, and the rule."""


def read_all(lines: Lines, ledger: TrajectoryTable, counter: "Counter") -> Iterator[tuple[int, str]]:
    """Fills the ledger, a row for each record; yields the rows of which no facts can be read, and where they stand."""
    for source in lines.sources():
        if (workers := workers_for(source.named_size)) > 1:
            yield from _read_blocks(source, ledger, counter, workers)
        else:
            yield from _read(source.lines(), source.name, ledger, counter)


def _read_blocks(source: Input, ledger: TrajectoryTable, counter: "Counter", workers: int) -> Iterator[tuple[int, str]]:
    """The rows of a large file, read by several processes; what they leave alone is read here."""
    source.size, number = source.named_size, 0
    blocks = list(blocks_of(source.path, source.start, source.size, ledger.rule))
    read = forked_map(read_block, blocks, workers)
    import sophia_cli.rewards.selection  # noqa: F401  (needed next, and it takes a while: the others read meanwhile)

    for (path, begin, end, start, _), packed in zip(blocks, read, strict=True):
        if packed is not None:
            rows = ledger.extend(packed)
            counter.count += rows
            number += rows
            continue
        left = [(start + offset, line) for offset, line in lines_of(path, begin, end)]
        numbered = ((place, number + index, line) for index, (place, line) in enumerate(left, 1))
        yield from _read(numbered, source.name, ledger, counter)
        number += len(left)


def _read(lines: Numbered, name: str, ledger: TrajectoryTable, counter: "Counter") -> Iterator[tuple[int, str]]:
    facts, places, contents = list[Trajectory](), list[int](), list[int]()

    def settle() -> None:
        ledger.add(facts, places, contents)
        for column in (facts, places, contents):
            column.clear()

    for place, content, row in read_facts(lines, name):
        counter.count += 1
        if isinstance(row, Record):
            settle()
            ledger.add_non_trajectory(row, place)
            if not content:
                yield len(ledger) - 1, row.where
            continue
        facts.append(row)
        places.append(place)
        contents.append(content)
        if len(facts) == AT_ONCE:
            settle()
    settle()


def read_facts(lines: Numbered, name: str) -> Iterator[tuple[int, int, Trajectory | Record]]:
    """Place, hash and facts of each record of an input of this name.

    Where no facts can be read, the record itself: an earlier step's failure as it came, and 1 for a hash; any other with
    `error`, and 0. Raises InputError for a line that is no JSON object.
    """
    for place, number, line in lines:
        if facts := facts_of(line):
            yield place, xxh3_64_intdigest(line), facts
            continue
        if line.isspace():
            continue
        record = record_of(line, f"{name}:{number}")
        try:
            yield place, xxh3_64_intdigest(line), read_trajectory(record)
        except RecordError as error:
            if has_failed(record):
                yield place, 1, record
            else:
                yield place, 0, failed(record, str(error), {})


def workers_for(size: int) -> int:
    """How many processes read a file of so many bytes; 1: this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS) if size >= LARGE_FILE and hasattr(os, "fork") else 1


def blocks_of(path: str, start: int, size: int, rule: Rule) -> Iterator[Block]:
    """A file in blocks. A line belongs to the block in which it begins."""
    step = max(BLOCK, size // MOST_BLOCKS + 1)
    for begin in range(0, size, step):
        yield path, begin, min(begin + step, size), start, rule


def lines_of(path: str, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of the lines that begin in a block; one by one, so that a block's memory is used again and again."""
    with Path(path).open("rb", buffering=BUFFER) as stream:
        stream.seek(max(begin - 1, 0))
        before = b"\n" if begin == 0 else stream.readline(end - begin + 1)  # no more: the line may be far longer
        offset = begin if begin == 0 else begin - 1 + len(before)
        for line in stream if before.endswith(b"\n") and offset < end else ():
            yield offset, line
            offset += len(line)
            if offset >= end:
                return


def read_block(block: Block) -> dict[str, bytes] | None:
    """The columns of a block's rows; None when any line of it is to be read with care. What a worker does."""
    path, begin, end, start, rule = block
    ledger = TrajectoryTable(rule)
    facts, places, contents = list[Trajectory](), list[int](), list[int]()
    try:
        for offset, line in lines_of(path, begin, end):
            if (row := facts_of(line)) is None:
                return None
            facts.append(row)
            places.append(start + offset)
            contents.append(xxh3_64_intdigest(line))
        ledger.add(facts, places, contents)
    except Exception:  # noqa: BLE001  (whatever it is, it is met again where it is named)
        return None
    return ledger.packed()


def lookup(lines: Lines, ledger: TrajectoryTable) -> Lookup:
    """What the columns do not hold is read again."""

    def names(rows: list[int]) -> Iterator[str]:
        return (record_of(line, "")["trajectory_id"] for line in lines.at(ledger.places[row] for row in rows))

    def digests(rows: list[int]) -> Iterator[int]:
        records = (record_of(line, "") for line in lines.at(ledger.places[row] for row in rows))
        return map(content_of, records)

    return Lookup(names, digests, lambda row: lines.where_of(ledger.places[row]))
