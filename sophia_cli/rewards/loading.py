"""Loads JSONL lines into the table. Several processes read a large file in blocks, because skipping the texts takes the
time.

A worker decodes plain lines only. It returns nothing for a block with anything else (a bad field, a blank line, a
failure); that block is read again in this process, where errors are named.
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
"""Rows that are added at a time."""
BUFFER_BYTES = 1 << 18
"""Bytes read at a time: no more than fits into the cache of a core."""
BLOCK_BYTES = 1 << 20
"""Smallest size of a block."""
# The list of blocks stays small for files of any size.
MAX_BLOCKS = 1 << 13
PARALLEL_FILE_BYTES = 1 << 26
"""Size of a file from which worker processes are worth their start."""
# A machine with hundreds of cores must not start hundreds of processes for one file.
MAX_WORKERS = 8

NumberedLines = Iterable[tuple[int, int, bytes]]
"""Offset, line number and bytes of lines."""
Block = tuple[str, int, int, int, SelectionRule]
"""A file, the begin and the end of a block in it, the offset of the file among all inputs, and the rule."""


def load_table(lines: RereadableInputs, table: TrajectoryTable, counter: "RecordCounter") -> Iterator[tuple[int, str]]:
    """Fills the table, one row per record. Yields the rows that cannot be decoded, and their place."""
    for source in lines.iter_files():
        if (workers := worker_count(source.plain_size)) > 1:
            yield from _read_blocks(source, table, counter, workers)
        else:
            yield from _read_serially(source.read_lines(), source.name, table, counter)


def _read_blocks(
    source: RereadableFile, table: TrajectoryTable, counter: "RecordCounter", workers: int
) -> Iterator[tuple[int, str]]:
    """Reads a large file in several processes; the blocks that they skip are read here."""
    source.size, number = source.plain_size, 0
    blocks = list(split_blocks(source.path, source.offset, source.size, table.rule))
    read = forked_map(load_block, blocks, workers)
    import sophia_cli.rewards.selection  # noqa: F401  (imported now, while the workers read)

    for (path, begin, end, start, _), packed in zip(blocks, read, strict=True):
        if packed is not None:
            rows = table.extend_from_bytes(packed)
            counter.count += rows
            number += rows
            continue
        left = [(start + offset, line) for offset, line in block_lines(path, begin, end)]
        numbered = ((offset, number + index, line) for index, (offset, line) in enumerate(left, 1))
        yield from _read_serially(numbered, source.name, table, counter)
        number += len(left)


def _read_serially(
    lines: NumberedLines, name: str, table: TrajectoryTable, counter: "RecordCounter"
) -> Iterator[tuple[int, str]]:
    facts, offsets, contents = list[Trajectory](), list[int](), list[int]()

    def flush() -> None:
        table.add_rows(facts, offsets, contents)
        for column in (facts, offsets, contents):
            column.clear()

    for offset, content, row in decode_lines(lines, name):
        counter.count += 1
        if isinstance(row, Record):
            flush()
            table.add_non_trajectory(row, offset)
            if not content:
                yield len(table) - 1, row.where
            continue
        facts.append(row)
        offsets.append(offset)
        contents.append(content)
        if len(facts) == BATCH_ROWS:
            flush()
    flush()


def decode_lines(lines: NumberedLines, name: str) -> Iterator[tuple[int, int, Trajectory | Record]]:
    """Yields offset, content hash and fields of each record.

    Where the fields cannot be decoded, it yields the record itself: a failure of an earlier step unchanged with hash
    1, any other with `error` and hash 0.

    Raises:
        InputError: a line is not a JSON object.
    """
    for offset, number, line in lines:
        if facts := decode_fast(line):
            yield offset, xxh3_64_intdigest(line), facts
            continue
        if line.isspace():
            continue
        record = parse_record(line, f"{name}:{number}")
        try:
            yield offset, xxh3_64_intdigest(line), decode_checked(record)
        except RecordError as error:
            if has_failed(record):
                yield offset, 1, record
            else:
                yield offset, 0, error_record(record, str(error), {})


def worker_count(size: int) -> int:
    """Returns how many processes read a file of this size; 1 means this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS) if size >= PARALLEL_FILE_BYTES and hasattr(os, "fork") else 1


def split_blocks(path: str, start: int, size: int, rule: SelectionRule) -> Iterator[Block]:
    """Splits a file into blocks. A line belongs to the block in which it begins."""
    step = max(BLOCK_BYTES, size // MAX_BLOCKS + 1)
    for begin in range(0, size, step):
        yield path, begin, min(begin + step, size), start, rule


def block_lines(path: str, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yields offset and bytes of the lines that begin in a block, one by one, so that memory is reused."""
    with Path(path).open("rb", buffering=BUFFER_BYTES) as stream:
        stream.seek(max(begin - 1, 0))
        # Bounded, because the line may be far longer than the block.
        before = b"\n" if begin == 0 else stream.readline(end - begin + 1)
        offset = begin if begin == 0 else begin - 1 + len(before)
        for line in stream if before.endswith(b"\n") and offset < end else ():
            yield offset, line
            offset += len(line)
            if offset >= end:
                return


def load_block(block: Block) -> dict[str, bytes] | None:
    """Returns the columns of a block, or None when a line needs `decode_checked`. Runs in a worker."""
    path, begin, end, start, rule = block
    table = TrajectoryTable(rule)
    facts, offsets, contents = list[Trajectory](), list[int](), list[int]()
    try:
        for offset, line in block_lines(path, begin, end):
            if (row := decode_fast(line)) is None:
                return None
            facts.append(row)
            offsets.append(start + offset)
            contents.append(xxh3_64_intdigest(line))
        table.add_rows(facts, offsets, contents)
    except Exception:  # noqa: BLE001  (raised again, with its place, when the block is read serially)
        return None
    return table.to_bytes()


def make_lookup(lines: RereadableInputs, table: TrajectoryTable) -> RecordLookup:
    """Returns the functions that read again what the columns do not hold."""

    def names(rows: list[int]) -> Iterator[str]:
        return (parse_record(line, "")["trajectory_id"] for line in lines.lines_at(table.offsets[row] for row in rows))

    def digests(rows: list[int]) -> Iterator[int]:
        records = (parse_record(line, "") for line in lines.lines_at(table.offsets[row] for row in rows))
        return map(content_hash, records)

    return RecordLookup(names, digests, lambda row: lines.location_of(table.offsets[row]))
