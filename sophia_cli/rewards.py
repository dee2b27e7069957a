"""Rewards of captions and the choice of trajectories: Eq. 5 and Eq. 6, over columns of small facts.

The texts of the records are not needed here. Names are kept as 64-bit hashes: two captions of millions that share one are a
chance of one in millions of millions, and trajectories that do are told apart by their content.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from sophia_cli.errors import InputError, UsageError
from sophia_cli.records import Record, has_failed, need_count, need_number, need_text

NAN = float("nan")
LARGE = 1 << 31
GRADED = "`sophia grade` writes it"

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

FAILED, LEAKS, STOPPED, BARE = 1, 2, 4, 8
"""Marks of a row: an earlier step failed on it; it mentions the caption; its caption was given up early; no trajectory."""


class Trajectory(msgspec.Struct, frozen=True, gc=False):
    """What Eq. 5 and 6 need of one graded record; msgspec reads it from a line without reading the rest.

    `reward` is None where there is no evidence. `planned` is N, the number of trajectories that its caption was to get, and
    `captions` K, where the record says. `stop_alpha` is the α that its caption can no longer pass, where sampling was
    stopped early; `stop_length`: it was given up, perhaps, as it has none shorter than another. `error`: a step failed.
    """

    name: str = msgspec.field(name="trajectory_id")
    item: str = msgspec.field(name="id")
    caption: str = msgspec.field(name="caption_id")
    reward: float | None
    tokens: int = msgspec.field(name="trajectory_tokens")
    planned: int | msgspec.UnsetType = msgspec.field(name="trajectory_count", default=msgspec.UNSET)
    captions: int | msgspec.UnsetType = msgspec.field(name="caption_count", default=msgspec.UNSET)
    reasoner: str = msgspec.field(name="reason_model", default="")
    mentions_caption: bool = False
    stop_alpha: float | None = None
    stop_length: float | None = None
    error: None | Literal["failed"] = None


@dataclass(frozen=True)
class Rule:
    """How trajectories are chosen. The defaults are the paper's: Keep-1, the shortest, α = 0.75.

    select: shortest, random (drawn by `seed`), or all that qualify.
    min_graded: instead of (right ones)/N > α ask for a mean over α and so many graded ones.
    """

    alpha: float = 0.75
    keep: int = 1
    select: str = "shortest"
    caption_reward: bool = True
    correctness: bool = True
    min_graded: int | None = None
    drop_leaks: bool = False
    seed: int = 0


def read_trajectory(record: Record) -> Trajectory:
    """The facts of a graded record. Raises RecordError that names the field."""
    failure = has_failed(record)  # no evidence, whatever it says
    return Trajectory(
        name=need_text(record, "trajectory_id", GRADED),
        item=need_text(record, "id", "the source must give it"),
        caption=need_text(record, "caption_id", GRADED),
        reward=None if failure else need_number(record, "reward"),
        tokens=0 if failure else min(need_count(record, "trajectory_tokens"), LARGE - 1),
        planned=min(need_count(record, "trajectory_count"), LARGE - 1) if "trajectory_count" in record else msgspec.UNSET,
        captions=count if isinstance(count := record.get("caption_count"), int) and 0 < count < LARGE else msgspec.UNSET,
        reasoner=str(record.get("reason_model", "")),
        mentions_caption=record.get("mentions_caption") is True,
        stop_alpha=need_number(record, "stop_alpha") if record.get("stop_alpha") is not None else None,
        stop_length=None if record.get("stop_length") is None else 0.0,
        error="failed" if failure else None,
    )


def refuse_what_was_stopped(facts: Trajectory, rule: Rule) -> None:
    """Raises UsageError where a caption was given up for an α that this selection does not ask for."""
    name, given_up = facts.name, facts.stop_alpha
    if facts.stop_length is not None and rule != Rule(alpha=given_up or 0.0, seed=rule.seed):
        raise UsageError(
            f"{name}: was sampled with --stop-early --shortest --alpha {given_up}, which serves just that "
            "alpha with --keep 1 and no other rule; ask for that, or sample again without --shortest"
        )
    if given_up is None or (rule.caption_reward and rule.alpha >= given_up):
        return
    wanted = f"--alpha {rule.alpha}" if rule.caption_reward else "--no-caption-reward"
    raise UsageError(
        f"{name}: was sampled with --stop-early --alpha {given_up}, which {wanted} cannot be served from; "
        "sample again without --stop-early, or ask for no less"
    )


class Ledger:
    """The facts of all records of a data set, a row each, in columns: 73 bytes a record.

    rule: what will be asked of them. A record that is no trajectory has a row, too, with the mark BARE, so that rows and
    records run side by side. places: where the caller finds the record again; contents: a hash of all of it.
    """

    def __init__(self, rule: Rule):
        self.rule = rule
        self.places, self.names, self.items, self.captions = array("q"), array("Q"), array("Q"), array("Q")
        self.contents, self.keys = array("Q"), array("q")
        self.planned, self.counts, self.reasoners = array("i"), array("i"), array("i")
        self.rewards, self.marks = array("d"), array("B")

    def __len__(self) -> int:
        return len(self.places)

    def add(self, facts: Sequence[Trajectory], places: Iterable[int], contents: Iterable[int]) -> None:
        """Notes graded records, many at once: this is what a pass over a large file spends its time on.

        contents: 64 bits of each. Raises UsageError where the rule cannot be served from them.
        """
        for row in facts:
            if row.stop_alpha is not None or row.stop_length is not None:
                refuse_what_was_stopped(row, self.rule)
        self.places.extend(places)
        self.contents.extend(contents)
        self.names.extend([short(row.name) for row in facts])
        self.items.extend([short(row.item) for row in facts])
        self.captions.extend([short(row.caption) for row in facts])
        self.rewards.extend([NAN if row.reward is None else row.reward for row in facts])
        self.planned.extend([0 if row.planned is msgspec.UNSET else row.planned for row in facts])
        self.counts.extend([0 if row.captions is msgspec.UNSET else row.captions for row in facts])
        self.reasoners.extend([short(row.reasoner) >> 33 for row in facts])
        self.marks.extend([_mark(row) for row in facts])
        if self.rule.select == "random":
            self.keys.extend([_lot(self.rule.seed, row.name) for row in facts])
        else:
            self.keys.extend([row.tokens for row in facts])

    def packed(self) -> dict[str, bytes]:
        """The columns, to be sent to another process."""
        return {name: column.tobytes() for name, column in vars(self).items() if isinstance(column, array)}

    def extend(self, packed: dict[str, bytes]) -> int:
        """Takes in the rows of another ledger; returns how many."""
        before = len(self)
        for name, column in packed.items():
            getattr(self, name).frombytes(column)
        return len(self) - before

    def part(self, rows: Places) -> "Ledger":
        """These rows alone."""
        part = Ledger(self.rule)
        for name, column in vars(part).items():
            if isinstance(column, array):
                column.frombytes(view(getattr(self, name))[rows].tobytes())
        return part

    def add_bare(self, record: Record, place: int) -> None:
        """Notes a record that is no trajectory; it may be a caption's failure."""
        caption, count = record.get("caption_id"), record.get("caption_count")
        of_caption = isinstance(caption, str) and "trajectory_id" not in record and has_failed(record)
        count = count if of_caption and isinstance(count, int) and 0 < count < LARGE else 0
        self.places.append(place)
        self.items.append(short(str(record.get("id"))))
        self.captions.append(short(str(caption)) if count else 0)
        self.counts.append(count)
        self.rewards.append(NAN)
        self.marks.append(BARE)
        for column in (self.names, self.contents, self.keys, self.planned, self.reasoners):
            column.append(0)


