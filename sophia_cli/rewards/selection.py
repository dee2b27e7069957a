"""Eq. 5 and Eq. 6: the reward of each caption, and which trajectories are kept, over the columns of the table."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sophia_cli.errors import InputError
from sophia_cli.io.shards import Shard
from sophia_cli.rewards.table import (
    CUT,
    EARLY_STOP,
    FAILED,
    LEAKS,
    NO_REASONER,
    NOT_TRAJECTORY,
    TAGGED,
    RecordLookup,
    TrajectoryTable,
)
from sophia_cli.rewards.trajectory import SelectionRule, Trajectory, passes_alpha

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """The result, row by row: R(c) of its caption (NaN if none), whether it is kept, whether anything of its item is
    kept.
    """

    rewards: Floats
    selected: Bools
    solved: Bools


@dataclass(frozen=True)
class CaptionGroups:
    """The trajectories in the shard, each once, grouped by caption and reasoner.

    Attributes:
        rows: The rows of the trajectories.
        ids: The id of each group, ascending.
        index: The group of each trajectory.
        rewards: R(y) of each trajectory; NaN where there is no evidence.
        planned: N of each group, or the number of its trajectories if that is larger.
        given_up: Whether early stop gave the group up.
    """

    rows: Rows
    ids: npt.NDArray[Any]
    index: Rows
    rewards: Floats
    planned: Rows
    given_up: Bools

    def sum(self, values: npt.NDArray[Any]) -> Floats:
        """Returns the sum of the trajectories' values in each group."""
        return np.bincount(self.index, weights=values, minlength=len(self.ids)).astype(np.float64)


def select_trajectories(table: TrajectoryTable, in_shard: Bools, lookup: RecordLookup) -> Selection:
    """Applies Eq. 5 and Eq. 6 to the rows in the shard. A trajectory counts once, however often its record occurs.

    Raises:
        InputError: one trajectory id has two contents, or a mean cannot be known.
    """
    rule, row_groups = table.rule, caption_reasoner_ids(as_numpy(table.captions), _row_reasoners(table, in_shard))
    groups = group_trajectories(table, in_shard, row_groups, lookup)
    right, graded = groups.sum(np.nan_to_num(groups.rewards)), groups.sum(~np.isnan(groups.rewards))
    with np.errstate(invalid="ignore"):
        means = np.where(groups.given_up, np.nan, right / graded)  # Eq. 5: R(c)
        eligible = passes_alpha(right, groups.planned, rule.alpha)
        if rule.min_graded is not None:
            eligible = passes_alpha(right, graded, rule.alpha) & (graded >= max(rule.min_graded, 1))
    qualify = _qualifying_trajectories(table, groups, eligible & ~groups.given_up)
    kept = keep_smallest(table, groups.rows[qualify], lookup)  # Eq. 6: the shortest right y with R(c) > α
    return _row_by_row(table, in_shard, row_groups, groups, means, kept)


def group_trajectories(
    table: TrajectoryTable, in_shard: Bools, row_groups: npt.NDArray[Any], lookup: RecordLookup
) -> CaptionGroups:
    """Returns the trajectories in the shard by caption and reasoner.

    Raises:
        InputError: one trajectory id has two contents, or an early-stopped caption has several runs.
    """
    rows = np.flatnonzero(in_shard & (as_numpy(table.marks) & NOT_TRAJECTORY == 0))
    rows = rows[_first_rows(table, rows, lookup)]
    ids, index = np.unique(row_groups[rows], return_inverse=True)
    existing, planned = np.bincount(index, minlength=len(ids)), planned_counts(table, rows, index, len(ids))
    given_up = _given_up_captions(table, rows, index, existing, planned, lookup)
    rewards = as_numpy(table.rewards)[rows].astype(np.float64)
    # α compares with all planned samples: one that is missing or ungraded counts as not right.
    return CaptionGroups(rows, ids, index, rewards, np.maximum(planned, existing), given_up)


def _row_by_row(
    table: TrajectoryTable, in_shard: Bools, row_groups: npt.NDArray[Any], groups: CaptionGroups, means: Floats, kept: Rows
) -> Selection:
    rewards, selected = np.full(len(table), np.nan), np.zeros(len(table), dtype=np.bool_)
    selected[kept] = True
    if len(groups.ids):
        found = np.searchsorted(groups.ids, row_groups).clip(max=len(groups.ids) - 1)
        known = in_shard & (as_numpy(table.marks) & (NOT_TRAJECTORY | FAILED) == 0)
        rewards[known] = means[found[known]]
    return Selection(rewards, selected, np.isin(as_numpy(table.items), as_numpy(table.items)[kept]))


