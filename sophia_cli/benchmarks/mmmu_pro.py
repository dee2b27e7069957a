"""MMMU-Pro, vision (`MMMU/MMMU_Pro`): a screenshot holds the question and its options, up to twelve."""

from typing import Any

from sophia_cli.benchmarks._fields import filled, identity, images, letter, options, text
from sophia_cli.records import Record

HUB = "MMMU/MMMU_Pro"
PARTS = ("vision@test",)
ID, IMAGES = "id", ("image",)
QUESTIONS = 1730
BY = ("subject",)
JUDGED = False
QUESTION = (
    "Read the question and its options in the image, solve it, and end with the letter of the right option in \\boxed{}."
)


def item(row: Record, part: str) -> dict[str, Any] | None:
    """One question; its options are for grading, the model sees them in the image alone."""
    choices = options(row)
    return filled(
        {
            "id": identity(row, ID),
            "image": images(row, IMAGES),
            "question": QUESTION,
            "choices": choices,
            "choices_shown": True,
            "answer": letter(row, text(row, "answer"), choices),
            "subject": row.get("subject"),
        }
    )
