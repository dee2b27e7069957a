"""Compressed files: reads and appends .gz and .zst by the name of the file."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from sophia_cli.errors import InputError

BUFFER_BYTES = 1 << 20
"""Bytes read at a time. Lines are long."""


def open_reader(path: Path, buffering: int = BUFFER_BYTES) -> IO[bytes]:
    """Opens a file for reading, decompressed by its name (.gz, .zst)."""
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast(IO[bytes], io.BufferedReader(_ZstReader(path), BUFFER_BYTES))
    return path.open("rb", buffering=buffering)


class _ZstReader(io.RawIOBase):
    """The content of a .zst file. Raises EOFError when the last frame is cut off; zstandard's own reader just ends there."""

    def __init__(self, path: Path):
        import zstandard

        self.raw, self.new = path.open("rb"), zstandard.ZstdDecompressor().decompressobj
        self.frame, self.has_started, self.ready = self.new(), False, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            # One file may hold several frames: each resumed run appends one.
            data = self.frame.unused_data if self.frame.eof else b""
            if self.frame.eof:
                self.frame, self.has_started = self.new(), False
            data = data or self.raw.read(1 << 17)
            if not data:
                if self.has_started:
                    raise EOFError("the compressed stream ends early")
                return 0
            self.has_started, self.ready = True, self.frame.decompress(data)
        part, self.ready = self.ready[: len(buffer)], self.ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self.raw.close()
        super().close()


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns what opening and decoding raise into an error of the input.

    Raises:
        InputError: the file cannot be opened, or its JSON is nested too deeply.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{error.filename or name}: cannot be read ({reason}); check the path and its permissions"
        ) from None
    except RecursionError:
        raise InputError(f"{name}: cannot be read (JSON that is nested too deeply); fix the file") from None


def read_error(error: Exception, where: str) -> Exception:
    """Turns what gzip and zstandard raise on a damaged stream into an InputError; returns other errors unchanged."""
    if isinstance(error, EOFError | OSError | ValueError):
        return InputError(f"{where}: cannot be read ({error}); the file is truncated or damaged, create it again")
    if type(error).__module__.startswith(("zlib", "zstandard")):
        return InputError(f"{where}: cannot be decompressed ({error}); create the file again")
    return error


def open_appender(file: Path, fresh: bool = False) -> IO[bytes]:
    """Opens a file for appending, compressed by its final name: a suffix `.tmp` is ignored. fresh: truncate it first."""
    mode = "wb" if fresh else "ab"
    suffix = Path(file.name.removesuffix(".tmp")).suffix
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(file, mode))
    if suffix == ".zst":
        import zstandard

        return cast(IO[bytes], _FlushingZst(file.open(mode), zstandard.ZstdCompressor()))
    return file.open(mode)


class _FlushingZst:
    """A zstandard stream whose `flush` ends a block, so that a reader sees every record written so far."""

    def __init__(self, raw: IO[bytes], compressor: Any):
        self.raw, self.inner = raw, compressor.stream_writer(raw, closefd=False)

    def write(self, data: bytes) -> int:
        return int(self.inner.write(data))

    def flush(self) -> None:
        self.inner.flush()

    def close(self) -> None:
        self.inner.close()
        self.raw.close()
