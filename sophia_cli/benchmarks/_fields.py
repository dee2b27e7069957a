"""Reads fields of benchmark rows. Each function refuses what it cannot read and names the field."""

import ast
import io
import math
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sophia_cli.errors import RecordError
from sophia_cli.records import OPTION_LETTERS, Record, need_text, where_of

FIX_HINT = "the row differs from the public data set; remove or fix it"
CHOICE_HINT = "Solve the multiple-choice question and end with the letter of the right option in \\boxed{}."
FREE_HINT = "Solve the problem and end with the final answer in \\boxed{}."


def text_field(row: Record, field: str, empty: bool = False) -> str:
    """Returns the text of a field.

    Raises:
        RecordError: it is not a text, or is empty.
    """
    return need_text(row, field, FIX_HINT, empty=empty)


def field_error(row: Mapping[str, Any], field: str, what: str) -> RecordError:
    """Returns the error of a field."""
    return RecordError(f"{where_of(row)}: field `{field}` {what}; {FIX_HINT}")


def option_list(row: Record, field: str = "options") -> list[str]:
    """Returns a list of options, from a list or a text that holds a Python list; none for an empty one.

    Raises:
        RecordError: it is neither.
    """
    given = row.get(field)
    if isinstance(given, str):
        written = given
        try:
            given = ast.literal_eval(given) if given.strip() else []
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise field_error(row, field, "is a text without a list") from None
        if _has_adjacent_literals(written):
            raise field_error(row, field, "is a list with a missing comma")
    if given is None:
        return []
    if not isinstance(given, list | tuple) or any(isinstance(each, list | dict) or each is None for each in given):
        raise field_error(row, field, "is not a list of options")
    return [str(each).strip() for each in given]


def _has_adjacent_literals(literal: str) -> bool:
    """Tells whether two strings of a literal stand side by side: Python would join them into one."""
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(literal).readline) if token.type != tokenize.NL]
    return any(pair == (tokenize.STRING, tokenize.STRING) for pair in pairwise(kinds))


def image_fields(row: Record, fields: Iterable[str]) -> list[str]:
    """Returns the images in these fields that exist, in order.

    Raises:
        RecordError: there is none.
    """
    names = list(fields)
    found = [row[name] for name in names if row.get(name) is not None]
    if not found:
        raise field_error(row, names[0], "contains no image")
    if odd := [name for name in names if row.get(name) is not None and not isinstance(row[name], str)]:
        raise field_error(row, odd[0], "is not an image")
    return found


def gold_letter(row: Record, gold: str, choices: list[str], field: str = "answer") -> str:
    """Returns the gold letter of a multiple-choice question.

    Raises:
        RecordError: it is not the letter of an option.
    """
    found = re.fullmatch(r"[(\s]*([A-Za-z])[).\s]*", gold)
    if not found or found[1].upper() not in OPTION_LETTERS[: len(choices)]:
        last = OPTION_LETTERS[len(choices) - 1] if choices else "none"
        raise field_error(row, field, f"is {gold!r}, but the options are A to {last}")
    return found[1].upper()


def number_field(row: Record, field: str) -> float | None:
    """Returns a number, also one written as text; None where there is none.

    Raises:
        RecordError: it is something else.
    """
    given = row.get(field)
    if given is None or given == "":
        return None
    try:
        found = float(given)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise field_error(row, field, f"is {given!r}, not a number")
    return found


def row_id(row: Record, field: str) -> str:
    """Returns the id of a row, a text or a whole number.

    Raises:
        RecordError: it is something else.
    """
    given = row.get(field)
    if isinstance(given, bool) or not isinstance(given, int | str) or given == "":
        raise field_error(row, field, "is not an id")
    return str(given)


IMAGE_TAG = r"<image (\d+)>"


def number_images(row: Record, fields: Sequence[str], texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the existing images, and the texts in which each tag (`<image 2>`: the second field) is replaced by its
    position among them.

    Raises:
        RecordError: there is no image, or a text names a missing one.
    """
    found, there = image_fields(row, fields), [number for number, name in enumerate(fields, 1) if row.get(name) is not None]
    for number in {int(mark) for text in texts for mark in re.findall(IMAGE_TAG, text)}:
        if number not in there:
            name = fields[number - 1] if 0 < number <= len(fields) else f"image_{number}"
            raise field_error(row, name, f"contains no image, but the question names <image {number}>")

    def placed(mark: re.Match[str]) -> str:
        return f"<image {there.index(int(mark[1])) + 1}>"

    return found, [re.sub(IMAGE_TAG, placed, text) for text in texts]


def rename_tags(pattern: str, question: str) -> str:
    """Returns the question with its own image tags (a pattern whose group is the number) as `<image 1>`."""
    return re.sub(pattern, lambda mark: f"<image {int(mark[1])}>", question)


def filled_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields that are not empty."""
    return {name: value for name, value in fields.items() if value is not None and value != "" and value != []}
