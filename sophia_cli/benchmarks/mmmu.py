"""MMMU (`MMMU/MMMU`, validation, all 30 subjects): college questions, most with options, images within the text.

The official parser gives an unreadable answer a random option; here it is unreadable. Three open golds are lists.
"""

import re
from typing import Any

from sophia_cli.benchmarks._fields import CHOICE, FREE, fault, filled, identity, letter, numbered, options, text
from sophia_cli.records import Record

HUB = "MMMU/MMMU"
SUBJECTS = (
    "Accounting Agriculture Architecture_and_Engineering Art Art_Theory Basic_Medical_Science Biology Chemistry "
    "Clinical_Medicine Computer_Science Design Diagnostics_and_Laboratory_Medicine Economics Electronics "
    "Energy_and_Power Finance Geography History Literature Manage Marketing Materials Math Mechanical_Engineering Music "
    "Pharmacy Physics Psychology Public_Health Sociology"
).split()
PARTS = tuple(f"{subject}@validation" for subject in SUBJECTS)
ID, IMAGES = "id", tuple(f"image_{number}" for number in range(1, 8))
QUESTIONS = 900
BY = ("subject", "difficulty")
JUDGED = True


def item(row: Record, part: str) -> dict[str, Any] | None:
    """One question; its subject is in its id, `validation_Accounting_1`."""
    name, kind, gold = identity(row, ID), text(row, "question_type"), text(row, "answer")
    choices = options(row)
    if kind not in ("multiple-choice", "open"):
        raise fault(row, "question_type", f"is {kind!r}, neither multiple-choice nor open")
    if kind == "multiple-choice":
        answer: Any = letter(row, gold, choices)
    else:
        answer = _alternatives(row, gold)
    found, (question, *choices) = numbered(row, IMAGES, [text(row, "question"), *choices])
    return filled(
        {
            "id": name,
            "image": found,
            "hint": CHOICE if choices else FREE,
            "question": question,
            "choices": choices,
            "choices_shown": False if choices else None,
            "answer": answer,
            "subject": name.partition("_")[2].rpartition("_")[0],
            "subfield": row.get("subfield"),
            "difficulty": row.get("topic_difficulty"),
        }
    )


def _alternatives(row: Record, gold: str) -> str | list[str]:
    """The golds of a list of texts, which any of them meets; a list of numbers is one answer."""
    if not (gold.strip().startswith("[") and re.search(r"['\"]", gold)):
        return gold
    if not all(golds := options(row, "answer")):
        raise fault(row, "answer", "holds an empty answer")
    return golds
