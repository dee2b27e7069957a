"""OlympiadBench (`Hothan/OlympiadBench`, the ten `OE_*` configs): olympiads and entrance exams, Chinese and English.

The proofs (`TP_*`) are left out, as in the paper. The prompt states the answer's type, whether several are wanted, and
that the unit stays out of the box, in the question's language.
"""

import math
import re
from typing import Any

from sophia_cli.benchmarks._fields import field_error, filled_fields, image_fields, option_list, row_id, text_field
from sophia_cli.records import Record

HUB_ID = "Hothan/OlympiadBench"
CONFIGS = (
    "OE_MM_maths_en_COMP OE_MM_maths_zh_CEE OE_MM_maths_zh_COMP OE_MM_physics_en_COMP OE_MM_physics_zh_CEE "
    "OE_TO_maths_en_COMP OE_TO_maths_zh_CEE OE_TO_maths_zh_COMP OE_TO_physics_en_COMP OE_TO_physics_zh_CEE"
).split()
SPLITS = tuple(f"{config}@train" for config in CONFIGS)
ID_FIELD, IMAGE_FIELDS = "id", tuple(f"image_{number}" for number in range(1, 10))
QUESTION_COUNT = 6728
CATEGORIES = ("images", "subject", "language", "subfield")
LLM_JUDGED = False
IMAGE_TAG = re.compile(r"<(?:img|image)_(\d+)>")
KINDS = {
    "en": {
        "Numerical": "a number",
        "Expression": "an expression",
        "Equation": "an equation",
        "Interval": "an interval",
        "Tuple": "a tuple",
    },
    "zh": {"Numerical": "数值", "Expression": "表达式", "Equation": "方程", "Interval": "区间", "Tuple": "元组"},
}
WORDS = {
    "en": {
        "task": "Solve the problem and end with the final answer in \\boxed{}.",
        "one": " The answer is {kinds}.",
        "several": " There are several answers ({kinds}); give all of them in one box, separated by commas.",
        "unit": " Leave the unit ({unit}) out of the box.",
        "and": " or ",
    },
    "zh": {
        "task": "请解答下面的题目，并把最终答案写在\\boxed{}中。",
        "one": "答案的类型是{kinds}。",
        "several": "题目有多个答案（{kinds}），请全部写在同一个方框里，用英文逗号隔开。",
        "unit": "单位（{unit}）不要写进方框。",
        "and": "或",
    },
}


def make_item(row: Record, part: str) -> dict[str, Any] | None:
    """Returns one problem. Its `context` comes before it, and the images that it names are numbered in order."""
    config = part.partition("@")[0]
    language = {"English": "en", "Chinese": "zh"}.get(str(row.get("language")), "zh" if "_zh_" in config else "en")
    golds, several = option_list(row, "final_answer"), row.get("is_multiple_answer") is True
    if not golds or not all(golds):
        raise field_error(row, "final_answer", "is empty")
    if len(golds) > 1 and not several:
        raise field_error(row, "final_answer", f"contains {len(golds)} answers, but one is expected")
    drawn = "_MM_" in config or any(row.get(name) is not None for name in IMAGE_FIELDS)
    found = image_fields(row, IMAGE_FIELDS) if drawn else []
    context = text_field(row, "context", empty=True) + "\n" if row.get("context") else ""
    kinds = [kind.strip() for kind in str(row.get("answer_type") or "").split(",") if kind.strip()]
    return filled_fields(
        {
            "id": f"{config}-{row_id(row, 'id')}",
            "image": found,
            "hint": _prompt_hint(language, kinds, several, row.get("unit")),
            "question": _number_images(row, context + text_field(row, "question"), found),
            "answer": ", ".join(golds),
            "answer_type": kinds[0] if len(set(kinds)) == 1 and not several else None,
            "tolerance": _parse_tolerance(row, ", ".join(golds)),
            "unit": row.get("unit"),
            "language": language,
            "images": "with" if found else "without",
            "subject": row.get("subject"),
            "subfield": row.get("subfield"),
            "difficulty": row.get("difficulty"),
        }
    )


def _prompt_hint(language: str, kinds: list[str], several: bool, unit: Any) -> str:
    words, names = WORDS[language], KINDS[language]
    said = words["and"].join(dict.fromkeys(names.get(kind, kind) for kind in kinds))
    hint = words["task"] + (words["several" if several else "one"].format(kinds=said) if said else "")
    return hint + (words["unit"].format(unit=unit) if unit else "")


def _number_images(row: Record, question: str, found: list[str]) -> str:
    """Returns the question with its image tags as `<image 1>`, by position among the existing images.

    `<image_2>` is the second field; `<img_3362>` tags stand for the images in the order of first mention.

    Raises:
        RecordError: a tag has no image.
    """
    there = [number for number, name in enumerate(IMAGE_FIELDS, 1) if row.get(name) is not None]
    marks = list(dict.fromkeys(mark[0] for mark in IMAGE_TAG.finditer(question)))
    fields = {mark: int(mark[len("<image_") : -1]) for mark in marks if mark.startswith("<image_")}
    if len(fields) == len(marks):
        order = {mark: there.index(number) + 1 if number in there else 0 for mark, number in fields.items()}
    else:
        order = {mark: position if position <= len(found) else 0 for position, mark in enumerate(marks, 1)}
    if missing := [mark for mark, position in order.items() if not position]:
        raise field_error(row, "question", f"names {missing[0]}, but there are {len(found)} images (fields {there})")
    return IMAGE_TAG.sub(lambda mark: f"<image {order[mark[0]]}>", question)


def _parse_tolerance(row: Record, gold: str) -> float | list[float | None] | None:
    """Returns `error`: one absolute tolerance, or one for each answer (`0.1,,0.2`).

    Raises:
        RecordError: it is neither.
    """
    given = row.get("error")
    if given is None or str(given).strip() == "":
        return None
    try:
        parts = [float(part) if part.strip() else None for part in str(given).split(",")]
    except ValueError:
        raise field_error(row, "error", f"is {given!r}, not a tolerance") from None
    if any(part is not None and not 0 <= part < math.inf for part in parts):
        raise field_error(row, "error", f"is {given!r}, not a tolerance")
    if len(parts) > 1 and "\\pm" not in gold and len(parts) != (answers := _outer_commas(gold) + 1):
        raise field_error(row, "error", f"contains {len(parts)} tolerances for {answers} answers")
    return parts[0] if len(parts) == 1 else parts


def _outer_commas(text: str) -> int:
    """Returns the number of commas outside brackets: those between answers."""
    deep = found = 0
    for mark in text:
        deep += (mark in "([{") - (mark in ")]}")
        found += mark in ",，" and not deep
    return found