def _qualifying_trajectories(table: TrajectoryTable, groups: CaptionGroups, eligible: Bools) -> Bools:
    """Returns a mask of the trajectories among which Eq. 6 selects: by default, the right ones of eligible captions."""
    rule = table.rule
    qualify = groups.rewards == 1.0 if rule.correctness else ~np.isnan(groups.rewards)
    if rule.caption_reward:
        qualify &= eligible[groups.index]
    if rule.drop_leaks:
        qualify &= as_numpy(table.marks)[groups.rows] & LEAKS == 0
    return qualify


def _row_reasoners(table: TrajectoryTable, in_shard: Bools) -> npt.NDArray[Any]:
    """Returns the reasoner of each row. A failure that names none belongs to the only reasoner of its caption."""
    reasoners, marks = as_numpy(table.reasoners), as_numpy(table.marks)
    ours = in_shard & (marks & NOT_TRAJECTORY == 0)
    nameless = ours & (reasoners == NO_REASONER) & (marks & FAILED != 0)
    if not nameless.any():
        return reasoners
    reasoners, captions, known = reasoners.copy(), as_numpy(table.captions), np.flatnonzero(ours & ~nameless)
    each, of = np.unique(captions[known], return_inverse=True)
    least, most = np.full(len(each), np.iinfo(reasoners.dtype).max), np.full(len(each), np.iinfo(reasoners.dtype).min)
    np.minimum.at(least, of, reasoners[known])
    np.maximum.at(most, of, reasoners[known])
    lost = np.flatnonzero(nameless)
    index = np.searchsorted(each, captions[lost]).clip(max=max(len(each) - 1, 0))
    if len(each):
        only = (each[index] == captions[lost]) & (least[index] == most[index])
        reasoners[lost[only]] = least[index[only]]
    return reasoners


