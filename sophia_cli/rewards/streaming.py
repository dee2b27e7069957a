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
from sophia_cli.io.shards import Shard
from sophia_cli.rewards.selection import Bools, Rows, choose, pairs, planned_of, refuse_other_content, view
from sophia_cli.rewards.table import BARE, FAILED, NAN, NOBODY, STOPPED, TrajectoryTable, Lookup

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

    def __init__(self, ledger: TrajectoryTable, look: Lookup, part: Shard, limit: int | None):
        self.ledger, self.look, self.part, self.limit = ledger, look, part, limit
        self.numbers: dict[int, int] = {}
        self.items: dict[int, Item] = {}
        self.rewards, self.states = array("d"), array("b")
        self.head = 0
        self.first: dict[int, int] | None = None

    def come(self) -> None:
        """Takes in the row that was added last. Raises InputError for one whose item has left."""
        ledger, row = self.ledger, len(self.ledger) - 1
        name, mark = ledger.items[row], ledger.marks[row]
        known = name in self.numbers
        number = self.numbers.setdefault(name, len(self.numbers))
        mine = self.part.has(number, self.limit)
        self.rewards.append(NAN)
        self.states.append((PASSED if mark & (BARE | FAILED) else WAITING) if mine else NOT_OURS)
        if not mine:
            return
        if known and name not in self.items:
            self._come_late(row)
            return
        item = self.items.setdefault(name, Item())
        item.rows.append(row)
        if mark & BARE and ledger.counts[row]:
            item.wanted = 0  # a caption that failed stands for its N trajectories
        elif item.wanted == NEVER and ledger.counts[row] and ledger.planned[row]:
            item.wanted = ledger.counts[row] * ledger.planned[row]
        if len(item.rows) < item.wanted:
            return
        if self._is_complete(rows := np.array(item.rows)):
            del self.items[name]
            self._decide(rows)
        else:
            item.wanted = len(rows) + 1 + len(rows) // 64  # of a very large one not at every row

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

    def _is_complete(self, rows: Rows) -> bool:
        """Whether each of the item's K captions has failed, or its N trajectories from each reasoner."""
        marks, counts = view(self.ledger.marks)[rows], view(self.ledger.counts)[rows]
        if (marks & STOPPED).any() or counts.min() == 0 or counts.min() != counts.max():
            return False
        bare = marks & BARE != 0
        ours, captions = rows[~bare], view(self.ledger.captions)
        reasoners = view(self.ledger.reasoners)[ours]
        nameless = (marks[~bare] & FAILED != 0) & (reasoners == NOBODY)  # a failure names no reasoner: it is of the only one
        known = np.unique(reasoners[~nameless])
        if nameless.any() and len(known) > 1:
            return False
        reasoners[nameless] = known[0] if len(known) else NOBODY
        names, of = np.unique(pairs(captions[ours], reasoners), return_inverse=True)
        distinct = np.unique(np.stack([of, view(self.ledger.names)[ours].view(np.int64)]), axis=1)
        planned = planned_of(self.ledger, ours, of, len(names))
        full = (planned > 0) & (np.bincount(distinct[0], minlength=len(names)) >= planned)
        failed, each = len(np.unique(captions[rows[bare]])), max(len(known), 1)
        return bool(full.all() and len(names) + failed * each == counts[0] * each)

    def _decide(self, rows: Rows) -> None:
        look, there = self.look, rows.tolist()
        part = self.ledger.part(there)
        mapped = Lookup(
            lambda few: look.names([there[row] for row in few]),
            lambda few: look.digests([there[row] for row in few]),
            lambda row: look.where(there[row]),
        )
        every: Bools = np.ones(len(rows), dtype=np.bool_)
        choice = choose(part, every, mapped)
        for row, reward, kept in zip(there, choice.rewards.tolist(), choice.selected.tolist(), strict=True):
            if self.states[row] == WAITING:
                self.rewards[row], self.states[row] = reward, KEPT if kept else DROPPED
                if self.first is not None:
                    self.first.setdefault(self.ledger.names[row], row)

    def _come_late(self, row: int) -> None:
        """A row whose item has left: the same trajectory once more goes out, too; anything else comes too late."""
        if self.states[row] == PASSED:
            return
        names = self.ledger.names
        if self.first is None:
            self.first = {names[one]: one for one, state in enumerate(self.states) if state in (KEPT, DROPPED)}
        first = self.first.get(names[row])
        if first is None:
            raise InputError(
                f"{self.look.where(row)}: is of an item that was complete (K captions, N trajectories each) and has left; "
                "give propagate the files themselves, not a pipe: then it reads all before it chooses"
            )
        refuse_other_content(self.ledger, np.array([first]), np.array([row]), self.look)
        self.rewards[row], self.states[row] = self.rewards[first], DROPPED
