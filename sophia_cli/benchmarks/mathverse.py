"""MathVerse, vision-only (`AI4Math/MathVerse`, testmini): the problem is drawn into its figure; asked in its own words.

Golds carry units in LaTeX, and degree signs that went through a wrong encoding.
"""

from typing import Any

from sophia_cli.benchmarks._fields import fault, filled, identity, images, text
from sophia_cli.records import Record

HUB = "AI4Math/MathVerse"
PARTS = ("testmini@testmini",)
ID, IMAGES = "sample_index", ("image",)
QUESTIONS = 788
BY = ("subject", "subfield")
JUDGED = True
VERSION = "Vision Only"
DEGREE = "掳"
"""What becomes of ° read as GBK."""


def item(row: Record, part: str) -> dict[str, Any] | None:
    """One question of the vision-only version; None for other versions."""
    if text(row, "problem_version") != VERSION:
        return None
    about = row.get("metadata") or {}
    if not isinstance(about, dict):
        raise fault(row, "metadata", "is no object")
    gold = text(row, "answer").replace(DEGREE, "°")
    choice = text(row, "question_type") == "multi-choice"
    return filled(
        {
            "id": identity(row, ID),
            "cluster": identity(row, "problem_index"),
            "image": images(row, IMAGES),
            "question": text(row, "query_cot"),
            "answer": ", ".join(gold.split()) if choice else gold.strip(),
            "answer_type": "multiple choice" if choice else None,
            "question_for_judge": row.get("question_for_eval"),
            "subject": about.get("subject"),
            "subfield": about.get("subfield"),
        }
    )