def rows_in_shard(table: TrajectoryTable, part: Shard, limit: int | None) -> Bools:
    """Returns a mask of the rows whose item is in the shard and among its first `limit` items, in order of appearance."""
    items = as_numpy(table.items)
    if part.count == 1 and limit is None:
        return np.ones(len(items), dtype=np.bool_)
    _, first, of = np.unique(items, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    number = number[of]
    mine: Bools = part.contains(number, limit)
    return mine


def caption_reasoner_ids(captions: npt.NDArray[Any], reasoners: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns 64 bits for each pair of a caption and the reasoner that thought over it."""
    # Multiplication by 2^64 / golden ratio (Fibonacci hashing) spreads the small reasoner numbers over all bits.
    mixed: npt.NDArray[Any] = captions ^ (reasoners.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return mixed


def as_numpy(column: "array[int] | array[float]") -> npt.NDArray[Any]:
    """Returns a numpy view of a column. Nothing can be appended while the view exists."""
    return np.frombuffer(column, dtype=column.typecode) if column else np.empty(0, column.typecode)


def _first_rows(table: TrajectoryTable, rows: Rows, lookup: RecordLookup) -> Bools:
    """Returns a mask of the first row of each trajectory. A failed row counts only if no other row of its trajectory
    exists.
    """
    names, failed = as_numpy(table.names)[rows], as_numpy(table.marks)[rows] & FAILED
    ordered = np.sort(names)
    # Sorting hashes is cheaper than a lexsort, and duplicates are rare.
    if not (ordered[1:] == ordered[:-1]).any():
        return np.ones(len(rows), dtype=np.bool_)
    order = np.lexsort((failed, names))
    new = np.r_[True, names[order[1:]] != names[order[:-1]]]
    firsts = np.ones(len(rows), dtype=np.bool_)
    heads = np.flatnonzero(new)[np.cumsum(new) - 1]
    again = np.flatnonzero(~new & (failed[order] == 0))
    firsts[order[~new]] = False
    check_same_content(table, rows[order[heads[again]]], rows[order[again]], lookup)
    return firsts


def check_same_content(table: TrajectoryTable, ones: Rows, others: Rows, lookup: RecordLookup) -> None:
    """Checks that rows with one trajectory id have the same content, pair by pair.

    Raises:
        InputError: they differ.
    """
    contents = as_numpy(table.contents)
    unequal = contents[ones] != contents[others]
    ones, others = ones[unequal], others[unequal]
    rows = np.unique(np.r_[ones, others]).tolist()
    # 64-bit hashes of equal records are equal, but equal fields in another order differ: read the lines again.
    digests = dict(zip(rows, lookup.digests(rows), strict=True)) if rows else {}
    for one, other in zip(ones.tolist(), others.tolist(), strict=True):
        if digests[one] != digests[other]:
            name = next(lookup.names([other]))
            fault = f"trajectory_id {name!r} is also at {lookup.where(one)} with different content"
            raise InputError(f"{lookup.where(other)}: {fault}; drop one of them")


def planned_counts(table: TrajectoryTable, rows: Rows, caption_index: Rows, count: int) -> Rows:
    """Returns N of each caption: the largest that its records say, 0 where none says."""
    planned = np.zeros(count, dtype=np.int64)
    # Converted first: with operands of one type, `maximum.at` takes a tenth of the time.
    np.maximum.at(planned, caption_index, as_numpy(table.planned)[rows].astype(np.int64))
    return planned


def _given_up_captions(
    table: TrajectoryTable, rows: Rows, index: Rows, existing: Rows, planned: Rows, lookup: RecordLookup
) -> Bools:
    """Returns a mask of the captions that early stop gave up: fewer than N of their trajectories exist, or one was cut.

    Raises:
        InputError: an early-stopped caption has trajectories of several runs.
    """
    marks, found = as_numpy(table.marks)[rows], {}
    for mark in (EARLY_STOP, CUT, TAGGED):
        found[mark] = np.zeros(len(existing), dtype=np.bool_)
        found[mark][index[(marks & mark) != 0]] = True
    early: Bools = found[EARLY_STOP]
    # Without a tag, a caption has one run of a reasoner; more trajectories than N are those of several.
    doubtful = early & (found[TAGGED] | (existing > planned))
    if table.rule.caption_reward and doubtful.any():
        _check_single_run(rows[doubtful[index]], index[doubtful[index]], lookup)
    return early & ((existing < planned) | found[CUT])


def _check_single_run(rows: Rows, index: Rows, lookup: RecordLookup) -> None:
    """Checks that each of these captions has trajectories of one run of its reasoner (`--tag`).

    Raises:
        InputError: one has several. One of them may have given it up, so their common mean is not known.
    """
    runs: dict[int, str] = {}
    for caption, name in zip(index.tolist(), lookup.names(rows.tolist()), strict=True):
        run = name.rpartition("t")[0]
        if runs.setdefault(caption, run) != run:
            raise InputError(
                f"{name}: sampling of its caption stopped early in one of several runs of a reasoner ({runs[caption]}… and "
                f"{run}…), so their common mean is unknown; propagate them separately, or sample without --stop-early"
            )


def keep_smallest(table: TrajectoryTable, rows: Rows, lookup: RecordLookup) -> Rows:
    """Returns at most `keep` of these rows per item, those with the smallest sort keys. Ties go to the smaller id."""
    rule = table.rule
    if rule.select == "all" or not len(rows):
        return rows
    items, keys = as_numpy(table.items)[rows], as_numpy(table.sort_keys)[rows]
    order = np.lexsort((keys, items))
    rows, items, keys = rows[order], items[order], keys[order]
    starts = np.flatnonzero(np.r_[True, items[1:] != items[:-1]])
    ends = np.r_[starts[1:], len(rows)]
    rank = np.arange(len(rows)) - np.repeat(starts, ends - starts)
    _settle_ties(rows, keys, starts, ends, rule.keep, lookup)
    return rows[rank < rule.keep]


def _settle_ties(rows: Rows, keys: Rows, starts: Rows, ends: Rows, keep: int, lookup: RecordLookup) -> None:
    """Sorts rows of equal keys by their ids, in place, where the border between kept and dropped is among them."""
    lasts = starts + keep - 1
    more = np.flatnonzero(lasts + 1 < ends)
    ties = []
    for item in more[keys[lasts[more]] == keys[lasts[more] + 1]]:
        start, end, key = starts[item], ends[item], keys[lasts[item]]
        first = start + int(np.searchsorted(keys[start:end], key))
        ties.append(slice(first, start + int(np.searchsorted(keys[start:end], key, "right"))))
    tied = sorted({int(row) for tie in ties for row in rows[tie]})
    names = dict(zip(tied, lookup.names(tied), strict=True))
    for tie in ties:
        rows[tie] = sorted(rows[tie].tolist(), key=lambda row: names[row])


def select_in_memory(trajectories: Iterable[tuple[Trajectory, int, str]], rule: SelectionRule) -> set[int]:
    """Selects among trajectories in memory, each with a 64-bit hash of its content and its place. Returns their indexes."""
    facts, contents, locations = zip(*trajectories, strict=True) if (trajectories := list(trajectories)) else ((), (), ())
    table = TrajectoryTable(rule)
    table.add_rows(facts, range(len(facts)), contents)
    lookup = RecordLookup(
        lambda rows: (facts[row].name for row in rows), lambda rows: iter(rows), lambda row: locations[row]
    )
    return set(np.flatnonzero(select_trajectories(table, np.ones(len(table), dtype=np.bool_), lookup).selected).tolist())
