"""Preference pairs for DPO and MPO: a correct and a wrong trajectory of the same item.

Of an item's correct trajectories, those that Eq. 6 keeps come first, then the shorter ones. The wrong ones (reward 0,
whatever the verdict) are drawn by the seed. How a trainer uses a pair is not here.
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
    """Yields (correct, wrong) records, at most `per_item` pairs of an item, each trajectory once.

    Raises:
        InputError: a line is neither a graded trajectory nor a failure, or one trajectory id has two contents.
    """
    table = TrajectoryTable(rule)
    for row, where in load_table(lines, table, counter):
        (line,) = lines.lines_at([table.offsets[row]])
        _raise_input_error(parse_record(line, where))
    mine = rows_in_shard(table, part, None)
    selected = select_trajectories(table, mine, make_lookup(lines, table)).selected
    right, wrong = paired_rows(table, mine, selected, per_item)
    waiting: dict[int, Record] = {}
    rows = np.sort(np.concatenate([right, wrong]))
    other = dict(zip(np.r_[right, wrong].tolist(), np.r_[wrong, right].tolist(), strict=True))
    chosen = set(right.tolist())
    for row, line in zip(rows.tolist(), lines.lines_at(table.offsets[row] for row in rows), strict=True):
        record, partner = parse_record(line, "?"), waiting.pop(other[row], None)
        if partner is None:
            waiting[row] = record
        else:
            yield (record, partner) if row in chosen else (partner, record)


def _raise_input_error(record: Record) -> None:
    try:
        decode_checked(record)
    except RecordError as error:
        raise InputError(str(error)) from None


def paired_rows(table: TrajectoryTable, mine: Bools, selected: Bools, per_item: int) -> tuple[Rows, Rows]:
    """Returns the rows of correct trajectories and, parallel to them, the rows of wrong ones."""
    names, rewards, items = as_numpy(table.names), as_numpy(table.rewards), as_numpy(table.items)
    rows = np.flatnonzero(mine & (as_numpy(table.marks) & (NOT_TRAJECTORY | FAILED) == 0))
    rows = rows[np.sort(np.unique(names[rows], return_index=True)[1])]
    right, wrong = rows[rewards[rows] == 1.0], rows[rewards[rows] == 0.0]
    right = right[np.lexsort((names[right], as_numpy(table.sort_keys)[right], ~selected[right], items[right]))]
    wrong = wrong[np.lexsort((_random_keys(names[wrong], table.rule.seed), items[wrong]))]
    right, wrong = (of[_rank_in_item(items[of]) < per_item] for of in (right, wrong))
    _, ours, theirs = np.intersect1d(_slot_ids(items[right]), _slot_ids(items[wrong]), return_indices=True)
    return right[ours], wrong[theirs]


def _rank_in_item(items: npt.NDArray[np.uint64]) -> Rows:
    """Returns the position of each row within its item's run, from 0."""
    starts = np.flatnonzero(np.r_[True, items[1:] != items[:-1]]) if len(items) else np.empty(0, np.int64)
    lengths = np.diff(np.r_[starts, len(items)])
    return np.arange(len(items)) - np.repeat(starts, lengths)


def _slot_ids(items: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns 64 bits for each pair of an item and a position in its run."""
    named: npt.NDArray[np.uint64] = items + _rank_in_item(items).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return named


def _random_keys(names: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Returns random draws that depend on the seed and the trajectory only."""
    mixed = (names ^ np.uint64(seed % (1 << 64))) * np.uint64(0xBF58476D1CE4E5B9)
    lots: npt.NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    return lots
