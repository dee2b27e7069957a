"""Collects the measured fields of all records in columns, and computes the figures of `sophia stats`.

A trajectory counts once, however often its record occurs, and so do the tokens of its caption.
"""

from array import array
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from sophia_cli.io.jsonl import load_json, to_line
from sophia_cli.records import Record
from sophia_cli.rewards.loading import BATCH_ROWS
from sophia_cli.rewards.selection import Bools, Selection, as_numpy, caption_reasoner_ids
from sophia_cli.rewards.table import FAILED, LEAKS, NAN, NOT_TRAJECTORY, RecordLookup, TrajectoryTable, hash64
from sophia_cli.rewards.trajectory import COUNT_LIMIT, SelectionRule, Trajectory, passes_alpha

MAX_BINS = 16
"""Most bars of a histogram of lengths."""
VERDICTS = ("correct", "wrong", "no_answer", "truncated", "ungradable", "timeout", "error")
NO_VERDICT = len(VERDICTS)
_VERDICT_CODES = {name: code for code, name in enumerate(VERDICTS)}
# -1, so that one signed byte per row is enough.
UNKNOWN, NOT_SELECTED, SELECTED = -1, 0, 1


class StatsFields(msgspec.Struct, gc=False):
    """The fields that the figures need, beside those of a trajectory. Texts stay undecoded."""

    caption_id: str | None = None
    caption: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    caption_tokens: Annotated[int, msgspec.Meta(ge=0, lt=COUNT_LIMIT)] | None = None
    trajectory: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    finish_reason: str | None = None
    verdict: str | None = None
    mentions_caption: bool | None = None
    caption_reward: float | None = None
    selected: bool | None = None


class StatsTable:
    """The trajectory table (`table`) and, row by row, the other measured fields: 120 bytes per record.

    labels: for each column of `--by`, its values in order of appearance.
    """

    def __init__(self, rule: SelectionRule, by: list[str]):
        self.table = TrajectoryTable(rule)
        self.waiting: list[tuple[Trajectory, int, int]] = []
        self.captions, self.texts, self.caption_texts = array("Q"), array("Q"), array("Q")
        self.caption_tokens, self.rewards = array("i"), array("d")
        self.verdicts, self.truncated, self.judged, self.selected_states = array("B"), array("B"), array("B"), array("b")
        self.labels: dict[str, dict[str, int]] = {name: {} for name in by}
        self.groups = {name: array("I") for name in by}

    def add_record(
        self, facts: Trajectory | Record, content: int, offset: int, seen: StatsFields, groups: Iterable[str]
    ) -> None:
        """Adds one record: a trajectory's fields, or the record itself where it is not a trajectory (a caption, an item,
        a failure).
        """
        if isinstance(facts, Trajectory):
            self.waiting.append((facts, offset, content))
        if isinstance(facts, Record) or len(self.waiting) == BATCH_ROWS:
            self.flush_rows()
        if isinstance(facts, Record):
            self.table.add_non_trajectory(facts, offset)
        self.captions.append(hash64(seen.caption_id) if seen.caption_id else 0)
        self.texts.append(_text_hash(seen.trajectory))
        self.caption_texts.append(_text_hash(seen.caption))
        self.caption_tokens.append(seen.caption_tokens or 0)
        self.rewards.append(NAN if seen.caption_reward is None else seen.caption_reward)
        self.verdicts.append(_VERDICT_CODES.get(seen.verdict or "", NO_VERDICT))
        self.truncated.append(seen.finish_reason == "length")
        self.judged.append(seen.mentions_caption is not None)
        self.selected_states.append(UNKNOWN if seen.selected is None else SELECTED if seen.selected else NOT_SELECTED)
        for (name, codes), label in zip(self.labels.items(), groups, strict=True):
            self.groups[name].append(codes.setdefault(label, len(codes)))

    def flush_rows(self) -> None:
        """Moves waiting rows into the table; adding many at a time is cheaper."""
        if self.waiting:
            facts, offsets, contents = zip(*self.waiting, strict=True)
            self.table.add_rows(facts, offsets, contents)
            self.waiting.clear()

    def trajectory_rows(self) -> Bools:
        """Returns a mask of unique trajectories without failure."""
        rows: Bools = as_numpy(self.table.marks) & (NOT_TRAJECTORY | FAILED) == 0
        return rows & first_rows(as_numpy(self.table.names), rows)

    def sampled_rows(self) -> Bools:
        """Returns a mask of unique trajectories. A failed trajectory without a later success is included, because it
        counts as not correct.
        """
        names, good = as_numpy(self.table.names), self.trajectory_rows()
        lost: Bools = (as_numpy(self.table.marks) & (NOT_TRAJECTORY | FAILED) == FAILED) & ~np.isin(names, names[good])
        return good | lost & first_rows(names, lost)

    def unique_captions(self) -> Bools:
        """Returns a mask of the first row of each caption."""
        rows: Bools = (as_numpy(self.captions) != 0) & (as_numpy(self.caption_texts) != 0)
        return first_rows(as_numpy(self.captions), rows)


