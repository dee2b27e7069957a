"""DynaMath (`DynaMath/DynaMath_Sample`): 501 questions in ten variants each; the mean over all, and the worst of the ten.

The official scorer takes an empty answer for right where the gold is a text; here it is none.
"""

from typing import Any

from sophia_cli.benchmarks._fields import CHOICE, FREE, filled, identity, images, text
from sophia_cli.records import Record

HUB = "DynaMath/DynaMath_Sample"
VARIANTS = 10
PARTS = tuple(f"default@sample_variant{number}" for number in range(1, VARIANTS + 1))
ID, IMAGES = "id", ("decoded_image",)
QUESTIONS = 501 * VARIANTS
BY = ("subject", "knowledge_level")
JUDGED = False
TOLERANCE = 0.001
DECIMALS = "Solve the problem and end with the final answer, a number to three decimals, in \\boxed{}."


def item(row: Record, part: str) -> dict[str, Any] | None:
    """One variant of a question; options stand in its text, floats are right to 0.001."""
    name, kind = identity(row, ID), text(row, "answer_type").strip().casefold()
    choice, number = "choice" in kind, kind == "float"
    return filled(
        {
            "id": f"{name}-{part.rpartition('sample_')[2]}" if part else name,
            "cluster": name,
            "image": images(row, IMAGES),
            "hint": CHOICE if choice else DECIMALS if number else FREE,
            "question": text(row, "question"),
            "answer": text(row, "ground_truth").strip(),
            "answer_type": "multiple choice" if choice else kind,
            "tolerance": TOLERANCE if number else None,
            "subject": row.get("subject"),
            "knowledge_level": row.get("knowledge_level"),
        }
    )
