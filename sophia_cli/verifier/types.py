"""What every rule is handed beside the answer and the gold, and what it raises when algebra cannot tell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

EUROPEAN = frozenset("de fr es it pt nl ru pl sv german french spanish italian portuguese dutch russian polish".split())
"""Languages that write 2,74 for two and three quarters, near enough."""


class CouldNotTell(Exception):
    """Algebra has no verdict: `ungradable`, `timeout` or `error`."""

    def __init__(self, outcome: str):
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True)
class Case:
    """What a rule may look at beside the two texts: the item, its options, and when the time for algebra is over.

    same: whether two parts are equal by all the rules, one level deeper or more. Raises CouldNotTell.
    """

    item: Mapping[str, Any]
    choices: tuple[str, ...]
    deadline: float
    same: Callable[[str, str, "Case"], bool]
    depth: int = 0

    @property
    def kind(self) -> str:
        """The item's `answer_type` in one spelling: `multi_choice`, `Multiple choice` are `multi choice`."""
        return str(self.item.get("answer_type") or "").casefold().replace("_", " ").replace("-", " ")

    @property
    def lettered(self) -> bool:
        """Whether the item says that its answer is an option's letter."""
        return self.kind in ("multiple choice", "multi choice", "choice")

    @property
    def european(self) -> bool:
        return str(self.item.get("language") or "").casefold() in EUROPEAN

    def part(self, **fields: Any) -> "Case":
        """The case of a part of an answer: no options, one level deeper."""
        return replace(self, item={**self.item, **fields}, choices=(), depth=self.depth + 1)

    def deeper(self) -> "Case":
        """The same case one level deeper."""
        return replace(self, depth=self.depth + 1)


Rule = Callable[[str, str, Case], bool | None]
"""Whether an answer is a gold; None where the rule has no say."""


REWARDS: dict[str, float | None] = {
    "correct": 1.0,
    "wrong": 0.0,
    "no_answer": 0.0,
    "truncated": 0.0,
    "ungradable": None,
    "timeout": None,
    "error": None,
}
"""R(y) of Eq. 4 by verdict; null where there is no evidence (contract.md)."""


@dataclass(frozen=True)
class Verdict:
    """A verdict (a key of `REWARDS`), the answer that was judged, and the rule that settled it (or the reason)."""

    verdict: str
    extracted: str | None
    verified_by: str

    @property
    def reward(self) -> float | None:
        return REWARDS[self.verdict]


Verify = Callable[..., Verdict]
"""`verify(response, item, truncated=…, seconds=…)`, the interface of every file in this folder."""
