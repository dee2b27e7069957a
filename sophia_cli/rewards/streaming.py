"""Selects item by item while records arrive through a pipe. Items leave in the order in which their records came.

An item is complete when each of its K captions has its N trajectories, failures included (`caption_count`,
`trajectory_count`). Without these counts, after an early stop, or when something is missing, an item waits for the end
of the input. The texts wait on disk (`io.rereadable.RereadableInputs`).
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from sophia_cli.errors import InputError
from sophia_cli.io.shards import Shard
from sophia_cli.rewards.selection import (
    Bools,
    Rows,
    as_numpy,
    caption_reasoner_ids,
    check_same_content,
    planned_counts,
    select_trajectories,
)
from sophia_cli.rewards.table import FAILED, NAN, NO_REASONER, NOT_TRAJECTORY, RecordLookup, TrajectoryTable

WAITING, OTHER_SHARD, PASS_THROUGH, NOT_SELECTED, SELECTED = range(5)
"""States of a row: undecided; of another shard; written unchanged; not selected; selected."""
# Larger than any count, so that an item of unknown size is never complete before the input ends.
UNKNOWN_COUNT = 1 << 62


@dataclass
class PendingItem:
    """The rows of an incomplete item. wanted: how many rows there must be before it is checked."""

    wanted: int = UNKNOWN_COUNT
    rows: "array[int]" = field(default_factory=lambda: array("q"))


class StreamingSelector:
    """Decides about the rows of a growing table: call `add_last_row` after each row, then `pop_ready`."""

    def __init__(self, table: TrajectoryTable, lookup: RecordLookup, part: Shard, limit: int | None):
        self.table, self.lookup, self.part, self.limit = table, lookup, part, limit
        self.item_numbers: dict[int, int] = {}
        self.items: dict[int, PendingItem] = {}
        self.rewards, self.states = array("d"), array("b")
        self.head = 0
        self.first_rows: dict[int, int] | None = None

    def add_last_row(self) -> None:
        """Takes in the row that was added last.

        Raises:
            InputError: its item was already written.
        """
        table, row = self.table, len(self.table) - 1
        name, mark = table.items[row], table.marks[row]
        known = name in self.item_numbers
        # Items are numbered in order of appearance; `--shard` and `--limit` count them so.
        number = self.item_numbers.setdefault(name, len(self.item_numbers))
        mine = self.part.contains(number, self.limit)
        self.rewards.append(NAN)
        self.states.append((PASS_THROUGH if mark & (NOT_TRAJECTORY | FAILED) else WAITING) if mine else OTHER_SHARD)
        if not mine:
            return
        if known and name not in self.items:
            self._add_late_row(row)
            return
        item = self.items.setdefault(name, PendingItem())
        item.rows.append(row)
        if mark & NOT_TRAJECTORY and table.caption_counts[row]:
            item.wanted = 0  # a caption that failed counts as all of its N trajectories
        elif item.wanted == UNKNOWN_COUNT and table.caption_counts[row] and table.planned[row]:
            item.wanted = table.caption_counts[row] * table.planned[row]
        if len(item.rows) < item.wanted:
            return
        if self._is_complete(rows := np.array(item.rows)):
            del self.items[name]
            self._select_item(rows)
        else:
            item.wanted = len(rows) + 1 + len(rows) // 64  # do not check a very large item at every row

    def pop_ready(self) -> Iterator[tuple[int, int, float]]:
        """Yields row, state and R(c) of the rows that can be written: no row before them waits."""
        while self.head < len(self.states) and self.states[self.head] != WAITING:
            self.head += 1
            if self.states[self.head - 1] != OTHER_SHARD:
                yield self.head - 1, self.states[self.head - 1], self.rewards[self.head - 1]

    def finish_input(self) -> None:
        """Decides about all waiting rows at the end of the input."""
        rows = np.array(sorted(row for item in self.items.values() for row in item.rows), dtype=np.int64)
        self.items.clear()
        self._select_item(rows)

    def _is_complete(self, rows: Rows) -> bool:
        """Tells whether each of the item's K captions has failed or has its N trajectories from each reasoner."""
        marks, counts = as_numpy(self.table.marks)[rows], as_numpy(self.table.caption_counts)[rows]
        if counts.min() == 0 or counts.min() != counts.max():
            return False
        bare = marks & NOT_TRAJECTORY != 0
        ours, captions = rows[~bare], as_numpy(self.table.captions)
        reasoners = as_numpy(self.table.reasoners)[ours]
        # A failure may name no reasoner; it belongs to the only one.
        nameless = (marks[~bare] & FAILED != 0) & (reasoners == NO_REASONER)
        known = np.unique(reasoners[~nameless])
        if nameless.any() and len(known) > 1:
            return False
        reasoners[nameless] = known[0] if len(known) else NO_REASONER
        names, of = np.unique(caption_reasoner_ids(captions[ours], reasoners), return_inverse=True)
        distinct = np.unique(np.stack([of, as_numpy(self.table.names)[ours].view(np.int64)]), axis=1)
        planned = planned_counts(self.table, ours, of, len(names))
        full = (planned > 0) & (np.bincount(distinct[0], minlength=len(names)) >= planned)
        failed, each = len(np.unique(captions[rows[bare]])), max(len(known), 1)
        return bool(full.all() and len(names) + failed * each == counts[0] * each)

    def _select_item(self, rows: Rows) -> None:
        lookup, there = self.lookup, rows.tolist()
        part = self.table.take_rows(there)
        mapped = RecordLookup(
            lambda few: lookup.names([there[row] for row in few]),
            lambda few: lookup.digests([there[row] for row in few]),
            lambda row: lookup.where(there[row]),
        )
        every: Bools = np.ones(len(rows), dtype=np.bool_)
        choice = select_trajectories(part, every, mapped)
        for row, reward, kept in zip(there, choice.rewards.tolist(), choice.selected.tolist(), strict=True):
            if self.states[row] == WAITING:
                self.rewards[row], self.states[row] = reward, SELECTED if kept else NOT_SELECTED
                if self.first_rows is not None:
                    self.first_rows.setdefault(self.table.names[row], row)

    def _add_late_row(self, row: int) -> None:
        """Handles a row whose item was written. A repeated trajectory is written too; anything else is an error."""
        if self.states[row] == PASS_THROUGH:
            return
        names = self.table.names
        if self.first_rows is None:
            self.first_rows = {names[one]: one for one, state in enumerate(self.states) if state in (SELECTED, NOT_SELECTED)}
        first = self.first_rows.get(names[row])
        if first is None:
            raise InputError(
                f"{self.lookup.where(row)}: its item was complete (K captions, N trajectories each) and is already written; "
                "give `propagate` the files instead of a pipe, so that it reads all records first"
            )
        check_same_content(self.table, np.array([first]), np.array([row]), self.lookup)
        self.rewards[row], self.states[row] = self.rewards[first], NOT_SELECTED
