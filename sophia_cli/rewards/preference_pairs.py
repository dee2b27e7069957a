"""Preference data from graded trajectories: right ones beside wrong ones of the same item (DPO, MPO).

Of an item's right trajectories those that Eq. 6 keeps come first, then the shorter ones; the wrong ones (reward 0, whatever
the verdict) are drawn by the seed. Left out of this file: what a trainer makes of a pair.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sophia_cli.errors import InputError, RecordError
from sophia_cli.io.counter import Counter
from sophia_cli.io.jsonl import record_of
from sophia_cli.io.rereadable import Lines
from sophia_cli.io.shards import Shard
from sophia_cli.records import Record
from sophia_cli.rewards.loading import lookup, read_all
from sophia_cli.rewards.selection import Bools, Rows, choose, rows_of, view
from sophia_cli.rewards.table import BARE, FAILED, TrajectoryTable
from sophia_cli.rewards.trajectory import Rule, read_trajectory


def preference_pairs(
    lines: Lines, rule: Rule, per_item: int, part: Shard, counter: Counter
) -> Iterator[tuple[Record, Record]]:
    """(right, wrong), at most `per_item` of an item, no trajectory twice, of this shard's items.

    Raises InputError for a line without a graded trajectory or an earlier step's failure on it, and for one trajectory id
    with two contents.
    """
    ledger = TrajectoryTable(rule)
    for row, where in read_all(lines, ledger, counter):
        (line,) = lines.at([ledger.places[row]])
        _refuse(record_of(line, where))
    mine = rows_of(ledger, part, None)
    selected = choose(ledger, mine, lookup(lines, ledger)).selected
    right, wrong = paired_rows(ledger, mine, selected, per_item)
    waiting: dict[int, Record] = {}
    rows = np.sort(np.concatenate([right, wrong]))
    other = dict(zip(np.r_[right, wrong].tolist(), np.r_[wrong, right].tolist(), strict=True))
    chosen = set(right.tolist())
    for row, line in zip(rows.tolist(), lines.at(ledger.places[row] for row in rows), strict=True):
        record, fellow = record_of(line, "?"), waiting.pop(other[row], None)
        if fellow is None:
            waiting[row] = record
        else:
            yield (record, fellow) if row in chosen else (fellow, record)


def _refuse(record: Record) -> None:
    try:
        read_trajectory(record)
    except RecordError as error:
        raise InputError(str(error)) from None


def paired_rows(ledger: TrajectoryTable, mine: Bools, selected: Bools, per_item: int) -> tuple[Rows, Rows]:
    """Rows of right trajectories, and beside each that of a wrong one of its item."""
    names, rewards, items = view(ledger.names), view(ledger.rewards), view(ledger.items)
    rows = np.flatnonzero(mine & (view(ledger.marks) & (BARE | FAILED) == 0))
    rows = rows[np.sort(np.unique(names[rows], return_index=True)[1])]
    right, wrong = rows[rewards[rows] == 1.0], rows[rewards[rows] == 0.0]
    right = right[np.lexsort((names[right], view(ledger.keys)[right], ~selected[right], items[right]))]
    wrong = wrong[np.lexsort((_lots(names[wrong], ledger.rule.seed), items[wrong]))]
    right, wrong = (of[_rank(items[of]) < per_item] for of in (right, wrong))
    _, ours, theirs = np.intersect1d(_places(items[right]), _places(items[wrong]), return_indices=True)
    return right[ours], wrong[theirs]


def _rank(items: npt.NDArray[np.uint64]) -> Rows:
    """The place of each row within its item's run, counted from 0."""
    starts = np.flatnonzero(np.r_[True, items[1:] != items[:-1]]) if len(items) else np.empty(0, np.int64)
    lengths = np.diff(np.r_[starts, len(items)])
    return np.arange(len(items)) - np.repeat(starts, lengths)


def _places(items: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 bits that stand for an item and a place in its run."""
    named: npt.NDArray[np.uint64] = items + _rank(items).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return named


def _lots(names: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """A draw that depends on the seed and the trajectory alone."""
    mixed = (names ^ np.uint64(seed % (1 << 64))) * np.uint64(0xBF58476D1CE4E5B9)
    lots: npt.NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    return lots
