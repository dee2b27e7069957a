"""MathVista (`AI4Math/MathVista`, testmini): figures, charts and tables, with the benchmark's own prompt (`query`).

The gold of a multiple-choice question is the option's text, not its letter. The official scorer credits the option
closest to any answer; here an answer must be an option.
"""

from typing import Any

from sophia_cli.benchmarks._fields import (
    field_error,
    filled_fields,
    image_fields,
    number_field,
    option_list,
    row_id,
    text_field,
)
from sophia_cli.records import OPTION_LETTERS, Record

HUB_ID = "AI4Math/MathVista"
SPLITS = ("default@testmini",)
ID_FIELD, IMAGE_FIELDS = "pid", ("decoded_image",)
QUESTION_COUNT = 1000
CATEGORIES = ("task", "skills")
LLM_JUDGED = False


def make_item(row: Record, part: str) -> dict[str, Any] | None:
    """Returns one question. A gold with decimals is compared after rounding to its `precision`, a whole number as it is."""
    choices, answer, decimals = option_list(row, "choices"), text_field(row, "answer"), number_field(row, "precision")
    about = row.get("metadata") or {}
    if not isinstance(about, dict):
        raise field_error(row, "metadata", "is not an object")
    gold: str | list[str] = answer.strip()
    if row.get("question_type") == "multi_choice" and not choices:
        raise field_error(row, "choices", "is empty, but the question is multiple choice")
    if choices and gold not in choices:
        raise field_error(row, "answer", f"is {answer!r}, which is not an option")
    if choices.count(answer.strip()) > 1:  # two options have the same text: either letter is right
        gold = [answer.strip(), *(letter for letter, choice in zip(OPTION_LETTERS, choices, strict=False) if choice == gold)]
    return filled_fields(
        {
            "id": row_id(row, ID_FIELD),
            "image": image_fields(row, IMAGE_FIELDS),
            "question": text_field(row, "query"),
            "choices": choices,
            "choices_shown": True if choices else None,
            "answer": gold,
            "answer_type": row.get("answer_type"),
            "precision": int(decimals) if decimals is not None and row.get("answer_type") == "float" else None,
            "unit": row.get("unit"),
            "language": about.get("language"),
            "task": about.get("task"),
            "skills": about.get("skills"),
            "category": about.get("category"),
            "grade": about.get("grade"),
        }
    )
