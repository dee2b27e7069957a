"""Sources of items: an ImageFolder, a JSONL file, parquet, a `datasets` folder, or a hub data set (contract.md)."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.io.images import data_uri, image_bytes
from sophia_cli.io.jsonl import parse_records, read_records
from sophia_cli.records import Record, image_list, item_id, where_of

LAYOUT = "a folder needs metadata.jsonl or metadata.csv with `file_name`, `question` and `answer`"


def read_items(source: str, distinct: bool = True) -> Iterator[Record]:
    """The items of a source, each with an `id`.

    Raises UsageError for a source that is not there, InputError for one that cannot be read, or in which an id comes twice
    where they are to be `distinct`.
    """
    seen: dict[str, str] = {}
    for row in _rows(source):
        try:
            item = with_id(row)
        except RecordError as error:
            row.pop("id", None)
            yield Record({"id": where_of(row), **row, "error": str(error)}, where_of(row))
            continue
        if distinct and item["id"] in seen:
            twice = f"field `id` {item['id']!r}" if row.get("id") is not None else "the same image and question"
            raise InputError(f"{item.where}: {twice} stands at {seen[item['id']]} already; give each item an id of its own")
        seen[item["id"]] = item.where
        yield item


def count_items(source: str) -> int | None:
    """How many items a source holds, when a look at its metadata tells; else None."""
    folder = Path(source)
    for path in (folder / "metadata.jsonl", folder):
        if path.is_file() and path.suffix == ".jsonl":
            with path.open("rb") as stream:
                return sum(1 for line in stream if line.strip())
    return None


def read_rows(source: str) -> Iterator[Record]:
    """The rows of a source as they are: no ids are made, and each column that holds images keeps them to itself.

    A data set of the hub is downloaded first, and kept: a benchmark is asked again. Raises UsageError, InputError.
    """
    return _rows(source, merged=False)


def _rows(source: str, merged: bool = True) -> Iterator[Record]:
    path = Path(source)
    if source == "-":
        return read_records(["-"])
    if source.startswith("hf:"):
        return _hub(source.removeprefix("hf:"), merged)
    if path.is_dir():
        return _folder(path, merged)
    if not path.exists():
        raise UsageError(f"{source}: no such file or folder; give a folder, a .jsonl or .parquet file, or hf:org/name@split")
    if path.suffix == ".parquet":
        return _parquet(path, merged)
    if {".jsonl", ".json"} & set(path.suffixes):
        return read_records([source])
    raise UsageError(f"{source}: not a source; {LAYOUT}, a file ends in .jsonl or .parquet")


def with_id(row: Record) -> Record:
    """The row with its `id` first; made from the bytes of its images and its question when it has none.

    Raises RecordError when the id is no text or number, or an image that it must be made from cannot be read.
    """
    given = row.get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if given is None:
        question = row.get("question")
        given = item_id(map(image_bytes, image_list(row)), question if isinstance(question, str) else "")
    if not isinstance(given, str) or not given:
        raise RecordError(f"{row.where}: field `id` is neither text nor number; mend it or leave it out")
    fields = {**row, "id": given} if "id" in row else {"id": given, **row}
    return Record(fields, row.where)


def _folder(folder: Path, merged: bool) -> Iterator[Record]:
    if (folder / "metadata.jsonl").exists():
        path = folder / "metadata.jsonl"
        with path.open("rb") as stream:
            yield from _with_images(parse_records(stream, str(path)), folder)
    elif (folder / "metadata.csv").exists():
        yield from _with_images(_csv(folder / "metadata.csv"), folder)
    elif (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
        yield from _saved(folder, merged)
    else:
        raise InputError(f"{folder}: no metadata.jsonl in it; {LAYOUT}")


def _csv(path: Path) -> Iterator[Record]:
    """Rows of a CSV file; `choices` is a JSON list there."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            for fields in reader:
                record = Record(
                    {name: value for name, value in fields.items() if name and value not in (None, "")},
                    f"{path}:{reader.line_num}",
                )
                if "choices" in record:
                    record["choices"] = json.loads(record["choices"])
                yield record
        except (csv.Error, ValueError) as error:
            raise InputError(f"{path}:{reader.line_num}: cannot be read ({error}); mend the line") from None


