"""Parquet files with images, written row by row.

A first pass finds the column types. Images are stored as `datasets` stores them.
"""

import json
import mimetypes
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sophia_cli.errors import RecordError
from sophia_cli.io.images import is_embedded, wire_bytes

BATCH_ROWS, BATCH_BYTES = 1000, 64 << 20
"""Rows and bytes written together, whichever is reached first."""
FILE_BYTES = 400 << 20
"""Bytes of images and texts after which the next file of a folder starts."""
TEXT_TYPE, LONG_TYPE, PARTS_TYPE = "string", "long", "chat of parts"
MAX_EXACT_INT = 1 << 53
"""Largest integer that a float column holds exactly. A column that mixes larger ones with floats becomes text."""

Row = dict[str, Any]


def column_types(rows: Iterable[Row], shaped: tuple[str, ...]) -> dict[str, str]:
    """Returns the type of each column, in order of appearance. A column with several kinds of values is text.

    Args:
        rows: The rows.
        shaped: Columns whose type is known (`dataset_features`).
    """
    types: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            kind = _shaped_type(name, value) if name in shaped else _value_type(value)
            types[name] = _common_type(types.get(name, ""), kind)
    return {name: "int64" if kind == LONG_TYPE else kind or TEXT_TYPE for name, kind in types.items()}


def _shaped_type(name: str, value: Any) -> str:
    """Returns the type of a column of known shape; a chat may have texts, or lists of parts, for its contents."""
    has_parts = isinstance(value, list) and any(
        isinstance(turn, dict) and isinstance(turn.get("content"), list) for turn in value
    )
    return PARTS_TYPE if has_parts else name


def _value_type(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return "int64" if abs(value) <= MAX_EXACT_INT else LONG_TYPE if -(1 << 63) <= value < 1 << 63 else TEXT_TYPE
    return {bool: "bool", float: "float64"}.get(type(value), TEXT_TYPE)


def _common_type(one: str, other: str) -> str:
    if one == other or not one or not other:
        return one or other
    if {one, other} == {"int64", LONG_TYPE}:
        return LONG_TYPE
    return "float64" if {one, other} == {"int64", "float64"} else TEXT_TYPE


def typed_row(row: Row, types: dict[str, str]) -> Row:
    """Returns a row with the types of its table.

    Raises:
        RecordError: a text cannot be written.
    """
    return check_unicode({name: _cell_value(row.get(name), kind) for name, kind in types.items()})


def check_unicode(row: Row) -> Row:
    """Returns the row.

    Raises:
        RecordError: a text holds half of a surrogate pair, which readers of JSON and parquet refuse.
    """
    for name, value in row.items():
        try:
            if name != "images":
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RecordError(f"field `{name}` holds half of a surrogate pair; fix the text") from None
    return row


def _cell_value(value: Any, kind: str) -> Any:
    if kind == "float64" and value is not None:
        return float(value)
    if kind == PARTS_TYPE:
        return [{**turn, "content": [{"text": None, **part} for part in turn["content"]]} for turn in value]
    if value is None or kind != TEXT_TYPE or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def dataset_features(types: dict[str, str]) -> Any:
    """Returns the types as `datasets` features, with images."""
    from datasets import Features, Image, List, Value

    text = Value("string")
    chat = List({"role": text, "content": text})
    part = {"type": text, "text": text}
    shapes = {
        PARTS_TYPE: List({"role": text, "content": List(part)}),
        "images": List(Image()),
        "messages": chat,
        "prompt": chat,
        "reward_model": {"style": text, "ground_truth": text},
        "extra_info": {"index": text, "split": text, "question": text, "answer": List(text)},
    }
    return Features({name: shapes[kind] if kind in shapes else Value(kind) for name, kind in types.items()})


def write_parquet(rows: Iterable[Row], types: dict[str, str], path: Path) -> None:
    """Writes one parquet file from rows that `typed_row` made."""
    for _ in _write_files(rows, types, lambda number: path, 1 << 62):
        pass


def write_parquet_folder(rows: Iterable[Row], types: dict[str, str], folder: Path) -> list[Path]:
    """Writes `data/train-00000-of-00003.parquet` and so on, of bounded size. Returns the paths."""
    data = folder / "data"
    data.mkdir(parents=True)
    drafts = list(_write_files(rows, types, lambda number: data / f"draft-{number:05}", FILE_BYTES))
    return [draft.rename(data / f"train-{i:05}-of-{len(drafts):05}.parquet") for i, draft in enumerate(drafts)]


def _write_files(rows: Iterable[Row], types: dict[str, str], path_of: Callable[[int], Path], most: int) -> Iterator[Path]:
    """Writes the rows into one file after another, each until it holds `most` bytes. Yields the paths."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = dataset_features(types).arrow_schema
    batches = _row_batches(rows)
    batch, size = next(batches, ([], 0))
    number = 0
    while batch or number == 0:
        held = 0
        with parquet.ParquetWriter(path_of(number), schema) as writer:
            while batch and held < most:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                held += size
                batch, size = next(batches, ([], 0))
            if not held:
                writer.write_table(schema.empty_table())
        yield path_of(number)
        number += 1


def _row_batches(rows: Iterable[Row]) -> Iterator[tuple[list[Row], int]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(image["bytes"] or b"") for image in row.get("images") or []) + sum(
            len(value) for value in row.values() if isinstance(value, str)
        )
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


def stored_image(reference: str, embed: bool) -> dict[str, Any]:
    """Returns an image as `datasets` stores it: its bytes and a name, or its path.

    Raises:
        RecordError: the image cannot be read.
    """
    embedded = is_embedded(reference)
    if not embed and not embedded:
        return {"bytes": None, "path": reference}
    data, media_type = wire_bytes(reference)
    name = None if embedded else Path(reference.split("?")[0]).name
    if name and mimetypes.guess_type(name)[0] != media_type:  # re-encoded, or misnamed
        name = f"{Path(name).stem}.{media_type.removeprefix('image/')}"
    return {"bytes": data, "path": name}


def dataset_card(types: dict[str, str]) -> str:
    """Returns the dataset card for the hub.

    It does not list the data files: where a card does, `load_dataset` takes two folders of one name for the same data set
    and returns what it cached for the first.
    """
    columns = "\n".join(f"- `{name}`" for name in types)
    return f"""---
tags:
- sophia
- vision-language-reasoning
---

# Trajectories of SOPHIA

Answers to questions about images: a vision-language model described each image, a text-only reasoner thought over the
description, the answers were graded, and the best were kept (Eq. 5 and 6 of arXiv 2507.16814). Written by `sophia export`.

Columns:

{columns}
"""
