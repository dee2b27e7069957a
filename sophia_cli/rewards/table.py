"""The fields of all records of a data set in columns: everything that is held of a file of any size.

Names are 64-bit hashes. The probability that any two of a million captions share one is 3e-8. Trajectories that do are told
apart by their content.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from xxhash import xxh3_64_intdigest

from sophia_cli.io.jsonl import to_line
from sophia_cli.records import Record, has_failed
from sophia_cli.rewards.trajectory import COUNT_LIMIT, SelectionRule, Trajectory, check_early_stop

NAN = float("nan")

FAILED, LEAKS, EARLY_STOP, NOT_TRAJECTORY, PROPAGATED, CUT, TAGGED = 1, 2, 4, 8, 16, 32, 64
"""Marks of a row: an earlier step failed; the trajectory mentions the caption; it was sampled with early stop; the record is
not a trajectory; the record was propagated before; early stop cut it; it is early-stopped and of a run with `--tag`.
"""


class TrajectoryTable:
    """The records of a data set, one row each, in columns: 73 bytes per record.

    A record that is not a trajectory has a row too, marked NOT_TRAJECTORY, so that rows and records correspond.

    Attributes:
        rule: The selection that will be applied.
        offsets: Where the caller finds the record again.
        contents: A hash of the whole record.
        sort_keys: What Eq. 6 sorts by: the length, or a random draw.
    """

    def __init__(self, rule: SelectionRule):
        self.rule = rule
        self.offsets, self.names, self.items, self.captions = array("q"), array("Q"), array("Q"), array("Q")
        self.contents, self.sort_keys = array("Q"), array("q")
        self.planned, self.caption_counts, self.reasoners = array("i"), array("i"), array("i")
        self.rewards, self.marks = array("d"), array("B")

    def __len__(self) -> int:
        return len(self.offsets)

    def add_rows(self, facts: Sequence[Trajectory], offsets: Iterable[int], contents: Iterable[int]) -> None:
        """Adds many graded records. A pass over a large file spends its time here.

        Raises:
            UsageError: the records cannot serve the rule (early stop).
        """
        for row in facts:
            if row.stop_alpha is not None or row.stop_length is not None:
                check_early_stop(row, self.rule)
        self.offsets.extend(offsets)
        self.contents.extend(contents)
        self.names.extend([hash64(row.name) for row in facts])
        self.items.extend(_hash_all([row.item for row in facts]))
        self.captions.extend(_hash_all([row.caption for row in facts]))
        self.reasoners.extend([name >> 33 for name in _hash_all([row.reasoner for row in facts])])
        self.rewards.extend([NAN if row.reward is None else row.reward for row in facts])
        self.planned.extend([0 if row.planned is msgspec.UNSET else row.planned for row in facts])
        self.caption_counts.extend([0 if row.captions is msgspec.UNSET else row.captions for row in facts])
        self.marks.extend([_row_marks(row) for row in facts])
        if self.rule.select == "random":
            self.sort_keys.extend([_random_key(self.rule.seed, row.name) for row in facts])
        else:
            self.sort_keys.extend([row.tokens for row in facts])

    def to_bytes(self) -> dict[str, bytes]:
        """Returns the columns as bytes, to send them to another process."""
        return {name: column.tobytes() for name, column in vars(self).items() if isinstance(column, array)}

    def extend_from_bytes(self, packed: dict[str, bytes]) -> int:
        """Appends the rows of another table. Returns their number."""
        before = len(self)
        for name, column in packed.items():
            getattr(self, name).frombytes(column)
        return len(self) - before

    def take_rows(self, rows: Iterable[int]) -> "TrajectoryTable":
        """Returns a table of these rows."""
        part, rows = TrajectoryTable(self.rule), list(rows)
        for name, column in vars(part).items():
            if isinstance(column, array):
                column.extend(map(getattr(self, name).__getitem__, rows))
        return part

    def add_non_trajectory(self, record: Record, offset: int) -> None:
        """Adds a record that is not a trajectory, for example a caption that failed."""
        caption, count = record.get("caption_id"), record.get("caption_count")
        of_caption = isinstance(caption, str) and "trajectory_id" not in record and has_failed(record)
        count = count if of_caption and isinstance(count, int) and 0 < count < COUNT_LIMIT else 0
        self.offsets.append(offset)
        self.items.append(hash64(str(record.get("id"))))
        self.captions.append(hash64(str(caption)) if count else 0)
        self.caption_counts.append(count)
        self.rewards.append(NAN)
        self.marks.append(NOT_TRAJECTORY)
        for column in (self.names, self.contents, self.sort_keys, self.planned, self.reasoners):
            column.append(0)


@dataclass(frozen=True)
class RecordLookup:
    """How the selection gets what the columns do not hold.

    Attributes:
        names: The trajectory ids of rows, which ascend.
        digests: 64-bit hashes of the rows' contents, independent of the field order.
        where: `FILE:LINE` of a row.
    """

    names: Callable[[list[int]], Iterator[str]]
    digests: Callable[[list[int]], Iterator[int]]
    where: Callable[[int], str]


def content_hash(record: Record) -> int:
    """Returns 64 bits that identify a record's content, whatever the order of its fields."""
    return xxh3_64_intdigest(to_line(dict(sorted(record.items()))))


def hash64(text: str) -> int:
    """Returns a 64-bit hash of a text, the same in every process."""
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


NO_REASONER = hash64("") >> 33
"""The reasoner of a record that names none."""


def _hash_all(texts: list[str]) -> list[int]:
    """Hashes texts that repeat."""
    found = {text: hash64(text) for text in set(texts)}
    return [found[text] for text in texts]


def _row_marks(facts: Trajectory) -> int:
    mark = LEAKS if facts.mentions_caption else 0
    if facts.error is not None:
        mark |= FAILED
    if facts.stop_alpha is not None:
        mark |= EARLY_STOP | (TAGGED if not facts.name.rpartition("/")[2].startswith("t") else 0)
    if facts.stop_length is not None:
        mark |= CUT
    return mark | PROPAGATED if facts.is_propagated else mark


def _random_key(seed: int, name: str) -> int:
    """A random draw that depends on the seed and the trajectory only, not on order or shards."""
    digest = hashlib.sha256(f"{seed}\x00{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
