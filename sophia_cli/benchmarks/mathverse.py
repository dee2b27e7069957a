"""MathVerse, vision-only (`AI4Math/MathVerse`, testmini): the problem is drawn into its figure, and the benchmark's own
prompt is used.

Golds contain units in LaTeX, and degree signs that were decoded with a wrong encoding.
"""

from typing import Any

from sophia_cli.benchmarks._fields import field_error, filled_fields, image_fields, row_id, text_field
from sophia_cli.records import Record

HUB_ID = "AI4Math/MathVerse"
SPLITS = ("testmini@testmini",)
ID_FIELD, IMAGE_FIELDS = "sample_index", ("image",)
QUESTION_COUNT = 788
CATEGORIES = ("subject", "subfield")
LLM_JUDGED = True
VERSION = "Vision Only"
DEGREE = "掳"
"""What ° becomes when UTF-8 is read as GBK."""


def make_item(row: Record, part: str) -> dict[str, Any] | None:
    """Returns one question of the vision-only version; None for other versions."""
    if text_field(row, "problem_version") != VERSION:
        return None
    about = row.get("metadata") or {}
    if not isinstance(about, dict):
        raise field_error(row, "metadata", "is not an object")
    gold = text_field(row, "answer").replace(DEGREE, "°")
    choice = text_field(row, "question_type") == "multi-choice"
    return filled_fields(
        {
            "id": row_id(row, ID_FIELD),
            "cluster": row_id(row, "problem_index"),
            "image": image_fields(row, IMAGE_FIELDS),
            "question": text_field(row, "query_cot"),
            "answer": ", ".join(gold.split()) if choice else gold.strip(),
            "answer_type": "multiple choice" if choice else None,
            "question_for_judge": row.get("question_for_eval"),
            "subject": about.get("subject"),
            "subfield": about.get("subfield"),
        }
    )
