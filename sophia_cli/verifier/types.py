"""What every rule is handed beside the answer and the gold, and what it raises when algebra cannot tell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

COMMA_LANGUAGES = frozenset(
    "de fr es it pt nl ru pl sv german french spanish italian portuguese dutch russian polish".split()
)
"""Languages that write 2,74 for two and three quarters, near enough."""


class CannotDecide(Exception):
    """Algebra has no verdict: `ungradable`, `timeout` or `error`."""

    def __init__(self, outcome: str):
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True)
class GradingCase:
    """What a rule may look at beside the two texts: the item, its options, and when the time for algebra is over.

    same: whether two parts are equal by all the rules, one level deeper or more. Raises CouldNotTell.
    """

    item: Mapping[str, Any]
    choices: tuple[str, ...]
    deadline: float
    equal_parts: Callable[[str, str, "GradingCase"], bool]
    depth: int = 0

    @property
    def answer_type(self) -> str:
        """The item's `answer_type` in one spelling: `multi_choice`, `Multiple choice` are `multi choice`."""
        return str(self.item.get("answer_type") or "").casefold().replace("_", " ").replace("-", " ")

    @property
    def expects_letter(self) -> bool:
        """Whether the item says that its answer is an option's letter."""
        return self.answer_type in ("multiple choice", "multi choice", "choice")

    @property
    def uses_decimal_comma(self) -> bool:
        return str(self.item.get("language") or "").casefold() in COMMA_LANGUAGES

    def part_case(self, **fields: Any) -> "GradingCase":
        """The case of a part of an answer: no options, one level deeper."""
        return replace(self, item={**self.item, **fields}, choices=(), depth=self.depth + 1)

    def deeper_case(self) -> "GradingCase":
        """The same case one level deeper."""
        return replace(self, depth=self.depth + 1)


Rule = Callable[[str, str, GradingCase], bool | None]
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


VerifyFunction = Callable[..., Verdict]
"""`verify(response, item, truncated=…, seconds=…)`, the interface of every file in this folder."""
