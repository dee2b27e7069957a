"""Reads the items of any source: an ImageFolder, JSONL, parquet, a `datasets` folder, or a hub data set (contract.md)."""

from collections.abc import Iterator
from pathlib import Path

from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.io.images import image_bytes
from sophia_cli.io.jsonl import read_records
from sophia_cli.records import Record, image_list, item_id, where_of
from sophia_cli.sources.datasets_folder import read_datasets_folder
from sophia_cli.sources.hub import read_hub
from sophia_cli.sources.image_folder import LAYOUT_HINT, read_image_folder
from sophia_cli.sources.parquet import read_parquet


def read_items(source: str, distinct: bool = True) -> Iterator[Record]:
    """Yields the items of a source, each with an `id`.

    Args:
        source: What the user typed.
        distinct: Refuse an id that occurs twice.

    Raises:
        UsageError: the source does not exist.
        InputError: it cannot be read, or an id occurs twice.
    """
    seen: dict[str, str] = {}
    for row in _source_rows(source):
        try:
            item = with_id(row)
        except RecordError as error:
            row.pop("id", None)
            yield Record({"id": where_of(row), **row, "error": str(error)}, where_of(row))
            continue
        if distinct and item["id"] in seen:
            twice = f"field `id` {item['id']!r}" if row.get("id") is not None else "the same image and question"
            raise InputError(f"{item.where}: {twice} is also at {seen[item['id']]}; give each item its own id")
        seen[item["id"]] = item.where
        yield item


def count_items(source: str) -> int | None:
    """Returns the number of items of a source if its metadata tells, else None."""
    folder = Path(source)
    for path in (folder / "metadata.jsonl", folder):
        if path.is_file() and path.suffix == ".jsonl":
            with path.open("rb") as stream:
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
    path = Path(source)
    if source == "-":
        return read_records(["-"])
    if source.startswith("hf:"):
        return read_hub(source.removeprefix("hf:"), merged)
    if path.is_dir():
        saved = (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
        is_image_folder = (path / "metadata.jsonl").exists() or (path / "metadata.csv").exists()
        return read_datasets_folder(path, merged) if saved and not is_image_folder else read_image_folder(path)
    if not path.exists():
        raise UsageError(f"{source}: no such file or folder; give a folder, a .jsonl or .parquet file, or hf:org/name@split")
    if path.suffix == ".parquet":
        return read_parquet(path, merged)
    if {".jsonl", ".json"} & set(path.suffixes):
        return read_records([source])
    raise UsageError(f"{source}: unknown kind of source; {LAYOUT_HINT}, a file ends in .jsonl or .parquet")


def with_id(row: Record) -> Record:
    """Returns the row with its `id` first. A missing id is made from the bytes of its images and its question.

    Raises:
        RecordError: the id is neither text nor number, or an image cannot be read.
    """
    given = row.get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if given is None:
        question = row.get("question")
        given = item_id(map(image_bytes, image_list(row)), question if isinstance(question, str) else "")
    if not isinstance(given, str) or not given:
        raise RecordError(f"{row.where}: field `id` is neither text nor number; fix it or omit it")
    fields = {**row, "id": given} if "id" in row else {"id": given, **row}
    return Record(fields, row.where)
