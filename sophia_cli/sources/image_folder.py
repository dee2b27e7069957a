"""An ImageFolder: a folder of images with metadata.jsonl or metadata.csv."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from sophia_cli.errors import InputError, UsageError
from sophia_cli.io.jsonl import parse_records
from sophia_cli.records import Record

LAYOUT_HINT = "a folder needs metadata.jsonl or metadata.csv with `file_name`, `question` and `answer`"


def read_image_folder(folder: Path) -> Iterator[Record]:
    """Yields the rows of the metadata, each with the path of its image.

    Raises:
        InputError: there is no metadata, or it cannot be read.
    """
    if (folder / "metadata.jsonl").exists():
        path = folder / "metadata.jsonl"
        with path.open("rb") as stream:
            yield from _resolve_file_names(parse_records(stream, str(path)), folder)
    elif (folder / "metadata.csv").exists():
        yield from _resolve_file_names(_read_csv(folder / "metadata.csv"), folder)
    elif splits := sorted(file.parent.name for file in folder.glob("*/metadata.*") if file.suffix in (".jsonl", ".csv")):
        raise UsageError(f"{folder}: holds the splits {', '.join(splits)}; choose one, as in {folder / splits[0]}")
    else:
        raise InputError(f"{folder}: no metadata.jsonl in it; {LAYOUT_HINT}")


def _read_csv(path: Path) -> Iterator[Record]:
    """Yields the rows of a CSV file; `choices` holds a JSON list."""
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
            raise InputError(f"{path}:{reader.line_num}: cannot be read ({error}); fix the line") from None


def _resolve_file_names(rows: Iterable[Record], folder: Path) -> Iterator[Record]:
    """Replaces `file_name`, relative to the folder, by `image`, relative to the working directory."""
    for row in rows:
        name = row.get("file_name")
        if not isinstance(name, str):
            raise InputError(
                f"{row.where}: field `file_name` is missing or not a string; give the image's path relative to {folder}"
            )
        fields = {("image" if field == "file_name" else field): value for field, value in row.items() if field != "image"}
        yield Record({**fields, "image": str(folder / name)}, row.where)