def _text_hash(text: msgspec.Raw | msgspec.UnsetType) -> int:
    """Returns a 64-bit hash of a text, however it is escaped; 0 for none."""
    if isinstance(text, msgspec.UnsetType):
        return 0
    written = bytes(text)
    return xxh3_64_intdigest(to_line(load_json(written)).strip() if b"\\" in written else written) or 1


def first_rows(names: npt.NDArray[Any], among: Bools) -> Bools:
    """Returns a mask of the first row of each name, among these rows."""
    rows = np.flatnonzero(among)
    first = np.zeros(len(names), dtype=np.bool_)
    first[rows[np.unique(names[rows], return_index=True)[1]]] = True
    return first


def compute_figures(columns: StatsTable, selection: Selection, in_group: Bools, whole: bool = True) -> dict[str, Any]:
    """Returns the figures of the rows in a group.

    Args:
        columns: The table.
        selection: The result of Eq. 5 and 6 over all rows.
        in_group: Mask of the rows.
        whole: Include histograms.
    """
    table, alpha = columns.table, columns.table.rule.alpha
    items = as_numpy(table.items)
    rows = columns.trajectory_rows() & in_group
    captions = columns.unique_captions() & in_group
    rewards, tokens = as_numpy(table.rewards)[rows], as_numpy(table.sort_keys)[rows]
    graded, right, kept = rewards[~np.isnan(rewards)], rewards == 1.0, selection.selected[rows]
    verdicts = np.bincount(as_numpy(columns.verdicts)[rows], minlength=NO_VERDICT)
    found = caption_rewards(columns, selection, rows)
    described, width = as_numpy(columns.caption_tokens)[captions], bin_width(tokens) if whole else 0
    spent = int(described.sum()), int(tokens.sum())
    leaks, judged = (as_numpy(table.marks)[rows] & LEAKS) != 0, int(as_numpy(columns.judged)[rows].sum())
    figures: dict[str, Any] = {
        "records": int(in_group.sum()),
        "items": count_distinct(items[in_group]),
        "captions": int(captions.sum()),
        "trajectories": int(rows.sum()),
        "verdicts": {name: int(number) for name, number in zip(VERDICTS, verdicts, strict=False) if number},
        "graded": len(graded),
        "accuracy": mean_or_none(graded),
        "caption_reward": {
            "captions": len(found),
            "mean": mean_or_none(found),
            "over_alpha": int(passes_alpha(found, 1, alpha).sum()),
        },
        "items_right": count_distinct(items[rows][right]),
        "solved": count_distinct(items[rows][kept]),
        "selected": int(kept.sum()),
        "tokens": {
            "captions": spent[0],
            "trajectories": spent[1],
            "total": sum(spent),
            "per_selected": sum(spent) / int(kept.sum()) if kept.any() else None,
        },
        "truncated": mean_or_none(as_numpy(columns.truncated)[rows]),
        "leaks": {
            "judged": judged,
            "count": int(leaks.sum()),
            "rate": float(leaks.sum() / judged) if judged else None,
            "selected": int((leaks & kept).sum()),
        },
        "lengths": {
            "captions": length_stats(described, bin_width(described) if whole else 0),
            "trajectories": length_stats(tokens, width),
            "right": length_stats(tokens[right], width),
            "selected": length_stats(tokens[kept], width),
        },
    }
    if whole:
        figures["caption_reward"]["histogram"] = reward_histogram(found)
    return figures


