"""The record that flows through the pipe: its fields, its ids, and checks that name a bad field.

A record is a flat JSON object. Each step adds the fields listed under its name in `STEP_FIELDS` and keeps every other field
and the order of the fields (contract.md, "The record").
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from sophia_cli.errors import RecordError

STEP_FIELDS: dict[str, tuple[str, ...]] = {
    "caption": ("caption_id", "caption_count", "caption", "caption_model", "caption_tokens", "caption_finish"),
    "reason": (
        "trajectory_id",
        "trajectory_count",
        "trajectory",
        "reason_model",
        "trajectory_tokens",
        "finish_reason",
    ),
    "grade": ("extracted", "verdict", "verified_by", "reward", "mentions_caption"),
    "propagate": ("caption_reward", "selected", "weight"),
}

JUDGE_FIELDS = ("rules_verdict", "judge_verdict", "judge_model", "judge_parts", "judge_parts_right", "extracted_by")
"""The fields that an LLM judge adds."""

AFTER_CAPTION = frozenset(
    STEP_FIELDS["reason"]
    + STEP_FIELDS["grade"]
    + STEP_FIELDS["propagate"]
    + JUDGE_FIELDS
    + ("stop_alpha", "stop_length", "trajectory_logprob")
)
"""The fields that steps after `caption` add. Without them, a record is as `caption` wrote it."""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
"""The tags around the thinking in trajectories and responses."""

OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The letters of the options, in order."""

ID_FIELDS = ("sample_id", "trajectory_id", "caption_id", "id")
"""Id fields from most to least specific. The first one present is the name of the record."""


class Record(dict[str, Any]):
    """A record that knows where it was read (`traj.jsonl:7`), so that an error can name the place."""

    where: str = "?"

    def __init__(self, fields: Mapping[str, Any], where: str = "?"):
        super().__init__(fields)
        self.where = where


SYNONYMS = {"question": ("problem", "query"), "image": ("images",)}
"""Columns that are read as another where the other is missing. Answers have no synonyms: `solution` is often a text."""


def step_names(row: Mapping[str, Any]) -> dict[str, str]:
    """Returns the columns of a row that are read under another name: {"question": "problem"}."""
    found = {}
    for name, synonyms in SYNONYMS.items():
        given = [synonym for synonym in synonyms if row.get(synonym) is not None]
        if row.get(name) is None and given:
            found[name] = given[0]
    return found


def with_step_names(row: Record) -> Record:
    """Returns a row whose question and images have the names that steps read; the user's own columns stay."""
    found = step_names(row)
    return Record({**row, **{name: row[own] for name, own in found.items()}}, row.where) if found else row


GRADING_FIELDS = ("choices", "answer_type", "tolerance", "precision", "unit", "language")
"""Fields of an item, beside `answer`, that its verdict may depend on."""


def record_name(record: Mapping[str, Any]) -> str:
    """Returns the most specific id of a record, for messages."""
    name = next((str(record[field]) for field in ID_FIELDS if record.get(field)), "without id")
    return "".join(mark if mark.isprintable() else "?" for mark in name)


def has_failed(record: Mapping[str, Any]) -> bool:
    """Tells whether an earlier step failed on this record. `error: null`, as tables write it, is no failure."""
    return record.get("error") is not None


def choices_of(record: Mapping[str, Any]) -> list[str]:
    """Returns the options of a multiple-choice question; an empty list for other questions.

    Data sets also write them as an object by letter, `{"A": "1", "B": "2"}`, and as a list of objects with a text and
    perhaps a letter, `[{"label": "A", "text": "1"}]`.

    Raises:
        RecordError: `choices` is something else.
    """
    choices = record.get("choices")
    if choices is None:
        return []
    if isinstance(choices, dict):
        texts = _first_field(choices, OPTION_TEXTS)
        if isinstance(texts, list):  # {"label": ["A", "B"], "text": ["1", "2"]}, as in ARC
            labels = _first_field(choices, OPTION_LABELS)
            return _in_label_order(texts, labels if isinstance(labels, list) and len(labels) == len(texts) else [])
        return _in_label_order(list(choices.values()), list(choices))
    if not isinstance(choices, list):
        raise RecordError(f"{where_of(record)}: field `choices` is {_json_type(choices)}, not a list; fix the field")
    if choices and all(isinstance(choice, list) and len(choice) == 2 for choice in choices):  # [["A", "1"], ["B", "2"]]
        return _in_label_order([text for _, text in choices], [label for label, _ in choices])
    if not any(isinstance(choice, dict) for choice in choices):
        return [str(choice) for choice in choices]
    labels = [_first_field(choice, OPTION_LABELS) for choice in choices]
    texts = [_first_field(choice, OPTION_TEXTS) for choice in choices]
    if any(text is None for text in texts):
        raise RecordError(f"{where_of(record)}: field `choices` has an object without `text`; write a list of texts")
    letters = list(OPTION_LETTERS[: len(choices)])
    if texts == letters and sorted(map(str, labels)) != letters:  # [{"value": "A", "label": "1"}]
        labels, texts = texts, labels
    return _in_label_order(texts, labels)