def short(text: str) -> int:
    """64 bits that stand for a text, the same in every process."""
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _mark(facts: Trajectory) -> int:
    stopped = STOPPED if facts.stop_alpha is not None else 0
    return (LEAKS if facts.mentions_caption else 0) | (FAILED if facts.error else 0) | stopped


def pairs(captions: npt.NDArray[Any], reasoners: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """64 bits that stand for a caption and the reasoner that thought over it."""
    mixed: npt.NDArray[Any] = captions ^ (reasoners.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return mixed


def view(column: "array[int] | array[float]") -> npt.NDArray[Any]:
    """A column as numpy sees it; nothing can be added while the view lives."""
    return np.frombuffer(column, dtype=column.typecode) if column else np.empty(0, column.typecode)


def _lot(seed: int, name: str) -> int:
    """A draw that depends on the seed and the trajectory alone, so that order and shards change nothing."""
    digest = hashlib.sha256(f"{seed}\x00{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Choice:
    """The outcome, row by row: R(c) of its caption (NaN: none), whether it is kept, whether anything of its item is."""

    rewards: Floats
    selected: Bools
    solved: Bools


@dataclass(frozen=True)
class Lookup:
    """How the choice finds what the columns do not hold: the names of rows (which ascend), 64 bits that stand for their
    contents however they are written, and where one stands.
    """

    names: Callable[[list[int]], Iterator[str]]
    digests: Callable[[list[int]], Iterator[int]]
    where: Callable[[int], str]


def choose(ledger: Ledger, mine: Bools, look: Lookup) -> Choice:
    """Eq. 5 and Eq. 6 over the rows that are `mine`; a trajectory counts once, however often its record comes.

    Raises InputError for one trajectory id with two contents, and for means that nobody can know.
    """
    marks = view(ledger.marks)
    rows = np.flatnonzero(mine & (marks & BARE == 0))
    rows = rows[_firsts(ledger, rows, look)]
    of_rows = pairs(view(ledger.captions), view(ledger.reasoners))
    captions, of = np.unique(of_rows[rows], return_inverse=True)
    _refuse_two_runs(ledger, rows, of, len(captions), look)
    means, eligible = _caption_rewards(ledger, rows, of, len(captions))
    kept = _select(ledger, rows, eligible[of], look)
    rewards, selected = np.full(len(ledger), np.nan), np.zeros(len(ledger), dtype=np.bool_)
    selected[kept] = True
    if len(captions):
        found = np.searchsorted(captions, of_rows).clip(max=len(captions) - 1)
        known = mine & (marks & (BARE | FAILED) == 0)
        rewards[known] = means[found[known]]
    return Choice(rewards, selected, np.isin(view(ledger.items), view(ledger.items)[kept]))


def _firsts(ledger: Ledger, rows: Places, look: Lookup) -> Bools:
    """Which rows are the first of their trajectory; what failed stands behind what did not."""
    names, failed = view(ledger.names)[rows], view(ledger.marks)[rows] & FAILED
    order = np.lexsort((failed, names))
    new = np.r_[True, names[order[1:]] != names[order[:-1]]] if len(rows) else np.empty(0, np.bool_)
    firsts = np.ones(len(rows), dtype=np.bool_)
    if new.all():
        return firsts
    heads = np.flatnonzero(new)[np.cumsum(new) - 1]
    again = np.flatnonzero(~new & (failed[order] == 0))
    firsts[order[~new]] = False
    refuse_other_content(ledger, rows[order[heads[again]]], rows[order[again]], look)
    return firsts


def refuse_other_content(ledger: Ledger, ones: Places, others: Places, look: Lookup) -> None:
    """Raises InputError unless rows of one trajectory id have one content, pair by pair; read at once, if any are."""
    contents = view(ledger.contents)
    unequal = contents[ones] != contents[others]
    ones, others = ones[unequal], others[unequal]
    rows = np.unique(np.r_[ones, others]).tolist()
    digests = dict(zip(rows, look.digests(rows), strict=True)) if rows else {}
    for one, other in zip(ones.tolist(), others.tolist(), strict=True):
        if digests[one] != digests[other]:
            name = next(look.names([other]))
            fault = f"trajectory_id {name!r} stands at {look.where(one)} with other content"
            raise InputError(f"{look.where(other)}: {fault}; drop one of them")


def _caption_rewards(ledger: Ledger, rows: Places, of: Places, count: int) -> tuple[Floats, Bools]:
    """R(c) of Eq. 5, the mean of R(y) over the graded trajectories of each caption, and whether R(c) > α, strictly.

    The mean is NaN when none was graded, and where sampling was stopped early: the mean of those is not Eq. 5's. What could
    not be graded counts against its caption, for α alone (contract.md).
    """
    rule, rewards = ledger.rule, view(ledger.rewards)[rows].astype(np.float64)
    graded = ~np.isnan(rewards)
    right = np.bincount(of, weights=np.where(graded, rewards, 0.0), minlength=count)
    evidence = np.bincount(of, weights=graded, minlength=count)
    stopped = np.zeros(count, dtype=np.bool_)
    stopped[of[(view(ledger.marks)[rows] & STOPPED) != 0]] = True
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(stopped, np.nan, right / evidence)
        if rule.min_graded is not None:
            return means, ~stopped & (evidence >= max(rule.min_graded, 1)) & (means > rule.alpha)
        planned = np.zeros(count, dtype=np.int64)
        np.maximum.at(planned, of, view(ledger.planned)[rows])
        share = right / np.maximum(planned, np.bincount(of, minlength=count))
    return means, ~stopped & (share > rule.alpha)


def _refuse_two_runs(ledger: Ledger, rows: Places, of: Places, count: int, look: Lookup) -> None:
    """Raises InputError where a caption was given up in one run of a reasoner, and another (`--tag`) adds to its mean."""
    stopped = np.zeros(count, dtype=np.bool_)
    stopped[of[(view(ledger.marks)[rows] & STOPPED) != 0]] = True
    if not (ledger.rule.caption_reward and stopped.any()):
        return
    concerned = np.flatnonzero(stopped[of])
    runs: dict[int, str] = {}
    for caption, name in zip(of[concerned].tolist(), look.names(rows[concerned].tolist()), strict=True):
        run = name.rpartition("t")[0]
        if runs.setdefault(caption, run) != run:
            raise InputError(
                f"{name}: its caption was given up early in one of several runs of the same reasoner ({runs[caption]}… and "
                f"{run}…), so their common mean is not known; propagate them apart, or sample without --stop-early"
            )


def _select(ledger: Ledger, rows: Places, eligible: Bools, look: Lookup) -> Places:
    """The rows that Eq. 6 keeps: at most `keep` an item, the smallest keys; ties go to the smaller name."""
    rule, marks, rewards = ledger.rule, view(ledger.marks)[rows], view(ledger.rewards)[rows]
    qualify = rewards == 1.0 if rule.correctness else ~np.isnan(rewards.astype(np.float64))
    if rule.caption_reward:
        qualify &= eligible
    if rule.drop_leaks:
        qualify &= marks & LEAKS == 0
    rows = rows[qualify]
    if rule.select == "all" or not len(rows):
        return rows
    items, keys = view(ledger.items)[rows], view(ledger.keys)[rows]
    order = np.lexsort((keys, items))
    rows, items, keys = rows[order], items[order], keys[order]
    starts = np.flatnonzero(np.r_[True, items[1:] != items[:-1]])
    ends = np.r_[starts[1:], len(rows)]
    rank = np.arange(len(rows)) - np.repeat(starts, ends - starts)
    keep = rank < rule.keep
    ties = []
    for start, end in zip(starts, ends, strict=True):
        last = start + rule.keep - 1
        if last + 1 < end and keys[last] == keys[last + 1]:
            first = start + int(np.searchsorted(keys[start:end], keys[last]))
            ties.append(slice(first, start + int(np.searchsorted(keys[start:end], keys[last], "right"))))
    tied = sorted({int(row) for tie in ties for row in rows[tie]})
    names = dict(zip(tied, look.names(tied), strict=True))
    for tie in ties:
        rows[tie] = sorted(rows[tie].tolist(), key=lambda row: names[row])
    return rows[keep]


def choose_in_memory(trajectories: Iterable[tuple[Trajectory, int, str]], rule: Rule) -> set[int]:
    """The numbers of the kept ones of (trajectory, 64 bits of its content, where it stands), counted from 0."""
    facts, contents, places = zip(*trajectories, strict=True) if (trajectories := list(trajectories)) else ((), (), ())
    ledger = Ledger(rule)
    ledger.add(facts, range(len(facts)), contents)
    look = Lookup(lambda rows: (facts[row].name for row in rows), lambda rows: iter(rows), lambda row: places[row])
    return set(np.flatnonzero(choose(ledger, np.ones(len(ledger), dtype=np.bool_), look).selected).tolist())
