"""MATH-Vision (`MathLLMs/MathVision`, test): competition problems with one drawing, five options or none.

Options are often bare letters, for they are in the drawing. A gold may be met by letter or by the option's value.
"""

import re
from typing import Any

from sophia_cli.benchmarks._fields import CHOICE, FREE, fault, filled, identity, images, letter, named, options, text
from sophia_cli.records import OPTION_LETTERS, Record

HUB = "MathLLMs/MathVision"
PARTS = ("default@test",)
ID, IMAGES = "id", ("decoded_image",)
QUESTIONS = 3040
BY = ("subject", "level", "geometry")
JUDGED = False
MARK = r"<image(\d+)>"
FIGURE = r"(figure \1)"
"""What a mark becomes where one drawing holds several figures."""
PLANE = {f"metric geometry - {what}" for what in ("angle", "area", "length")}


def item(row: Record, part: str) -> dict[str, Any] | None:
    """One problem; `geometry` is plane (three subjects) or solid, as in the paper's Table 3."""
    choices, question, subject = options(row), text(row, "question"), row.get("subject")
    marks = set(re.findall(MARK, question))
    gold = text(row, "answer").strip()
    choices = (
        list(OPTION_LETTERS[: len(choices)]) if not any(choices) else [re.sub(MARK, FIGURE, choice) for choice in choices]
    )
    if choices and gold not in choices:
        gold = letter(row, gold, choices)
    if not choices and not gold:
        raise fault(row, "answer", "is empty")
    drawn = bool(choices) and choices == list(OPTION_LETTERS[: len(choices)])
    return filled(
        {
            "id": identity(row, ID),
            "image": images(row, IMAGES),
            "hint": CHOICE if choices else FREE,
            # one drawing holds all figures: where several are named it comes first, and the marks stay words
            "question": named(MARK, question) if marks == {"1"} else re.sub(MARK, FIGURE, question),
            "choices": choices,
            "choices_shown": True if drawn else None,
            "answer": gold,
            "subject": subject,
            "level": row.get("level"),
            "geometry": "plane" if subject in PLANE else "solid" if subject == "solid geometry" else None,
        }
    )