def repeat_counts(columns: StatsTable, lookup: RecordLookup) -> dict[str, int]:
    """Counts what occurs more than once.

    trajectories: the same record; conflicting: one trajectory id with other content; texts, captions: the same text
    under two ids of one item.
    """
    table, rows, captions = columns.table, columns.trajectory_rows(), columns.unique_captions()
    names = as_numpy(table.names)
    again = np.flatnonzero((as_numpy(table.marks) & (NOT_TRAJECTORY | FAILED) == 0) & ~rows)
    twice = np.flatnonzero((as_numpy(table.marks) & (NOT_TRAJECTORY | FAILED) == 0) & np.isin(names, names[again]))
    contents = np.fromiter(lookup.digests(twice.tolist()), dtype=np.uint64, count=len(twice))
    conflicting = count_distinct(np.stack([names[twice], contents])) - count_distinct(names[twice])
    items = as_numpy(table.items)
    return {
        "trajectories": len(again) - conflicting,
        "conflicting": conflicting,
        "texts": int(rows.sum()) - count_distinct(np.stack([items, as_numpy(columns.texts)])[:, rows]),
        "captions": int(captions.sum()) - count_distinct(np.stack([items, as_numpy(columns.caption_texts)])[:, captions]),
    }


def caption_rewards(columns: StatsTable, choice: Selection, rows: Bools) -> npt.NDArray[np.float64]:
    """Returns R(c) of each caption, for each reasoner that thought over it."""
    table = columns.table
    first = first_rows(
        caption_reasoner_ids(as_numpy(table.captions), as_numpy(table.reasoners)), rows & ~np.isnan(choice.rewards)
    )
    each: npt.NDArray[np.float64] = choice.rewards[first]
    return each


def count_distinct(values: npt.NDArray[Any]) -> int:
    """Returns the number of different values; of an array of two rows, different columns."""
    if values.ndim == 2:
        order = np.lexsort(values)
        ordered = values[:, order]
        return int((ordered[:, 1:] != ordered[:, :-1]).any(axis=0).sum()) + bool(len(order))
    return len(np.unique(values))


def mean_or_none(values: npt.NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def length_stats(lengths: npt.NDArray[Any], width: int) -> dict[str, Any] | None:
    """Returns mean, quantiles and extremes of lengths in tokens; None for no lengths. width: of the histogram's bins, 0
    for none.
    """
    if not len(lengths):
        return None
    p5, p50, p95 = np.quantile(lengths, [0.05, 0.5, 0.95]).tolist()
    least, most = int(lengths.min()), int(lengths.max())
    figures = {"mean": mean_or_none(lengths), "min": least, "p5": p5, "p50": p50, "p95": p95, "max": most}
    return {**figures, "histogram": length_histogram(lengths, width)} if width else figures


def bin_width(lengths: npt.NDArray[Any]) -> int:
    """Returns the width of bins, a round number of tokens, that cover all lengths."""
    least = (int(lengths.max()) + 1) / MAX_BINS if len(lengths) else 1
    scale = int(10 ** np.floor(np.log10(max(least, 1))))
    return next(scale * step for step in (1, 2, 5, 10) if scale * step >= least)


def length_histogram(lengths: npt.NDArray[Any], width: int) -> list[dict[str, int]]:
    """Returns counts in bins, each with its first length and the first length after it."""
    counts = np.bincount(lengths // width)
    return [{"from": i * width, "to": (i + 1) * width, "count": number} for i, number in enumerate(counts.tolist())]


def reward_histogram(rewards: npt.NDArray[np.float64]) -> list[dict[str, float]]:
    """Returns how many captions have each R(c), where there are few values (k/N); else by tenths, each from its lower
    bound.
    """
    values, counts = np.unique(rewards.round(6), return_counts=True)
    if len(values) > MAX_BINS + 1:
        values, counts = np.unique(np.minimum(np.floor(rewards * 10) / 10, 0.9), return_counts=True)
    return [{"reward": value, "count": number} for value, number in zip(values.tolist(), counts.tolist(), strict=True)]
