"""The types of the verifier: what a rule gets beside answer and gold, the verdict, and the error when algebra cannot
decide.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

COMMA_LANGUAGES = frozenset(
    "de fr es it pt nl ru pl sv german french spanish italian portuguese dutch russian polish".split()
)
"""Languages that write a decimal comma, 2,74."""


class CannotDecide(Exception):
    """Algebra has no verdict: `ungradable`, `timeout` or `error`."""

    def __init__(self, outcome: str):
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True)
class GradingCase:
    """What a rule may use beside the two texts.

    Attributes:
        item: The item.
        choices: Its options, normalized.
        deadline: When the time for algebra is over.
        equal_parts: Compares two parts by all rules, one level deeper. Raises CannotDecide.
        depth: The level of nesting.
    """

    item: Mapping[str, Any]
    choices: tuple[str, ...]
    deadline: float
    equal_parts: Callable[[str, str, "GradingCase"], bool]
    depth: int = 0

    @property
    def answer_type(self) -> str:
        """The item's `answer_type` in one spelling: `multi_choice` and `Multiple choice` become `multi choice`."""
        return str(self.item.get("answer_type") or "").casefold().replace("_", " ").replace("-", " ")

    @property
    def expects_letter(self) -> bool:
        """Whether the item says that its answer is the letter of an option."""
        return self.answer_type in ("multiple choice", "multi choice", "choice")

    @property
    def uses_decimal_comma(self) -> bool:
        return str(self.item.get("language") or "").casefold() in COMMA_LANGUAGES

    def part_case(self, **fields: Any) -> "GradingCase":
        """Returns the case of a part of an answer: no options, one level deeper."""
        return replace(self, item={**self.item, **fields}, choices=(), depth=self.depth + 1)

    def deeper_case(self) -> "GradingCase":
        """Returns the same case one level deeper."""
        return replace(self, depth=self.depth + 1)


Rule = Callable[[str, str, GradingCase], bool | None]
"""Tells whether an answer equals a gold; None if the rule does not apply."""


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
    """A verdict (a key of `REWARDS`), the answer that was graded, and the rule that decided (or the reason)."""

    verdict: str
    extracted: str | None
    verified_by: str

    @property
    def reward(self) -> float | None:
        return REWARDS[self.verdict]


VerifyFunction = Callable[..., Verdict]
"""`verify(response, item, truncated=…, seconds=…)`."""
