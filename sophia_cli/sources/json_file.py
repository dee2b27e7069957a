"""A .json file: an array of items, an object of items by id, or one object per line under that name."""

from collections.abc import Iterator
from pathlib import Path

from sophia_cli.errors import InputError
from sophia_cli.io.compression import open_reader
from sophia_cli.io.jsonl import load_json, read_records
from sophia_cli.records import Record

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_json_file(path: Path) -> Iterator[Record]:
    """Yields the items of the file.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    with open_reader(path) as stream:
        data = stream.read().removeprefix(BYTE_ORDER_MARK)
    try:
        found = load_json(data)
    except ValueError as error:
        first = next((line for line in data.splitlines() if line.strip()), b"")
        try:
            load_json(first)
        except ValueError:
            raise InputError(f"{path}: not JSON ({error}); fix the file") from None
        yield from read_records([str(path)])  # many files of one object per line end in .json
        return
    if isinstance(found, dict) and len(found) == 1 and isinstance(next(iter(found.values())), list):  # {"data": […]}
        found = next(iter(found.values()))
    elif isinstance(found, dict) and len(found) > 1 and all(map(_is_rows, found.values())):
        raise InputError(f"{path}: holds the splits {', '.join(found)}; save the one you want as a file of its own")
    if isinstance(found, dict) and found and all(isinstance(item, dict) for item in found.values()):
        found = [{"id": name, **item} for name, item in found.items()]
    elif isinstance(found, dict):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InputError(f"{path}: not an array or an object of items; write one JSON object per item")
    for number, item in enumerate(found):
        yield Record(item, f"{path}[{number}]")


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)
