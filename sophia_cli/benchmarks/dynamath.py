"""DynaMath (`DynaMath/DynaMath_Sample`): 501 questions in ten variants each; reports the mean over all, and the worst of
the ten.

The official scorer counts an empty answer as right where the gold is a text; here it is no answer.
"""

from typing import Any

from sophia_cli.benchmarks._fields import CHOICE_HINT, FREE_HINT, filled_fields, image_fields, row_id, text_field
from sophia_cli.records import Record

HUB_ID = "DynaMath/DynaMath_Sample"
VARIANTS = 10
SPLITS = tuple(f"default@sample_variant{number}" for number in range(1, VARIANTS + 1))
ID_FIELD, IMAGE_FIELDS = "id", ("decoded_image",)
QUESTION_COUNT = 501 * VARIANTS
CATEGORIES = ("subject", "knowledge_level")
LLM_JUDGED = False
# The authors' own check of numbers: |answer - gold| <= 0.001.
TOLERANCE = 0.001
DECIMALS = "Solve the problem and end with the final answer, a number to three decimals, in \\boxed{}."


def make_item(row: Record, part: str) -> dict[str, Any] | None:
    """Returns one variant of a question. Options are in its text; floats are right within 0.001."""
    name, kind = row_id(row, ID_FIELD), text_field(row, "answer_type").strip().casefold()
    choice, number = "choice" in kind, kind == "float"
    return filled_fields(
        {
            "id": f"{name}-{part.rpartition('sample_')[2]}" if part else name,
            "cluster": name,
            "image": image_fields(row, IMAGE_FIELDS),
            "hint": CHOICE_HINT if choice else DECIMALS if number else FREE_HINT,
            "question": text_field(row, "question"),
            "answer": text_field(row, "ground_truth").strip(),
            "answer_type": "multiple choice" if choice else kind,
            "tolerance": TOLERANCE if number else None,
            "subject": row.get("subject"),
            "knowledge_level": row.get("knowledge_level"),
        }
    )
