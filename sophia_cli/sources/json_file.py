"""A .json file: an array of items, an object of items by id, or one object per line under that name."""

from collections.abc import Iterator
from pathlib import Path

import orjson

from sophia_cli.errors import InputError
from sophia_cli.io.jsonl import read_records
from sophia_cli.records import Record


def read_json_file(path: Path) -> Iterator[Record]:
    """Yields the items of the file.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        try:
            # Many files of one object per line end in .json.
            yield from read_records([str(path)])
            return
        except InputError:
            raise InputError(f"{path}: not JSON ({error}); fix the file") from None
    if isinstance(found, dict) and found and all(isinstance(item, dict) for item in found.values()):
        found = [{"id": name, **item} for name, item in found.items()]
    elif isinstance(found, dict):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InputError(f"{path}: not an array or an object of items; write one JSON object per item")
    for number, item in enumerate(found):
        yield Record(item, f"{path}[{number}]")