OPTION_LABELS, OPTION_TEXTS = ("label", "letter", "key", "id"), ("text", "content", "value", "option")


def _in_label_order(texts: list[Any], labels: list[Any]) -> list[str]:
    """Returns the texts in the order of their labels. Tables fill options that a question lacks with null."""
    if labels and all(label is not None for label in labels):
        texts = [text for _, text in sorted(zip(labels, texts, strict=True), key=lambda pair: _label_order(pair[0]))]
    return [str(text) for text in texts if text is not None]


def _first_field(choice: Any, names: tuple[str, ...]) -> Any:
    return next((choice[name] for name in names if name in choice), None) if isinstance(choice, dict) else None


def _label_order(label: Any) -> tuple[int, str]:
    """Sorts B after A, and 10 after 2."""
    return len(str(label)), str(label)


def need_text(record: Mapping[str, Any], field: str, remedy: str, empty: bool = False) -> str:
    """Returns the text in `field`.

    Args:
        record: The record.
        field: The name of the field.
        remedy: What the user should do when the field is bad; the end of the message.
        empty: Accept an empty text.

    Raises:
        RecordError: the field is missing, not a text, or empty.
    """
    value = record.get(field)
    if isinstance(value, str) and (value or empty):
        return value
    fault = "is missing" if field not in record else "is empty" if value == "" else f"is {_json_type(value)}, not a string"
    raise RecordError(f"{where_of(record)}: field `{field}` {fault}; {remedy}")


def check_surrogates(text: str) -> None:
    """Checks that a text can be encoded. JSON can hold half of a surrogate pair (`"\\ud83d"`), which is no character.

    Raises:
        RecordError: it has such a half; tokenizers and JSON encoders refuse it.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise RecordError(f"the text has half of a surrogate pair ({half}); delete or fix the character") from None


def need_count(record: Mapping[str, Any], field: str) -> int:
    """Returns the positive whole number in `field`.

    Raises:
        RecordError: the field is missing or something else.
    """
    value = record.get(field)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    fault = "is missing" if field not in record else f"is {_json_type(value)}, not a positive whole number"
    raise RecordError(f"{where_of(record)}: field `{field}` {fault}; {_written_by(field)}")


def _written_by(field: str) -> str:
    step = next((step for step, fields in STEP_FIELDS.items() if field in fields), None)
    return f"`sophia {step}` writes it" if step else "the step that samples writes it"


def is_finite(value: Any) -> TypeGuard[float]:
    """Tells whether a value is a number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def need_number(record: Mapping[str, Any], field: str) -> float | None:
    """Returns the finite number or null in `field`.

    Raises:
        RecordError: the field is missing or something else.
    """
    value = record.get(field)
    if value is None and field in record:
        return None
    if is_finite(value):
        return float(value)
    fault = "is missing" if field not in record else f"is {_json_type(value)}, not a number or null"
    raise RecordError(f"{where_of(record)}: field `{field}` {fault}; {_written_by(field)}")


def image_list(record: Mapping[str, Any]) -> list[str]:
    """Returns the images of a record, in order: paths, URLs or data URIs.

    Raises:
        RecordError: `image` is neither a text nor a list of texts.
    """
    value = record.get("image")
    if value is None:
        return []
    images = value if isinstance(value, list) else [value]
    if all(isinstance(image, str) and image for image in images):
        return images
    raise RecordError(f"{where_of(record)}: field `image` is not a path, URL, data URI or a list of them; fix it")


def where_of(record: Mapping[str, Any]) -> str:
    """Returns where a record was read (`FILE:LINE`), or `?`."""
    return getattr(record, "where", "?")


def _json_type(value: Any) -> str:
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return "a number beyond the range of a float"
    kinds = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
    }
    return kinds.get(type(value), "an object")


def item_id(images: Iterable[bytes], question: str, answer: Any = None) -> str:
    """Returns an id for an item without one: 16 hex digits of SHA-256 over the bytes of its images, its question and its
    answer.
    """
    digest = hashlib.sha256()
    for image in images:
        digest.update(hashlib.sha256(image).digest())
    digest.update(question.encode("utf-8", "surrogatepass"))
    if answer is not None:
        digest.update(b"\0" + json.dumps(answer, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def caption_id(item: str, k: int) -> str:
    return f"{item}/c{k}"


def trajectory_id(caption: str, n: int, tag: str | None = None) -> str:
    return f"{caption}/{tag}.t{n}" if tag else f"{caption}/t{n}"


def sample_id(item: str, n: int) -> str:
    return f"{item}/s{n}"


def sample_seed(seed: int, name: str, number: int) -> int:
    """Returns the seed of one sample: 63 bits made from the run's seed, the record's id and the sample's number."""
    digest = hashlib.sha256(f"{seed}\x00{name}\x00{number}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def error_record(record: Mapping[str, Any], error: str, ids: Mapping[str, Any]) -> Record:
    """Returns the record of a failure: the step's ids and counts, and `error` in one line."""
    return Record({**record, **ids, "error": " ".join(str(error).split())}, where_of(record))
