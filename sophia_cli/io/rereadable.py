"""Inputs that are read more than once: first in order, then again at given offsets, without holding the lines in memory.

A plain file is read again by seeking, a compressed one by reading through it, and a pipe from a temporary copy. An offset
is the position of a line's first byte, counted over all inputs in a row (decompressed).
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
from sophia_cli.io.compression import BUFFER_BYTES, read_error
from sophia_cli.io.jsonl import open_input, parse_records
from sophia_cli.records import Record, with_step_names

# Larger than any file, so that the file being read contains every offset until its end is known.
UNKNOWN_SIZE = 1 << 62
SEEK_BUFFER_BYTES = 1 << 15
"""Bytes read at a time when seeking. Few, because most of them may be skipped."""


class RereadableFile:
    """One file, or stdin.

    Attributes:
        offset: Offset of its first byte among all inputs.
        size: Its bytes, once it has been read.
        stream_start: Where in the file the first byte is: someone may have read some of stdin before.
    """

    def __init__(self, path: str, start: int, flow: bool = False):
        self.path, self.offset, self.size, self.stream_start = path, start, UNKNOWN_SIZE, 0
        self.name = "stdin" if path == "-" else path
        self.needs_spool = flow and Path(path).suffix in (".gz", ".zst") or _is_pipe(path)
        self.is_compressed = Path(path).suffix in (".gz", ".zst") and not self.needs_spool
        self.spool_writer: IO[bytes] | None = None
        self.spool_reader: IO[bytes] | None = None

    def open(self) -> IO[bytes]:
        """Opens the file for the first time. What cannot be read twice is copied while it is read.

        Raises:
            InputError: the file cannot be opened.
        """
        stream = open_input(self.path)
        if not self.needs_spool:
            self.stream_start = 0 if self.is_compressed else stream.tell()
            return stream
        with spooling():
            descriptor, path = tempfile.mkstemp(prefix="sophia-")
            self.spool_writer, self.spool_reader = (
                os.fdopen(descriptor, "wb", BUFFER_BYTES),
                open_input(path, SEEK_BUFFER_BYTES),
            )
            os.unlink(path)
        return stream

    def read_lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Yields offset, line number and bytes of every line, the first time.

        Raises:
            InputError: the file cannot be read.
        """
        offset, number = self.offset, 0
        with self.open() as stream:
            try:
                for number, line in enumerate(stream, 1):
                    if self.spool_writer is not None:
                        with spooling():
                            self.spool_writer.write(line)
                    yield offset, number, line
                    offset += len(line)
            except Exception as error:  # noqa: BLE001  (raised again, some with better words)
                raise read_error(error, f"{self.name}:{number + 1}") from None
        self.size = offset - self.offset

    @property
    def plain_size(self) -> int:
        """Bytes of a plain file that another process can open by its name; 0 for anything else."""
        path = Path(self.path)
        return path.stat().st_size if self.path != "-" and not self.is_compressed and path.is_file() else 0

    def reopen(self) -> IO[bytes]:
        """Opens the file again, at its first byte."""
        if self.spool_writer is not None and self.spool_reader is not None:
            with spooling():
                self.spool_writer.flush()
            self.spool_reader.seek(0)
            return self.spool_reader
        stream = open_input(self.path, SEEK_BUFFER_BYTES)
        if not self.is_compressed:
            stream.seek(self.stream_start)
        return stream

    def read_at(self, offsets: Iterator[int]) -> Iterator[bytes]:
        """Yields the lines at these offsets, which must ascend."""
        stream = self.reopen()
        try:
            yield from self._scan_lines(stream, offsets) if self.is_compressed else self._seek_lines(stream, offsets)
        except Exception as error:  # noqa: BLE001  (raised again, some with better words)
            raise read_error(error, self.name) from None
        finally:
            if stream is not self.spool_reader:
                stream.close()

    def _seek_lines(self, stream: IO[bytes], offsets: Iterator[int]) -> Iterator[bytes]:
        here = -1
        for offset in offsets:
            if offset != here:
                stream.seek(self.stream_start + offset - self.offset)
            line = stream.readline()
            here = offset + len(line)
            yield line

    def _scan_lines(self, stream: IO[bytes], offsets: Iterator[int]) -> Iterator[bytes]:
        here, wanted = self.offset, next(offsets, None)
        for line in stream:
            if wanted is None:
                return
            if here == wanted:
                yield line
                wanted = next(offsets, None)
            here += len(line)
        if wanted is not None:
            raise file_changed_error(self.name)


def file_changed_error(name: str) -> InputError:
    """Returns the error for a line that has changed or moved since it was read."""
    return InputError(f"{name}: changed while it was read; run the command again")


@contextlib.contextmanager
def spooling() -> Iterator[None]:
    """Turns an OSError about the temporary folder into a SophiaError that names the folder."""
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or "TMPDIR"
        raise SophiaError(
            f"{folder}: temporary file cannot be written ({error.strerror}); free disk space, or set TMPDIR"
        ) from None


class RereadableInputs:
    """The lines of several inputs, one after the other."""

    def __init__(self, paths: list[str]):
        self.paths = paths
        self.files: list[RereadableFile] = []

    @property
    def from_pipe(self) -> bool:
        """Whether some input is a pipe, so that its records may still be in the making."""
        return any(_is_pipe(path) for path in self.paths)

    def iter_files(self) -> Iterator[RereadableFile]:
        """Yields the inputs in order. Each must be read before the next is requested."""
        offset = 0
        for path in self.paths:
            self.files.append(source := RereadableFile(path, offset, self.from_pipe))
            yield source
            offset += source.size

    def lines_at(self, offsets: Iterable[int]) -> Iterator[bytes]:
        """Yields the lines at these offsets, which must ascend.

        Raises:
            InputError: a file has changed.
        """
        rest = iter(offsets)
        following = next(rest, None)

        def within(end: int) -> Iterator[int]:
            nonlocal following
            while following is not None and following < end:
                offset, following = following, next(rest, None)
                yield offset

        for source in self.files:
            if following is not None and following < source.offset + source.size:
                for line in source.read_at(within(source.offset + source.size)):
                    if not line.strip():
                        raise file_changed_error(source.name)
                    yield line

    def location_of(self, offset: int) -> str:
        """Returns `FILE:LINE` of the line at an offset. It reads the file again, so use it for messages only."""
        for source in self.files:
            if source.offset <= offset < source.offset + source.size:
                break
        stream = source.reopen()
        number, here = 1, source.offset
        for line in stream:
            if here == offset:
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
    """Files that are read more than once: the name of each, and the path where it can be read again."""

    files: list[tuple[str, str]]

    def read_records(self) -> Iterator[Record]:
        """Yields the records of all files, with their question and images under the names that steps read."""
        for name, path in self.files:
            with open_input(path) as stream:
                yield from map(with_step_names, parse_records(stream, name))


def copy_pipes(files: list[str], folder: str) -> list[tuple[str, str]]:
    """Returns the name of each file and a path where it can be read again; copies pipes into `folder`.

    Raises:
        InputError: a file cannot be opened.
    """
    found = []
    for number, file in enumerate(files):
        path = file
        if file == "-" or Path(file).is_fifo() or Path(file).is_char_device():
            path = str(Path(folder) / f"{number}{''.join(Path(file).suffixes)}")
            with open_input(file) if file == "-" else Path(file).open("rb") as pipe, spooling(), open(path, "wb") as copy:
                shutil.copyfileobj(pipe, copy)
        found.append(("stdin" if file == "-" else file, path))
    return found
