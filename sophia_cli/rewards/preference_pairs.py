"""Preference data from graded trajectories: right ones beside wrong ones of the same item (DPO, MPO).

Of an item's right trajectories those that Eq. 6 keeps come first, then the shorter ones; the wrong ones (reward 0, whatever
the verdict) are drawn by the seed. Left out of this file: what a trainer makes of a pair.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sophia_cli.errors import InputError, RecordError
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.jsonl import parse_record
from sophia_cli.io.rereadable import RereadableInputs
from sophia_cli.io.shards import Shard
from sophia_cli.records import Record
from sophia_cli.rewards.loading import load_table, make_lookup
from sophia_cli.rewards.selection import Bools, Rows, as_numpy, rows_in_shard, select_trajectories
from sophia_cli.rewards.table import FAILED, NOT_TRAJECTORY, TrajectoryTable
from sophia_cli.rewards.trajectory import SelectionRule, decode_checked


def preference_pairs(
    lines: RereadableInputs, rule: SelectionRule, per_item: int, part: Shard, counter: RecordCounter
) -> Iterator[tuple[Record, Record]]:
    """(right, wrong), at most `per_item` of an item, no trajectory twice, of this shard's items.

    Raises InputError for a line without a graded trajectory or an earlier step's failure on it, and for one trajectory id
    with two contents.
    """
    ledger = TrajectoryTable(rule)
    for row, where in load_table(lines, ledger, counter):
        (line,) = lines.lines_at([ledger.offsets[row]])
        _raise_input_error(parse_record(line, where))
    mine = rows_in_shard(ledger, part, None)
    selected = select_trajectories(ledger, mine, make_lookup(lines, ledger)).selected
    right, wrong = paired_rows(ledger, mine, selected, per_item)
    waiting: dict[int, Record] = {}
    rows = np.sort(np.concatenate([right, wrong]))
    other = dict(zip(np.r_[right, wrong].tolist(), np.r_[wrong, right].tolist(), strict=True))
    chosen = set(right.tolist())
    for row, line in zip(rows.tolist(), lines.lines_at(ledger.offsets[row] for row in rows), strict=True):
        record, fellow = parse_record(line, "?"), waiting.pop(other[row], None)
        if fellow is None:
            waiting[row] = record
        else:
            yield (record, fellow) if row in chosen else (fellow, record)


def _raise_input_error(record: Record) -> None:
    try:
        decode_checked(record)
    except RecordError as error:
        raise InputError(str(error)) from None


def paired_rows(ledger: TrajectoryTable, mine: Bools, selected: Bools, per_item: int) -> tuple[Rows, Rows]:
    """Rows of right trajectories, and beside each that of a wrong one of its item."""
    names, rewards, items = as_numpy(ledger.names), as_numpy(ledger.rewards), as_numpy(ledger.items)
    rows = np.flatnonzero(mine & (as_numpy(ledger.marks) & (NOT_TRAJECTORY | FAILED) == 0))
    rows = rows[np.sort(np.unique(names[rows], return_index=True)[1])]
    right, wrong = rows[rewards[rows] == 1.0], rows[rewards[rows] == 0.0]
    right = right[np.lexsort((names[right], as_numpy(ledger.sort_keys)[right], ~selected[right], items[right]))]
    wrong = wrong[np.lexsort((_random_keys(names[wrong], ledger.rule.seed), items[wrong]))]
    right, wrong = (of[_rank_in_item(items[of]) < per_item] for of in (right, wrong))
    _, ours, theirs = np.intersect1d(_slot_ids(items[right]), _slot_ids(items[wrong]), return_indices=True)
    return right[ours], wrong[theirs]


def _rank_in_item(items: npt.NDArray[np.uint64]) -> Rows:
    """The place of each row within its item's run, counted from 0."""
    starts = np.flatnonzero(np.r_[True, items[1:] != items[:-1]]) if len(items) else np.empty(0, np.int64)
    lengths = np.diff(np.r_[starts, len(items)])
    return np.arange(len(items)) - np.repeat(starts, lengths)


def _slot_ids(items: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 bits that stand for an item and a place in its run."""
    named: npt.NDArray[np.uint64] = items + _rank_in_item(items).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return named


def _random_keys(names: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """A draw that depends on the seed and the trajectory alone."""
    mixed = (names ^ np.uint64(seed % (1 << 64))) * np.uint64(0xBF58476D1CE4E5B9)
    lots: npt.NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    return lots
