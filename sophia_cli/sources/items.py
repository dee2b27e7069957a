"""Reads the items of any source: an ImageFolder, JSONL, parquet, a `datasets` folder, or a hub data set (contract.md)."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.io.compression import reading
from sophia_cli.io.images import image_bytes
from sophia_cli.io.jsonl import read_records
from sophia_cli.records import Record, image_list, item_id, where_of
from sophia_cli.runtime.progress import log_line
from sophia_cli.sources.datasets_folder import read_datasets_folder
from sophia_cli.sources.hub import read_hub
from sophia_cli.sources.image_folder import LAYOUT_HINT, read_image_folder
from sophia_cli.sources.json_file import read_json_file
from sophia_cli.sources.parquet import parquet_files, read_parquet, read_parquet_folder


class DuplicateItem(UsageError):
    """Two rows are the same item."""


SYNONYMS = {"question": ("problem", "query"), "image": ("images",)}
"""Columns that are read as another where the other is missing. Answers have no synonyms: `solution` is often a text."""


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
    renamed: set[str] = set()
    for row in _source_rows(source):
        try:
            item = with_id(_named_fields(row, source, renamed))
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
    """Checks the rows of a text file before the first sample: the same id, or the same image and question, twice.

    No image is read here. Two files with the same image are found when the second one is reached.

    Raises:
        DuplicateItem: a row occurs twice.
    """
    path = Path(source)
    is_folder = any((path / name).is_file() for name in ("metadata.jsonl", "metadata.csv"))
    if not is_folder and not (path.is_file() and {".jsonl", ".json"} & set(path.suffixes)):
        return
    seen: dict[str, str] = {}
    with suppress(InputError, UnicodeError):  # named when the line is reached
        for row in _source_rows(source):
            own = row.get("id")
            shown = [row.get(name) for name in ("image", *SYNONYMS["image"], "question", *SYNONYMS["question"])]
            name = f"id {own!r}" if own is not None else f"row {shown!r}"
            if name in seen:
                _refuse_twice(row, own, seen[name])
            seen[name] = row.where


def _refuse_twice(row: Record, own: Any, first: str) -> NoReturn:
    twice = f"field `id` {own!r}"
    if own is None:
        named = row.get("question") or any(row.get(name) for name in SYNONYMS["question"])
        twice = "the same image and question" if named else "the same image without a `question`"
    raise DuplicateItem(f"{row.where}: {twice} is also at {first}; give each item its own id")


def _named_fields(row: Record, source: str, renamed: set[str]) -> Record:
    """Returns a row whose question and images have the names that steps read; each renaming is logged once."""
    found = {}
    for name, synonyms in SYNONYMS.items():
        given = [synonym for synonym in synonyms if synonym in row]
        if name not in row and len(given) == 1:
            found[given[0]] = name
            if given[0] not in renamed:
                renamed.add(given[0])
                log_line(f"{source}: column `{given[0]}` is read as `{name}`")
    # The user's own column stays, except for images, which may be large.
    fields = {found.get(name, name) if found.get(name) == "image" else name: value for name, value in row.items()}
    fields |= {name: row[own] for own, name in found.items() if name != "image"}
    return Record(fields, row.where) if found else row


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
    if path.suffix == ".json":
        return read_json_file(path)
    if ".jsonl" in path.suffixes or ".json" in path.suffixes:
        return read_records([source])
    raise UsageError(f"{source}: unknown kind of source; {LAYOUT_HINT}, a file ends in .jsonl or .parquet")


def with_id(row: Record) -> Record:
    """Returns the row with its `id` first. A missing id is made from the bytes of its images and its question.

    Raises:
        RecordError: the id is neither text nor number, or an image cannot be read.
    """
    given = row.get("id")
    if isinstance(given, float) and given.is_integer():  # pandas makes floats of ids where one is missing
        given = int(given)
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = str(given)
    if given is None:
        question = row.get("question")
        given = item_id(map(image_bytes, image_list(row)), question if isinstance(question, str) else "")
    if not isinstance(given, str) or not given:
        raise RecordError(f"{row.where}: field `id` is empty, or neither text nor number; fix it or omit it")
    fields = {**row, "id": given} if "id" in row else {"id": given, **row}
    return Record(fields, row.where)
