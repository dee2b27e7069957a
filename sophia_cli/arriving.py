"""Items that leave a pipe as soon as they are complete, in the order in which their records came.

An item is complete when each of its K captions has its N trajectories, as the records say (`caption_count`,
`trajectory_count`); what failed has come, too. Where the records do not say, where a caption was given up early, and where
something is missing, the item waits for the end of the input. The texts wait on disk (`lines.Lines`).
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from sophia_cli.errors import InputError
from sophia_cli.rewards import (
    BARE,
    FAILED,
    NAN,
    STOPPED,
    Bools,
    Choice,
    Ledger,
    Lookup,
    Places,
    choose,
    refuse_other_content,
    view,
)
from sophia_cli.streams import Shard

WAITING, NOT_OURS, PASSED, DROPPED, KEPT = range(5)
"""What is known of a row: nothing; it is another shard's; it goes out as it is; it is not kept; it is."""
NEVER = 1 << 62


@dataclass
class Item:
    """The rows of an item that is not complete. wanted: how many there are to be before it is looked at."""

    wanted: int = NEVER
    rows: "array[int]" = field(default_factory=lambda: array("q"))


class Arriving:
    """The rows of a ledger as they come: `come` after each that is added, then `leave` for those that may go out."""

    def __init__(self, ledger: Ledger, look: Lookup, part: Shard, limit: int | None):
        self.ledger, self.look, self.part, self.limit = ledger, look, part, limit
        self.numbers: dict[int, int] = {}
        self.items: dict[int, Item] = {}
        self.rewards, self.states = array("d"), array("b")
        self.head = 0

    def come(self) -> None:
        """Takes in the row that was added last. Raises InputError for one whose item has left."""
        ledger, row = self.ledger, len(self.ledger) - 1
        name, mark = ledger.items[row], ledger.marks[row]
        known = name in self.numbers
        number = self.numbers.setdefault(name, len(self.numbers))
        mine = number % self.part.count == self.part.index
        mine = mine and (self.limit is None or number // self.part.count < self.limit)
        self.rewards.append(NAN)
        self.states.append((PASSED if mark & (BARE | FAILED) else WAITING) if mine else NOT_OURS)
        if not mine:
            return
        if known and name not in self.items:
            self._come_late(row)
            return
        item = self.items.setdefault(name, Item())
        item.rows.append(row)
        if mark & BARE:
            item.wanted = 0  # a caption that failed stands for its N trajectories
        elif item.wanted == NEVER and ledger.counts[row] and ledger.planned[row]:
            item.wanted = ledger.counts[row] * ledger.planned[row]
        if len(item.rows) >= item.wanted and self._is_complete(rows := np.array(item.rows)):
            del self.items[name]
            self._decide(rows)

    def leave(self) -> Iterator[tuple[int, int, float]]:
        """Row, state and R(c) of those that may go out: nothing that came before them waits."""
        while self.head < len(self.states) and self.states[self.head] != WAITING:
            self.head += 1
            if self.states[self.head - 1] != NOT_OURS:
                yield self.head - 1, self.states[self.head - 1], self.rewards[self.head - 1]

    def end(self) -> None:
        """Decides all that waits: nothing more will come."""
        rows = np.array(sorted(row for item in self.items.values() for row in item.rows), dtype=np.int64)
        self.items.clear()
        self._decide(rows)

    def _is_complete(self, rows: Places) -> bool:
        marks, counts = view(self.ledger.marks)[rows], view(self.ledger.counts)[rows]
        ours = rows[marks & BARE == 0]
        failed = len(np.unique(view(self.ledger.captions)[rows][(marks & BARE != 0) & (counts > 0)]))
        pairs, of = np.unique(view(self.ledger.captions)[ours], return_inverse=True)
        distinct = np.unique(np.stack([of, view(self.ledger.names)[ours].view(np.int64)]), axis=1)
        planned = np.zeros(len(pairs), dtype=np.int64)
        np.maximum.at(planned, of, view(self.ledger.planned)[ours])
        full = (planned > 0) & (np.bincount(distinct[0], minlength=len(pairs)) >= planned)
        reasoners = max(len(np.unique(view(self.ledger.reasoners)[ours])), 1)
        known = counts.min() > 0 and counts.min() == counts.max() and not (marks & STOPPED).any()
        return bool(known and full.all() and len(pairs) + failed * reasoners == counts[0] * reasoners)

    def _decide(self, rows: Places) -> None:
        part, look = self.ledger.part(rows), self.look
        there = rows.tolist()
        mapped = Lookup(
            lambda few: look.names([there[row] for row in few]),
            lambda one, other: look.same(there[one], there[other]),
            lambda row: look.where(there[row]),
        )
        every: Bools = np.ones(len(rows), dtype=np.bool_)
        choice: Choice = choose(part, every, mapped)
        for row, reward, kept in zip(there, choice.rewards.tolist(), choice.selected.tolist(), strict=True):
            if self.states[row] == WAITING:
                self.rewards[row], self.states[row] = reward, KEPT if kept else DROPPED

    def _come_late(self, row: int) -> None:
        """A row whose item has left: the same trajectory once more goes out, too; anything else comes too late."""
        if self.states[row] == PASSED:
            return
        same = np.flatnonzero(view(self.ledger.names)[:-1] == self.ledger.names[row])
        first = next((int(one) for one in same if self.states[one] in (KEPT, DROPPED)), None)
        if first is None:
            raise InputError(
                f"{self.look.where(row)}: is of an item that was complete (K captions, N trajectories each) and has left; "
                "give propagate the files themselves, not a pipe: then it reads all before it chooses"
            )
        refuse_other_content(self.ledger, first, row, self.look)
        self.rewards[row], self.states[row] = self.rewards[first], DROPPED
