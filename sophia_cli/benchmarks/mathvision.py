"""MATH-Vision (`MathLLMs/MathVision`, test): competition problems with one drawing and five options or none.

Options are often bare letters, because they are in the drawing. An answer may be the letter or the option's value.
"""

import re
from typing import Any

from sophia_cli.benchmarks._fields import (
    CHOICE_HINT,
    FREE_HINT,
    field_error,
    filled_fields,
    gold_letter,
    image_fields,
    option_list,
    rename_tags,
    row_id,
    text_field,
)
from sophia_cli.records import OPTION_LETTERS, Record

HUB_ID = "MathLLMs/MathVision"
SPLITS = ("default@test",)
ID_FIELD, IMAGE_FIELDS = "id", ("decoded_image",)
QUESTION_COUNT = 3040
CATEGORIES = ("subject", "level", "geometry")
LLM_JUDGED = False
IMAGE_TAG = r"<image(\d+)>"
FIGURE = r"(figure \1)"
"""What an image tag becomes where one drawing holds several figures."""
PLANE = {f"metric geometry - {what}" for what in ("angle", "area", "length")}


def make_item(row: Record, part: str) -> dict[str, Any] | None:
    """Returns one problem. `geometry` is plane (three subjects) or solid, as in the paper's Table 3."""
    choices, question, subject = option_list(row), text_field(row, "question"), row.get("subject")
    marks = set(re.findall(IMAGE_TAG, question))
    gold = text_field(row, "answer").strip()
    choices = (
        list(OPTION_LETTERS[: len(choices)])
        if not any(choices)
        else [re.sub(IMAGE_TAG, FIGURE, choice) for choice in choices]
    )
    if choices and gold not in choices:
        gold = gold_letter(row, gold, choices)
    if not choices and not gold:
        raise field_error(row, "answer", "is empty")
    drawn = bool(choices) and choices == list(OPTION_LETTERS[: len(choices)])
    return filled_fields(
        {
            "id": row_id(row, ID_FIELD),
            "image": image_fields(row, IMAGE_FIELDS),
            "hint": CHOICE_HINT if choices else FREE_HINT,
            # one drawing holds all figures: if several are named, it comes first and the tags become words
            "question": rename_tags(IMAGE_TAG, question) if marks == {"1"} else re.sub(IMAGE_TAG, FIGURE, question),
            "choices": choices,
            "choices_shown": True if drawn else None,
            "answer": gold,
            "subject": subject,
            "level": row.get("level"),
            "geometry": "plane" if subject in PLANE else "solid" if subject == "solid geometry" else None,
        }
    )
