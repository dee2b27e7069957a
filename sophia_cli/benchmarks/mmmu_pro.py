"""MMMU-Pro, vision (`MMMU/MMMU_Pro`): a screenshot holds the question and up to twelve options."""

from typing import Any

from sophia_cli.benchmarks._fields import filled_fields, gold_letter, image_fields, option_list, row_id, text_field
from sophia_cli.records import Record

HUB_ID = "MMMU/MMMU_Pro"
SPLITS = ("vision@test",)
ID_FIELD, IMAGE_FIELDS = "id", ("image",)
QUESTION_COUNT = 1730
CATEGORIES = ("subject",)
LLM_JUDGED = False
QUESTION = (
    "Read the question and its options in the image, solve it, and end with the letter of the right option in \\boxed{}."
)


def make_item(row: Record, part: str) -> dict[str, Any] | None:
    """Returns one question. Its options are for grading; the model sees them in the image only."""
    choices = option_list(row)
    return filled_fields(
        {
            "id": row_id(row, ID_FIELD),
            "image": image_fields(row, IMAGE_FIELDS),
            "question": QUESTION,
            "choices": choices,
            "choices_shown": True,
            "answer": gold_letter(row, text_field(row, "answer"), choices),
            "subject": row.get("subject"),
        }
    )
