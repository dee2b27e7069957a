"""The lines of JSONL inputs, read once in order and then again by their places, without holding them.

A plain file is sought in; a compressed one is read through again; what comes from a pipe is copied to a temporary file as it
is read. A place is a line's first byte, counted through all inputs one after the other (decompressed).
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sophia_cli.errors import InputError, SophiaError
from sophia_cli.io.compression import BUFFER, unreadable
from sophia_cli.io.jsonl import open_input, parse_records
from sophia_cli.records import Record

NOT_READ = 1 << 62
SOUGHT = 1 << 15
"""Bytes that are read at once where lines are sought: a few, as most of them may be passed over."""


class Input:
    """One file, or stdin. start: the place of its first byte; size: its bytes, once it has been read.

    begin: where in the file that is: whoever opened stdin may have read some of it.
    """

    def __init__(self, path: str, start: int, flow: bool = False):
        self.path, self.start, self.size, self.begin = path, start, NOT_READ, 0
        self.name = "stdin" if path == "-" else path
        self.copied = flow and Path(path).suffix in (".gz", ".zst") or _is_pipe(path)
        self.packed = Path(path).suffix in (".gz", ".zst") and not self.copied
        self.spool: IO[bytes] | None = None
        self.spooled: IO[bytes] | None = None

    def open(self) -> IO[bytes]:
        """Opened for the first time: what cannot be read twice is copied as it is read. Raises InputError."""
        stream = open_input(self.path)
        if not self.copied:
            self.begin = 0 if self.packed else stream.tell()
            return stream
        with holding():
            descriptor, path = tempfile.mkstemp(prefix="sophia-")
            self.spool, self.spooled = os.fdopen(descriptor, "wb", BUFFER), open_input(path, SOUGHT)
            os.unlink(path)
        return stream

    def lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Place, number and bytes of every line, the first time. Raises InputError where it cannot be read on."""
        place, number = self.start, 0
        with self.open() as stream:
            try:
                for number, line in enumerate(stream, 1):
                    if self.spool is not None:
                        with holding():
                            self.spool.write(line)
                    yield place, number, line
                    place += len(line)
            except Exception as error:  # noqa: BLE001  (raised again, some with better words)
                raise unreadable(error, f"{self.name}:{number + 1}") from None
        self.size = place - self.start

    @property
    def named_size(self) -> int:
        """Bytes of a plain file that others can open by its name, too; 0 for anything else."""
        path = Path(self.path)
        return path.stat().st_size if self.path != "-" and not self.packed and path.is_file() else 0

    def reopened(self) -> IO[bytes]:
        """Opened to be read again, from its first byte."""
        if self.spool is not None and self.spooled is not None:
            with holding():
                self.spool.flush()
            self.spooled.seek(0)
            return self.spooled
        stream = open_input(self.path, SOUGHT)
        if not self.packed:
            stream.seek(self.begin)
        return stream

    def again(self, places: Iterator[int]) -> Iterator[bytes]:
        """The lines at these places, which ascend."""
        stream = self.reopened()
        try:
            yield from self._passed_by(stream, places) if self.packed else self._sought(stream, places)
        except Exception as error:  # noqa: BLE001  (raised again, some with better words)
            raise unreadable(error, self.name) from None
        finally:
            if stream is not self.spooled:
                stream.close()

    def _sought(self, stream: IO[bytes], places: Iterator[int]) -> Iterator[bytes]:
        here = -1
        for place in places:
            if place != here:
                stream.seek(self.begin + place - self.start)
            line = stream.readline()
            here = place + len(line)
            yield line

    def _passed_by(self, stream: IO[bytes], places: Iterator[int]) -> Iterator[bytes]:
        here, wanted = self.start, next(places, None)
        for line in stream:
            if wanted is None:
                return
            if here == wanted:
                yield line
                wanted = next(places, None)
            here += len(line)
        if wanted is not None:
            raise changed(self.name)


def changed(name: str) -> InputError:
    """What is wrong when a line is not what it was, or not where."""
    return InputError(f"{name}: was changed while it was read; type the command again")


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """Says in words that a temporary file cannot hold what is put aside there. Raises SophiaError."""
    try:
        yield
    except OSError as error:
        place = tempfile.tempdir or "TMPDIR"
        raise SophiaError(f"{place}: cannot hold what is put aside ({error.strerror}); make room, or set TMPDIR") from None


class Lines:
    """The lines of several inputs, one after the other."""

    def __init__(self, paths: list[str]):
        self.paths = paths
        self.inputs: list[Input] = []

    @property
    def flow(self) -> bool:
        """Whether they come from a pipe, and so perhaps while somebody still makes them."""
        return any(_is_pipe(path) for path in self.paths)

    def sources(self) -> Iterator[Input]:
        """The inputs in order, each to be read before the next is asked for."""
        place = 0
        for path in self.paths:
            self.inputs.append(source := Input(path, place, self.flow))
            yield source
            place += source.size

    def at(self, places: Iterable[int]) -> Iterator[bytes]:
        """The lines at these places, which ascend. Raises InputError when a file has changed meanwhile."""
        rest = iter(places)
        following = next(rest, None)

        def within(end: int) -> Iterator[int]:
            nonlocal following
            while following is not None and following < end:
                place, following = following, next(rest, None)
                yield place

        for source in self.inputs:
            if following is not None and following < source.start + source.size:
                for line in source.again(within(source.start + source.size)):
                    if not line.strip():
                        raise changed(source.name)
                    yield line

    def where_of(self, place: int) -> str:
        """Where the line at a place stands; read through again, for messages."""
        for source in self.inputs:
            if source.start <= place < source.start + source.size:
                break
        stream = source.reopened()
        number, here = 1, source.start
        for line in stream:
            if here == place:
                break
            number, here = number + 1, here + len(line)
        return f"{source.name}:{number}"


def _is_pipe(path: str) -> bool:
    try:
        mode = os.fstat(0).st_mode if path == "-" else Path(path).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)


@dataclass(frozen=True)
class InputFiles:
    """The files that are read, more than once: the name of each, and where it can be read again."""

    files: list[tuple[str, str]]

    def records(self) -> Iterator[Record]:
        for name, path in self.files:
            with open_input(path) as stream:
                yield from parse_records(stream, name)


def rereadable(files: list[str], folder: str) -> list[tuple[str, str]]:
    """The name of each file, and where it can be read again: a pipe is copied into `folder`. Raises InputError."""
    found = []
    for number, file in enumerate(files):
        path = file
        if file == "-" or Path(file).is_fifo() or Path(file).is_char_device():
            path = str(Path(folder) / f"{number}{''.join(Path(file).suffixes)}")
            with open_input(file) if file == "-" else Path(file).open("rb") as pipe, holding(), open(path, "wb") as copy:
                shutil.copyfileobj(pipe, copy)
        found.append(("stdin" if file == "-" else file, path))
    return found
