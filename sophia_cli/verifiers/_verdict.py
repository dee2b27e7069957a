"""What every verifier returns. Three outcomes, always: right, wrong, could not tell."""

from collections.abc import Callable
from dataclasses import dataclass

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
