"""Reads the items of any source: an ImageFolder, JSONL, parquet, a `datasets` folder, or a hub data set (contract.md)."""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.io.compression import reading
from sophia_cli.io.images import image_bytes, is_embedded
from sophia_cli.io.jsonl import read_records
from sophia_cli.records import Record, image_list, item_id, step_names, where_of, with_step_names
from sophia_cli.runtime.progress import log_line
from sophia_cli.sources.datasets_folder import read_datasets_folder
from sophia_cli.sources.hub import read_hub
from sophia_cli.sources.image_folder import LAYOUT_HINT, read_image_folder
from sophia_cli.sources.json_file import read_json_file
from sophia_cli.sources.parquet import parquet_files, parquet_ids, read_parquet, read_parquet_folder


class DuplicateItem(UsageError):
    """Two rows are the same item."""


def read_items(source: str, distinct: bool = True) -> Iterator[Record]:
    """Yields the items of a source, each with an `id`.

    Args:
        source: What the user typed.
        distinct: Refuse an id that occurs twice.

    Raises:
        UsageError: the source does not exist.
        InputError: it cannot be read.
        DuplicateItem: a row, or an id, occurs twice.
    """
    if distinct:
        _check_listed_twice(source)
    seen: dict[str, str] = {}
    told: set[str] = set()
    for row in _source_rows(source):
        try:
            item = with_id(_named_fields(row, source, told))
        except RecordError as error:
            row.pop("id", None)
            yield Record({"id": where_of(row), **row, "error": str(error)}, where_of(row))
            continue
        if distinct and item["id"] in seen:
            _refuse_twice(item, row.get("id"), seen[item["id"]])
        seen[item["id"]] = item.where
        yield item
    if not seen:
        log_line(f"0 items in {source}")


def _check_listed_twice(source: str) -> None:
    """Checks the rows of a file or folder before the first sample: the same id, or the same images, question and answer,
    twice.

    No image is read here. Two files with the same image are found when the second one is reached.

    Raises:
        DuplicateItem: a row occurs twice.
    """
    seen: dict[bytes, str] = {}
    for row, key in _row_keys(source):
        if key in seen:
            _refuse_twice(row, row.get("id"), seen[key])
        seen[key] = row.where


def _row_keys(source: str) -> Iterator[tuple[Record, bytes]]:
    """Yields the rows of a text file, or the ids of a parquet file, each with a hash of what makes it an item."""
    path = Path(source)
    if path.is_file() and path.suffix == ".parquet":
        rows: Iterator[Record] = parquet_ids(path)
    elif any((path / name).is_file() for name in ("metadata.jsonl", "metadata.csv")) or (
        path.is_file() and {".jsonl", ".json"} & set(path.suffixes)
    ):
        rows = _source_rows(source)
    else:
        return
    with suppress(InputError, UnicodeError):  # named when the line is reached
        for row in rows:
            try:
                named = with_step_names(row)
                parts = [image_list(named), named.get("question"), named.get("answer"), named.get("choices")]
                name = given_id(row) or json.dumps(parts, default=str)
            except RecordError:  # named when the row is reached
                continue
            yield row, hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:12]


def _refuse_twice(row: Record, own: Any, first: str) -> NoReturn:
    if "caption_id" in row:
        raise DuplicateItem(f"{row.where}: has a `caption_id`; these are captions already, give the items")
    twice = f"field `id` {own!r}"
    if own is None:
        has_question = with_step_names(row).get("question")
        twice = "the same image, question and answer" if has_question else "the same image without a `question`"
    raise DuplicateItem(f"{row.where}: {twice} is also at {first}; give each item its own id")


def _named_fields(row: Record, source: str, told: set[str]) -> Record:
    """Returns a row whose question and images have the names that steps read. What is found is logged once."""
    found = step_names(row)
    for name, own in found.items():
        if own not in told:
            told.add(own)
            log_line(f"{source}: column `{own}` is read as `{name}`")
    if "question" not in told and "question" not in found and row.get("question") is None:
        told.add("question")
        shown = ", ".join(list(row)[:12])
        log_line(f"{source}: no column `question` (there are {shown}); `reason`, `eval` and `train` need one")
    named = with_step_names(row)
    column = found.get("image")
    if column and any(map(is_embedded, image_list(named))):  # not twice in the record
        del named[column]
    return named


def count_items(source: str) -> int | None:
    """Returns the number of items of a source if its metadata tells, else None."""
    folder = Path(source)
    for path in (folder / "metadata.jsonl", folder):
        if path.is_file() and path.suffix == ".jsonl":
            with suppress(OSError), path.open("rb") as stream:  # reading the rows names the fault
                return sum(1 for line in stream if line.strip())
    return None


def read_rows(source: str) -> Iterator[Record]:
    """Yields the rows of a source unchanged: no ids are made, and columns with images are not merged.

    A hub data set is downloaded and kept, because a benchmark is used again.

    Raises:
        UsageError: the source does not exist.
        InputError: it cannot be read.
    """
    return _source_rows(source, merged=False)


def _source_rows(source: str, merged: bool = True) -> Iterator[Record]:
    with reading(source):
        yield from _open_source(source, merged)


def _open_source(source: str, merged: bool) -> Iterator[Record]:
    path = Path(source)
    if source == "-":
        return read_records(["-"])
    if source.startswith("hf:"):
        return read_hub(source.removeprefix("hf:"), merged)
    if path.is_dir():
        saved = (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
        is_image_folder = (path / "metadata.jsonl").exists() or (path / "metadata.csv").exists()
        if saved and not is_image_folder:
            return read_datasets_folder(path, merged)
        tables = [] if is_image_folder else parquet_files(path)
        return read_parquet_folder(path, tables, merged) if tables else read_image_folder(path)
    if not path.exists():
        raise UsageError(f"{source}: no such file or folder; give a folder, a .jsonl or .parquet file, or hf:org/name@split")
    if path.suffix == ".parquet":
        return read_parquet(path, merged)
    if ".json" in path.suffixes:
        return read_json_file(path)
    if ".jsonl" in path.suffixes:
        return read_records([source])
    raise UsageError(f"{source}: unknown kind of source; {LAYOUT_HINT}, a file ends in .jsonl or .parquet")


def with_id(row: Record) -> Record:
    """Returns the row with its `id` first. A missing id is made from the bytes of its images, its question and its answer.

    Raises:
        RecordError: the id is neither text nor number, or an image cannot be read.
    """
    name = given_id(row)
    if name is None:
        question = row.get("question")
        images = map(image_bytes, image_list(row))
        name = item_id(images, question if isinstance(question, str) else "", row.get("answer"))
    fields = {**row, "id": name} if "id" in row else {"id": name, **row}
    return Record(fields, row.where)


def given_id(row: Record) -> str | None:
    """Returns the row's own id as a text; None where it has none.

    Raises:
        RecordError: the id is neither text nor number.
    """
    given = row.get("id")
    if isinstance(given, float) and math.isnan(given):  # an empty cell of a column of numbers
        return None
    if isinstance(given, float | Decimal) and given == int(given):  # pandas makes floats of ids where one is missing
        given = int(given)
    if isinstance(given, int | float | Decimal) and not isinstance(given, bool):
        given = str(given)
    if given is not None and (not isinstance(given, str) or not given):
        raise RecordError(f"{row.where}: field `id` is empty, or neither text nor number; fix it or omit it")
    return given
