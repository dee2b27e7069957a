"""MathVista (`AI4Math/MathVista`, testmini): figures, charts and tables; asked in the benchmark's own words (`query`).

The gold of a choice question is the option's text, not its letter. The official scorer credits the option nearest to any
answer; here an answer is an option or it is not.
"""

from typing import Any

from sophia_cli.benchmarks._fields import fault, filled, identity, images, number, options, text
from sophia_cli.records import OPTION_LETTERS, Record

HUB = "AI4Math/MathVista"
PARTS = ("default@testmini",)
ID, IMAGES = "pid", ("decoded_image",)
QUESTIONS = 1000
BY = ("task", "skills")
JUDGED = False


def item(row: Record, part: str) -> dict[str, Any] | None:
    """One question; a gold with decimals is compared after rounding to its `precision`, a whole number as it is."""
    choices, answer, places = options(row, "choices"), text(row, "answer"), number(row, "precision")
    about = row.get("metadata") or {}
    if not isinstance(about, dict):
        raise fault(row, "metadata", "is no object")
    gold: str | list[str] = answer.strip()
    if row.get("question_type") == "multi_choice" and not choices:
        raise fault(row, "choices", "holds no options, and the question is to be answered by one")
    if choices and gold not in choices:
        raise fault(row, "answer", f"is {answer!r}, none of the options")
    if choices.count(answer.strip()) > 1:  # two options say the same: either letter is right
        gold = [answer.strip(), *(letter for letter, choice in zip(OPTION_LETTERS, choices, strict=False) if choice == gold)]
    return filled(
        {
            "id": identity(row, ID),
            "image": images(row, IMAGES),
            "question": text(row, "query"),
            "choices": choices,
            "choices_shown": True if choices else None,
            "answer": gold,
            "answer_type": row.get("answer_type"),
            "precision": int(places) if places is not None and row.get("answer_type") == "float" else None,
            "unit": row.get("unit"),
            "language": about.get("language"),
            "task": about.get("task"),
            "skills": about.get("skills"),
            "category": about.get("category"),
            "grade": about.get("grade"),
        }
    )
