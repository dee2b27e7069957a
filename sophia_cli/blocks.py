"""The facts of a large file, read in blocks by several processes: what costs time is to step over the texts.

A worker reads only what is plainly sound. Of a block with anything else in it (a bad field, a blank line, a failure) it says
nothing, and that block is read line by line where errors are named.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from sophia_cli.rewards import LARGE, Ledger, Rule, Trajectory
from sophia_cli.streams import BUFFER

BLOCK = 1 << 22
"""Bytes of a block."""
LARGE_FILE = 1 << 28
"""Bytes of a file that is worth the start of workers: a quarter of a second each."""
MOST_WORKERS = 8

Block = tuple[str, int, int, int, Rule]
"""A file, where a block of it begins and ends, the place of the file's first byte among all inputs, and the rule."""

Columns = dict[str, bytes]


def workers_for(size: int) -> int:
    """How many processes read a file of so many bytes; 1: this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if size < LARGE_FILE else min(cores, MOST_WORKERS)


def blocks_of(path: str, start: int, size: int, rule: Rule) -> Iterator[Block]:
    """A file in blocks. A line belongs to the block in which it begins."""
    for begin in range(0, size, BLOCK):
        yield path, begin, min(begin + BLOCK, size), start, rule


def lines_of(path: str, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of the lines that begin in a block."""
    with Path(path).open("rb", buffering=BUFFER) as stream:
        stream.seek(max(begin - 1, 0))
        offset = begin if begin == 0 else begin - 1 + len(stream.readline())
        for line in stream if offset < end else ():
            yield offset, line
            offset += len(line)
            if offset >= end:
                return


def is_sound(facts: Trajectory) -> bool:
    """Whether the facts are what `read_trajectory` takes; it says what is wrong with others."""
    planned, captions = facts.planned, facts.captions
    sizes = 0 < facts.tokens < LARGE and (planned is msgspec.UNSET or 0 < planned < LARGE)
    sizes = sizes and (captions is msgspec.UNSET or 0 < captions < LARGE)
    return bool(sizes and facts.name and facts.item and facts.caption and not facts.error)


def read_block(block: Block) -> Columns | None:
    """The columns of a block's rows; None when any line of it is to be read with care. What a worker does."""
    path, begin, end, start, rule = block
    decode = _decoder()
    ledger = Ledger(rule)
    facts, places, contents = list[Trajectory](), list[int](), list[int]()
    try:
        for offset, line in lines_of(path, begin, end):
            row = decode(line)
            if not (is_sound(row) and (line.isascii() or line.decode())):
                return None
            facts.append(row)
            places.append(start + offset)
            contents.append(xxh3_64_intdigest(line))
        ledger.add(facts, places, contents)
    except Exception:  # noqa: BLE001  (whatever it is, it is met again where it is named)
        return None
    return ledger.packed()


@lru_cache(maxsize=1)
def _decoder() -> Any:
    return msgspec.json.Decoder(Trajectory).decode
