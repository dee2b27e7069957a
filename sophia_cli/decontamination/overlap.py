"""One overlap of a training item with a benchmark item."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Overlap:
    """An overlap with benchmark item `number`.

    Attributes:
        share: Share of the shorter question's words that are covered; None for images.
        same: The questions are identical.
        distance: Differing bits of two images; None for texts.
    """

    number: int
    share: float | None = None
    same: bool = False
    distance: int | None = None
