r"""MV-MATH (`PeijieWang/MV-MATH`): school problems with two to eight images within the text; JSON and image files.

No public harness has it. Golds separate alternatives by `\#\#`. A problem of several steps is right when all steps
are; with `--judge`, a judge also says how many are, as the official one does.
"""

import re
from typing import Any

from sophia_cli.benchmarks._fields import CHOICE_HINT, FREE_HINT, field_error, filled_fields, rename_tags, row_id, text_field
from sophia_cli.records import Record

HUB_ID = "PeijieWang/MV-MATH"
SPLITS = ("*.json",)
ID_FIELD, IMAGE_FIELDS = "problem_id", ("input_image",)
QUESTION_COUNT = 2009
CATEGORIES = ("subject", "answer_kind", "difficulty", "image_relevance")
LLM_JUDGED = True
STEPS = "Solve all parts of the problem and end with their answers, in order, in one \\boxed{}."
HINTS = {"choice": CHOICE_HINT, "single-step": FREE_HINT, "multi-step": STEPS}
IMAGE_TAG = re.compile(r"<image_(\d+)>")
RELEVANCE = {"0": "independent", "1": "dependent"}


def make_item(row: Record, part: str) -> dict[str, Any] | None:
    """Returns one problem. Its images are files beside the JSON, its options are in the question."""
    kind, files = text_field(row, "answer_type"), row.get("input_image")
    if kind not in HINTS:
        raise field_error(row, "answer_type", f"is {kind!r}, not one of {', '.join(HINTS)}")
    if not isinstance(files, list) or not files or not all(isinstance(file, str) and file for file in files):
        raise field_error(row, "input_image", "is not a list of image files")
    question = text_field(row, "question")
    if beyond := [mark[0] for mark in IMAGE_TAG.finditer(question) if not 0 < int(mark[1]) <= len(files)]:
        raise field_error(row, "question", f"names {beyond[0]}, but there are {len(files)} images")
    return filled_fields(
        {
            "id": row_id(row, ID_FIELD),
            "image": files,
            "hint": HINTS[kind],
            "question": rename_tags(IMAGE_TAG.pattern, question),
            "answer": text_field(row, "answer").strip(),
            "answer_type": "multiple choice" if kind == "choice" else None,
            "answer_kind": kind,
            "in_parts": True if kind == "multi-step" else None,
            "subject": row.get("subject"),
            "difficulty": row.get("difficulty"),
            "grade": row.get("grade"),
            "image_relevance": RELEVANCE.get(str(row.get("image_relavance"))),
        }
    )
