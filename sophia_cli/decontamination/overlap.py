"""An overlap of a training item with an item of a benchmark."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Overlap:
    """An overlap with the benchmark's item of this number.

    share: of the shorter question's words that are covered; same: whether the questions are one; distance: bits of two
    images that differ.
    """

    number: int
    share: float | None = None
    same: bool = False
    distance: int | None = None