def _with_images(rows: Iterable[Record], folder: Path) -> Iterator[Record]:
    """`file_name`, relative to the folder, becomes `image`, relative to the working directory."""
    for row in rows:
        name = row.get("file_name")
        if not isinstance(name, str):
            raise InputError(f"{row.where}: field `file_name` is missing or no text; name the image, relative to {folder}")
        fields = {("image" if field == "file_name" else field): value for field, value in row.items() if field != "image"}
        yield Record({**fields, "image": str(folder / name)}, row.where)


def _parquet(path: Path, merged: bool) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
        rows = (row for batch in table.iter_batches(batch_size=64) for row in batch.to_pylist())
        yield from _embedded(rows, str(path), merged)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); make it again") from None


def _saved(folder: Path, merged: bool) -> Iterator[Record]:
    """A folder written by `datasets`' save_to_disk."""
    from datasets import DatasetDict, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a folder that `datasets` saved ({error}); {LAYOUT}") from None
    if isinstance(loaded, DatasetDict):
        raise UsageError(
            f"{folder}: holds the splits {', '.join(loaded)}; give one of them, as in {folder}/{next(iter(loaded))}"
        )
    yield from _embedded(_undecoded(loaded), str(folder), merged)


def _hub(name: str, merged: bool) -> Iterator[Record]:
    """`org/name[:config]@split`, streamed from the hub or its cache."""
    from datasets import load_dataset

    repository, _, split = name.partition("@")
    repository, _, config = repository.partition(":")
    if not split:
        raise UsageError(f"hf:{name}: name a split, as in hf:{name}@train")
    try:
        data = load_dataset(repository, config or None, split=split, streaming=merged)
    except Exception as error:  # noqa: BLE001  (hub, network and data-set scripts raise anything)
        raise InputError(
            f"hf:{name}: cannot be loaded ({type(error).__name__}: {error}); check name, config, split and network"
        ) from None
    yield from _embedded(_undecoded(data), f"hf:{name}", merged)


def _undecoded(data: Any) -> Iterator[dict[str, Any]]:
    """Rows with images left as the bytes or paths they were stored as."""
    from datasets import Image

    for column, feature in (data.features or {}).items():
        if isinstance(feature, Image):
            data = data.cast_column(column, Image(decode=False))
    return iter(data)


def _embedded(rows: Iterable[dict[str, Any]], where: str, merged: bool) -> Iterator[Record]:
    """Rows whose image columns hold {bytes, path}: each becomes a data URI or a path; other columns stay.

    merged: where there is no `image`, all image columns become it.
    """
    for number, row in enumerate(rows, 1):
        fields = {name: _reference(value) for name, value in row.items()}
        if not merged:
            yield Record(fields, f"{where}:{number}")
            continue
        columns = [name for name in fields if name == "image" or _is_image(row[name]) or _are_images(row[name])]
        found = [fields[name] for name in columns if fields[name] is not None]
        images = [image for one in found for image in (one if isinstance(one, list) else [one])]
        if "image" not in fields and images:
            fields = {name: value for name, value in fields.items() if name not in columns}
            fields["image"] = images if len(images) > 1 else images[0]
        yield Record(fields, f"{where}:{number}")


def _is_image(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"bytes", "path"}


def _are_images(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_image, value))


def _reference(value: Any) -> Any:
    if _are_images(value):
        return [_reference(part) for part in value]
    if isinstance(value, dict) and _is_image(value):
        return data_uri(value["bytes"]) if value["bytes"] is not None else value["path"]
    return value
