"""Compares our verdicts with the recorded verdicts of two public harnesses (docs/harnesses.md); every difference has a
reason.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import harnesses  # noqa: E402  (the benchmark that remakes what is tested here)

CASES = harnesses.cases()


@pytest.mark.parametrize("case", CASES, ids=[f"{case['benchmark']} {case['answer']}" for case in CASES])
def test_our_verdict_is_the_recorded_one(case: dict[str, Any]) -> None:
    assert harnesses.gold_of(case)[1] == case["ours"]


def test_every_difference_has_a_reason_and_every_reason_a_difference() -> None:
    assert harnesses.faults(CASES) == []
    assert {why for case in CASES for why in case["why"]} == set(harnesses.REASONS)


def test_the_page_lists_what_is_recorded() -> None:
    assert harnesses.page(CASES) in (ROOT / "docs" / "harnesses.md").read_text(encoding="utf-8")
