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


def select_trajectories(table: TrajectoryTable, in_shard: Bools, lookup: RecordLookup) -> Selection:
    """Applies Eq. 5 and Eq. 6 to the rows in the shard. A trajectory counts once, however often its record occurs.

    Raises:
        InputError: one trajectory id has two contents, or a mean cannot be known.
    """
    marks = as_numpy(table.marks)
    rows = np.flatnonzero(in_shard & (marks & NOT_TRAJECTORY == 0))
    rows = rows[_first_rows(table, rows, lookup)]
    of_rows = caption_reasoner_ids(as_numpy(table.captions), _row_reasoners(table, rows))
    captions, of = np.unique(of_rows[rows], return_inverse=True)
    _check_single_run(table, rows, of, len(captions), lookup)
    means, eligible = _qualify_captions(table, rows, of, len(captions))
    kept = _keep_shortest(table, rows, eligible[of], lookup)
    rewards, selected = np.full(len(table), np.nan), np.zeros(len(table), dtype=np.bool_)
    selected[kept] = True
    if len(captions):
        found = np.searchsorted(captions, of_rows).clip(max=len(captions) - 1)
        known = in_shard & (marks & (NOT_TRAJECTORY | FAILED) == 0)
        rewards[known] = means[found[known]]
    return Selection(rewards, selected, np.isin(as_numpy(table.items), as_numpy(table.items)[kept]))


def _row_reasoners(table: TrajectoryTable, rows: Rows) -> npt.NDArray[Any]:
    """Returns the reasoner of each row. A failure that names none belongs to the only reasoner of its caption."""
    reasoners = as_numpy(table.reasoners)
    nameless = (reasoners[rows] == NO_REASONER) & (as_numpy(table.marks)[rows] & FAILED != 0)
    if not nameless.any():
        return reasoners
    reasoners, captions, known = reasoners.copy(), as_numpy(table.captions), rows[~nameless]
    each, of = np.unique(captions[known], return_inverse=True)
    least, most = np.full(len(each), np.iinfo(reasoners.dtype).max), np.full(len(each), np.iinfo(reasoners.dtype).min)
    np.minimum.at(least, of, reasoners[known])
    np.maximum.at(most, of, reasoners[known])
    lost = rows[nameless]
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


