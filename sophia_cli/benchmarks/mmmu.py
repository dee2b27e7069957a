"""MMMU (`MMMU/MMMU`, validation, all 30 subjects): college questions, most with options, images within the text.

The official parser gives an unreadable answer a random option; here it stays unreadable. Three open golds are lists.
"""

import re
from typing import Any

from sophia_cli.benchmarks._fields import (
    CHOICE_HINT,
    FREE_HINT,
    field_error,
    filled_fields,
    gold_letter,
    number_images,
    option_list,
    row_id,
    text_field,
)
from sophia_cli.records import Record

HUB_ID = "MMMU/MMMU"
SUBJECTS = (
    "Accounting Agriculture Architecture_and_Engineering Art Art_Theory Basic_Medical_Science Biology Chemistry "
    "Clinical_Medicine Computer_Science Design Diagnostics_and_Laboratory_Medicine Economics Electronics "
    "Energy_and_Power Finance Geography History Literature Manage Marketing Materials Math Mechanical_Engineering Music "
    "Pharmacy Physics Psychology Public_Health Sociology"
).split()
SPLITS = tuple(f"{subject}@validation" for subject in SUBJECTS)
ID_FIELD, IMAGE_FIELDS = "id", tuple(f"image_{number}" for number in range(1, 8))
QUESTION_COUNT = 900
CATEGORIES = ("subject", "difficulty")
LLM_JUDGED = True


def make_item(row: Record, part: str) -> dict[str, Any] | None:
    """Returns one question. Its subject is in its id, `validation_Accounting_1`."""
    name, kind, gold = row_id(row, ID_FIELD), text_field(row, "question_type"), text_field(row, "answer")
    choices = option_list(row)
    if kind not in ("multiple-choice", "open"):
        raise field_error(row, "question_type", f"is {kind!r}, neither multiple-choice nor open")
    if kind == "multiple-choice":
        answer: Any = gold_letter(row, gold, choices)
    else:
        answer = _alternative_golds(row, gold)
    found, (question, *choices) = number_images(row, IMAGE_FIELDS, [text_field(row, "question"), *choices])
    return filled_fields(
        {
            "id": name,
            "image": found,
            "hint": CHOICE_HINT if choices else FREE_HINT,
            "question": question,
            "choices": choices,
            "choices_shown": False if choices else None,
            "answer": answer,
            "subject": name.partition("_")[2].rpartition("_")[0],
            "subfield": row.get("subfield"),
            "difficulty": row.get("topic_difficulty"),
        }
    )


def _alternative_golds(row: Record, gold: str) -> str | list[str]:
    """Returns the golds of a list of texts, any of which is right; a list of numbers is one answer."""
    if not (gold.strip().startswith("[") and re.search(r"['\"]", gold)):
        return gold
    if not all(golds := option_list(row, "answer")):
        raise field_error(row, "answer", "contains an empty answer")
    return golds
