"""JSONL in: files, stdin, compression, broken lines, shards and limits. And one way to write a record as a line."""

import contextlib
import gzip
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import orjson

from sophia_cli.errors import InputError, SophiaError, UsageError
from sophia_cli.records import Record

T = TypeVar("T")
BUFFER = 1 << 20
"""Bytes of a file that are read at once: lines are long."""


def loads(text: str | bytes) -> Any:
    """JSON to objects: orjson, and the slower standard parser where orjson would round, or refuse a lone surrogate."""
    with contextlib.suppress(orjson.JSONDecodeError):
        parsed = orjson.loads(text)
        if not _rounded(parsed):
            return parsed
    text = text.decode() if isinstance(text, bytes) else text
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite)


def _rounded(value: Any) -> bool:
    """Whether orjson may have made a float of a whole number beyond 64 bits."""
    if isinstance(value, float):
        return abs(value) >= 2.0**63
    if isinstance(value, dict):
        return any(map(_rounded, value.values()))
    return isinstance(value, list) and any(map(_rounded, value))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


def to_line(record: Any) -> bytes:
    """A record as one line of UTF-8 JSON, line break included."""
    try:
        return orjson.dumps(record, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # whole numbers beyond 64 bits, lone surrogates
        return (json.dumps(record, default=str) + "\n").encode()


def write_json(path: Path, fields: Any) -> None:
    """A small JSON file, written whole or not at all. Raises SophiaError."""
    draft = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SophiaError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from None


def open_binary(path: Path, buffering: int = BUFFER) -> IO[bytes]:
    """A file opened for reading, decompressed by its name (.gz, .zst). buffering: bytes that are read at once."""
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast(IO[bytes], io.BufferedReader(_ZstReader(path), BUFFER))
    return path.open("rb", buffering=buffering)


class _ZstReader(io.RawIOBase):
    """The content of a .zst file. Raises EOFError when the last frame is cut off, where zstandard's own reader just ends."""

    def __init__(self, path: Path):
        import zstandard

        self.raw, self.new = path.open("rb"), zstandard.ZstdDecompressor().decompressobj
        self.frame, self.begun, self.ready = self.new(), False, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            data = self.frame.unused_data if self.frame.eof else b""
            if self.frame.eof:
                self.frame, self.begun = self.new(), False
            data = data or self.raw.read(1 << 17)
            if not data:
                if self.begun:
                    raise EOFError("the compressed stream ends early")
                return 0
            self.begun, self.ready = True, self.frame.decompress(data)
        part, self.ready = self.ready[: len(buffer)], self.ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Numbered:
    """Lines of a stream, with the number of the last one read; a broken compressed stream becomes an InputError."""

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
            except Exception as error:  # noqa: BLE001  (raised again, some with better words)
                raise unreadable(error, self.where) from None


def unreadable(error: Exception, where: str) -> Exception:
    """An InputError for what gzip and zstandard raise where a stream is cut off or damaged; any other error as it is."""
    if isinstance(error, EOFError | OSError | ValueError):
        return InputError(f"{where}: cannot be read on ({error}); the file is cut off or damaged, make it again")
    if type(error).__module__.startswith(("zlib", "zstandard")):
        return InputError(f"{where}: cannot be decompressed ({error}); make the file again")
    return error


def record_of(line: bytes, where: str) -> Record:
    """The record on a line. Raises InputError where there is no JSON object."""
    return next(parse_records([line], where, alone=True))


def parse_records(stream: Iterable[bytes], name: str, alone: bool = False) -> Iterator[Record]:
    """The records of a stream of lines. Raises InputError that names the first line that is no JSON object.

    alone: the stream is one line, and `name` says where it stands.
    """
    import jsonlines  # a tenth of the start of a step that needs no whole records

    lines = _Numbered(stream, name)
    try:
        for fields in jsonlines.Reader(lines, loads=loads).iter(type=dict, skip_empty=True):
            yield Record(fields, name if alone else lines.where)
    except (jsonlines.InvalidLineError, RecursionError) as error:
        reason = str(error).split(" (line")[0]
        place = name if alone else lines.where
        raise InputError(f"{place}: not a JSON object ({reason}); mend or delete the line") from None


def read_records(paths: list[str]) -> Iterator[Record]:
    """The records of the files in order; `-` is stdin. Raises InputError for what cannot be opened or read."""
    for path in paths:
        with open_input(path) as stream:
            yield from parse_records(stream, "stdin" if path == "-" else path)


def open_input(path: str, buffering: int = BUFFER) -> IO[bytes]:
    """A file to read, decompressed by its name; `-` is stdin. Raises InputError for what cannot be opened."""
    if path == "-":
        return os.fdopen(0, "rb", buffering=buffering, closefd=False)
    try:
        return open_binary(Path(path), buffering)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); give a file that exists, or - for stdin") from None


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` parts: every `count`-th record, counted from 0."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Shard":
        """`I/N` as the user types it. Raises UsageError."""
        if text is None:
            return cls()
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or int(match[1]) >= int(match[2]):
            raise UsageError(f"--shard {text}: give I/N with I from 0 to N-1, as in 0/4")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, number: Any, limit: int | None = None) -> Any:
        """Whether rows of these numbers (one, or an array), counted from 0, are of this shard, and of its first `limit`."""
        mine = number % self.count == self.index
        return mine if limit is None else mine & (number // self.count < limit)

    def take(self, rows: Iterable[T], limit: int | None = None) -> Iterator[T]:
        """This shard's rows, and no more than `limit` of them."""
        return islice(islice(rows, self.index, None, self.count), limit)