def _qualify_captions(table: TrajectoryTable, rows: Rows, caption_index: Rows, count: int) -> tuple[Floats, Bools]:
    """Returns R(c) of Eq. 5 and whether R(c) > α, for each caption.

    R(c) is the mean of R(y) over the graded trajectories of the caption. It is NaN when none was graded, and where
    sampling stopped early, because that mean is not Eq. 5's. What could not be graded counts against its caption for α
    only (contract.md).
    """
    rule, rewards = table.rule, as_numpy(table.rewards)[rows].astype(np.float64)
    graded = ~np.isnan(rewards)
    right = np.bincount(caption_index, weights=np.where(graded, rewards, 0.0), minlength=count)
    evidence = np.bincount(caption_index, weights=graded, minlength=count)
    given_up = _given_up_captions(table, rows, caption_index, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(given_up, np.nan, right / evidence)
        if rule.min_graded is not None:
            enough = evidence >= max(rule.min_graded, 1)
            return means, ~given_up & enough & passes_alpha(right, evidence, rule.alpha)
        planned = np.maximum(planned_counts(table, rows, caption_index, count), np.bincount(caption_index, minlength=count))
        return means, ~given_up & passes_alpha(right, planned, rule.alpha)


def planned_counts(table: TrajectoryTable, rows: Rows, caption_index: Rows, count: int) -> Rows:
    """Returns N of each caption: the largest that its records say, 0 where none says."""
    planned = np.zeros(count, dtype=np.int64)
    # Converted first: with operands of one type, `maximum.at` takes a tenth of the time.
    np.maximum.at(planned, caption_index, as_numpy(table.planned)[rows].astype(np.int64))
    return planned


def _given_up_captions(table: TrajectoryTable, rows: Rows, caption_index: Rows, count: int) -> Bools:
    """Returns a mask of the captions that early stop gave up: fewer than N of their trajectories exist, or one was cut."""
    marks = as_numpy(table.marks)[rows]
    early, cut = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
    early[caption_index[(marks & EARLY_STOP) != 0]] = True
    if not early.any():
        return early
    cut[caption_index[(marks & CUT) != 0]] = True
    missing = np.bincount(caption_index, minlength=count) < planned_counts(table, rows, caption_index, count)
    given_up: Bools = early & (missing | cut)
    return given_up


def _check_single_run(table: TrajectoryTable, rows: Rows, caption_index: Rows, count: int, lookup: RecordLookup) -> None:
    """Checks that no early-stopped caption has trajectories of several runs of the same reasoner (`--tag`), of which one
    may have given it up.

    Raises:
        InputError: it has; their common mean is not known.
    """
    marks = as_numpy(table.marks)[rows]
    tagged, early = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
    tagged[caption_index[(marks & TAGGED) != 0]] = True
    early[caption_index[(marks & EARLY_STOP) != 0]] = True
    # Without a tag, one caption and reasoner have one run; more trajectories than N are those of several.
    more = np.bincount(caption_index, minlength=count) > planned_counts(table, rows, caption_index, count)
    doubtful = early & (tagged | more)
    if not (table.rule.caption_reward and doubtful.any()):
        return
    concerned = np.flatnonzero(doubtful[caption_index])
    runs: dict[int, str] = {}
    for caption, name in zip(caption_index[concerned].tolist(), lookup.names(rows[concerned].tolist()), strict=True):
        run = name.rpartition("t")[0]
        if runs.setdefault(caption, run) != run:
            raise InputError(
                f"{name}: sampling of its caption stopped early in one of several runs of a reasoner ({runs[caption]}… and "
                f"{run}…), so their common mean is unknown; propagate them separately, or sample without --stop-early"
            )


def _keep_shortest(table: TrajectoryTable, rows: Rows, eligible: Bools, lookup: RecordLookup) -> Rows:
    """Returns the rows that Eq. 6 keeps: at most `keep` per item, by the smallest sort key. Ties go to the smaller id."""
    rule, marks, rewards = table.rule, as_numpy(table.marks)[rows], as_numpy(table.rewards)[rows]
    qualify = rewards == 1.0 if rule.correctness else ~np.isnan(rewards.astype(np.float64))
    if rule.caption_reward:
        qualify &= eligible
    if rule.drop_leaks:
        qualify &= marks & LEAKS == 0
    rows = rows[qualify]
    if rule.select == "all" or not len(rows):
        return rows
    items, keys = as_numpy(table.items)[rows], as_numpy(table.sort_keys)[rows]
    order = np.lexsort((keys, items))
    rows, items, keys = rows[order], items[order], keys[order]
    starts = np.flatnonzero(np.r_[True, items[1:] != items[:-1]])
    ends = np.r_[starts[1:], len(rows)]
    rank = np.arange(len(rows)) - np.repeat(starts, ends - starts)
    keep = rank < rule.keep
    lasts = starts + rule.keep - 1
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
    return rows[keep]


def select_in_memory(trajectories: Iterable[tuple[Trajectory, int, str]], rule: SelectionRule) -> set[int]:
    """Selects among trajectories in memory, each with a 64-bit hash of its content and its place. Returns their indexes."""
    facts, contents, locations = zip(*trajectories, strict=True) if (trajectories := list(trajectories)) else ((), (), ())
    table = TrajectoryTable(rule)
    table.add_rows(facts, range(len(facts)), contents)
    lookup = RecordLookup(
        lambda rows: (facts[row].name for row in rows), lambda rows: iter(rows), lambda row: locations[row]
    )
    return set(np.flatnonzero(select_trajectories(table, np.ones(len(table), dtype=np.bool_), lookup).selected).tolist())
