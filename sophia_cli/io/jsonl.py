"""JSONL: reads records from files and stdin, names a line that is broken, and writes a record as one line."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import orjson

from sophia_cli.errors import InputError, SophiaError
from sophia_cli.io.compression import BUFFER_BYTES, open_reader, read_error
from sophia_cli.records import Record

MAX_DIGITS = 4000
"""Longest whole number that is read; Python itself refuses more than 4,300 digits."""


def load_json(text: str | bytes) -> Any:
    """Parses JSON with orjson; falls back to the standard parser where orjson would round or refuse a lone surrogate.

    Raises:
        ValueError: the text is not JSON.
    """
    with contextlib.suppress(orjson.JSONDecodeError):
        parsed = orjson.loads(text)
        if not _may_be_rounded(parsed):
            return parsed
    # Strict UTF-8: json.loads would guess the encoding of bytes.
    text = text.decode() if isinstance(text, bytes) else text
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float, parse_int=_whole_number)


def _may_be_rounded(value: Any) -> bool:
    """Tells whether orjson may have turned a whole number beyond 64 bits into a float. Deep values need no recursion."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, float):
            if abs(value) >= 2.0**63:
                return True
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is out of the range of a float")
    return number


def to_line(record: Any) -> bytes:
    """Returns a record as one line of UTF-8 JSON with its line break."""
    try:
        return orjson.dumps(record, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # orjson refuses integers beyond 64 bits and lone surrogates
        return (json.dumps(record, default=str) + "\n").encode()


def write_json(path: Path, fields: Any) -> None:
    """Writes a small JSON file atomically. A link stays a link, and a device or a pipe is written to.

    Raises:
        SophiaError: the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    draft, text = (
        target.with_name(target.name + ".tmp"),
        orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            target.write_bytes(text)
            return
        draft.write_bytes(text)
        os.replace(draft, target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SophiaError(f"{path}: cannot be written ({error.strerror}); free disk space or choose another file") from None


class _NumberedLines:
    """Iterates over lines and knows the number of the last one. A damaged compressed stream raises InputError."""

    def __init__(self, stream: Iterable[bytes], name: str):
        self.stream, self.name, self.number = stream, name, 0

    @property
    def where(self) -> str:
        return f"{self.name}:{self.number}"

    def __iter__(self) -> Iterator[bytes]:
        lines = iter(self.stream)
        while True:
            self.number += 1
            try:
                yield next(lines)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001  (raised again, some with a better message)
                raise read_error(error, self.where) from None


def parse_record(line: bytes, where: str) -> Record:
    """Returns the record on a line.

    Raises:
        InputError: the line is not a JSON object.
    """
    return next(parse_records([line], where, alone=True))


def parse_records(stream: Iterable[bytes], name: str, alone: bool = False) -> Iterator[Record]:
    """Yields the records of a stream of lines.

    Args:
        stream: The lines.
        name: The name of the stream, for errors.
        alone: The stream is a single line, and `name` is its place (`FILE:LINE`).

    Raises:
        InputError: a line is not a JSON object; the message names the line.
    """
    import jsonlines  # 10% of the start-up time of a step that does not need it

    lines = _NumberedLines(stream, name)
    try:
        for fields in jsonlines.Reader(lines, loads=load_json).iter(type=dict, skip_empty=True):
            yield Record(fields, name if alone else lines.where)
    except (jsonlines.InvalidLineError, RecursionError) as error:
        reason, remedy = str(error).split(" (line")[0], "fix or delete the line"
        where = name if alone else lines.where
        if str(getattr(error, "line", "")).lstrip()[:1] == "[":
            reason, remedy = "it begins a JSON array", "write one object per line, as `jq -c '.[]' FILE` does"
        raise InputError(f"{where}: not a JSON object ({reason}); {remedy}") from None


def read_records(paths: list[str]) -> Iterator[Record]:
    """Yields the records of the files in order; `-` is stdin.

    Raises:
        InputError: a file cannot be opened or read.
    """
    for path in paths:
        with open_input(path) as stream:
            yield from parse_records(stream, "stdin" if path == "-" else path)


def open_input(path: str, buffering: int = BUFFER_BYTES) -> IO[bytes]:
    """Opens a file for reading, decompressed by its name; `-` is stdin.

    Raises:
        InputError: the file cannot be opened.
    """
    if path == "-":
        return os.fdopen(0, "rb", buffering=buffering, closefd=False)
    try:
        return open_reader(Path(path), buffering)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); give a file that exists, or - for stdin") from None
