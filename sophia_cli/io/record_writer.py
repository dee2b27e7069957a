"""Where records go: stdout, a file (`-o`), or both (`--tee`); and how a file is begun, continued and described.

A file is begun together with FILE.manifest.json, which holds what makes its records what they are. Run again, the step
continues: whole lines without `error` are kept, the rest is cut away and made again, unless the settings differ.
"""

import contextlib
import fcntl
import gzip
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.io.compression import appender, open_binary
from sophia_cli.io.jsonl import loads, to_line
from sophia_cli.io.manifest import Manifest
from sophia_cli.records import Record, has_failed, name_of
from sophia_cli.runtime.progress import notice


class Review(Protocol):
    """Looks through a file that is to be continued, and takes back records whose fellows are still to come."""

    def see(self, record: Record) -> None:
        """Every record of the file, failures included, before the first question."""
        ...

    def takes_back(self, record: Record | None) -> bool:
        """Whether it takes this record out of the file, and has put it in a safe place; for None, whether it takes any."""
        ...

    def begins_anew(self) -> None:
        """The file is begun anew."""
        ...


class Output:
    """Takes the records of one step. `done` counts, by id, the records that an earlier run had written.

    key: the field whose value tells a record of this step; records without it are never done.
    ordered: the step keeps the order of its input, so only the records before the first failure are kept.
    tokens_field: the field that holds a sample's length. observe: called with every record, kept ones included. review: may
    take back what an earlier run has written.
    """

    def __init__(
        self,
        key: str,
        stdout: IO[bytes] | None,
        file: Path | None = None,
        manifest: Manifest | None = None,
        force: bool = False,
        ordered: bool = False,
        anew: bool = False,
        tokens_field: str | None = None,
        observe: Callable[[Record], None] = lambda record: None,
        review: Review | None = None,
    ):
        self.key, self.stdout, self.file, self.manifest = key, stdout, file, manifest
        self.tokens_field, self.observe, self.review = tokens_field, observe, review
        self.done: Counter[str] = Counter()
        self.written = self.failed = self.tokens = 0
        self.stream: IO[bytes] | None = None
        self.lock: IO[bytes] | None = None
        self.waits = self.was_there = False
        if file is not None and manifest is not None:
            self._begin(file, manifest, force, ordered, anew)

    def _begin(self, file: Path, manifest: Manifest, force: bool, ordered: bool, anew: bool) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            begun = not force and file.exists() and (file.stat().st_size > 0 or manifest.path.exists())
            if begun:
                manifest.refuse_other_settings()
            self.waits, self.was_there = anew, file.exists()
            self._lock(file)
            if anew:
                return  # what stands there stays until there is something to put in its place
            if begun:
                self._keep_done(file, ordered)
            else:
                file.write_bytes(b"")
                if self.review:
                    self.review.begins_anew()
            manifest.save()
            self.stream = appender(file)
            self._lock(file)
        except OSError as error:
            raise UsageError(f"{file}: cannot be written ({error.strerror}); choose another place") from None

    def _empty(self) -> None:
        """Begins a file that is written anew."""
        if self.waits and self.file and self.manifest:
            self.waits = False
            self.file.write_bytes(b"")
            self.manifest.save()
            self.stream = appender(self.file)

    def _leave_as_it_was(self) -> None:
        """Nothing came of a file that was to be written anew: one that was there stays, its manifest, too."""
        self.waits = False
        if self.file and not self.was_there:
            self.file.unlink(missing_ok=True)

    def _lock(self, file: Path) -> None:
        """Holds the file for this process until it ends. Raises UsageError when another run is writing to it."""
        lock = file.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if self.lock is None or os.fstat(self.lock.fileno()).st_ino != os.fstat(lock.fileno()).st_ino:
                raise UsageError(f"{file}: another run is writing to it; wait for it, or choose another file") from None
            return
        self.lock = lock

    def _keep_done(self, file: Path, ordered: bool) -> None:
        """Cuts away a line that a crash cut off and records with `error`; replays the rest to stdout.

        A plain file without failures is only truncated; otherwise it is written anew beside itself and put in its place.
        """
        good = self._survey(file, ordered)
        draft = file.with_name(file.name + ".tmp")
        target = appender(draft, fresh=True) if good is None else None
        for line in _whole_lines(file):
            record = self._keep(line)
            if record is None and ordered:
                break
            if record is None or (self.review and self.review.takes_back(record)):
                continue
            if target:
                target.write(line)
            self.done[record[self.key]] += 1
            self._count(record)
            self._to_stdout(line)
        if target:
            target.close()
            os.replace(draft, file)
        else:
            os.truncate(file, good or 0)

    def _survey(self, file: Path, ordered: bool) -> int | None:
        """The length of the good beginning, if nothing beyond it is kept; None where the file is to be written anew."""
        good = 0
        rewrite = file.suffix in (".gz", ".zst")
        for line in _whole_lines(file):
            if self.review:
                self.review.see(Record(_parsed(line)))
            if self._keep(line):
                good += 0 if rewrite else len(line)
            elif ordered:
                break
            else:
                rewrite = True
        taken = self.review is not None and self.review.takes_back(None)
        return None if rewrite or taken else good

    def _keep(self, line: bytes) -> Record | None:
        record = Record(_parsed(line))
        return record if isinstance(record.get(self.key), str) and not has_failed(record) else None

    def take_done(self, name: str) -> bool:
        """Whether an earlier run wrote the record of this id; each written record answers once."""
        if self.done.get(name, 0) == 0:
            return False
        self.done[name] -= 1
        return True

    def write(self, record: Record) -> None:
        """Writes one record as one flushed line. Raises SophiaError when the disk is full."""
        self._write(to_line(record), record)
        self._count(record)

    def pass_on(self, line: bytes) -> None:
        """Writes a line, of a record on which nothing failed, as it is. Raises SophiaError when the disk is full."""
        self._write(line, None)
        self.written += 1

    def _write(self, line: bytes, record: Record | None) -> None:
        if self.stream is not None or self.waits:
            try:
                self._empty()
                assert self.stream is not None
                self.stream.write(line)
                self.stream.flush()
            except OSError as error:
                mend = "make room and type the command again; it continues"
                name = name_of(record if record is not None else _parsed(line))
                raise SophiaError(f"{self.file}: cannot write {name} ({error.strerror}); {mend}") from None
        self._to_stdout(line)

    def name_failure(self, record: Record) -> None:
        """Names a failed record that does not go out, and counts it."""
        self.failed += 1
        notice(f"{name_of(record)} failed: {record['error']}")

    def _count(self, record: Record) -> None:
        self.written += 1
        self.failed += has_failed(record)
        self.tokens += self.tokens_of(record)
        self.observe(record)

    def tokens_of(self, record: Record) -> int:
        """How many tokens a record's sample has; 0 where the step samples none, or the sample failed."""
        return int(record.get(self.tokens_field) or 0) if self.tokens_field else 0

    def _to_stdout(self, line: bytes) -> None:
        if self.stdout is None:
            return
        try:
            self.stdout.write(line)
            self.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SophiaError(
                f"stdout: cannot be written ({error.strerror}); make room and type the command again"
            ) from None

    def close(self, finished: bool, records_in: int, report: dict[str, Any] | None = None) -> None:
        """Closes the file and writes its manifest, with what the step reports."""
        if self.waits and not finished:
            self._leave_as_it_was()
            return
        try:
            self._empty()
        except OSError as error:
            raise SophiaError(f"{self.file}: cannot be written ({error.strerror}); make room, and type it again") from None
        if self.stream is None or self.manifest is None:
            return
        counts = {"in": records_in, "out": self.written, "failed": self.failed}
        try:
            self.stream.close()
        except OSError as error:
            raise SophiaError(
                f"{self.file}: cannot be written ({error.strerror}); make room and type the command again"
            ) from None
        finally:
            self.stream = None
        first_error_counts = contextlib.nullcontext() if finished else contextlib.suppress(SophiaError)
        with first_error_counts:
            self.manifest.save(finished=finished, counts=counts, tokens=self.tokens, **(report or {}))


def _parsed(line: bytes) -> dict[str, Any]:
    """The object on a line; an empty one where there is none."""
    try:
        record = loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _whole_lines(file: Path) -> Iterator[bytes]:
    """The complete lines of a file; what a crash cut off at its end is left out."""
    import zstandard

    with open_binary(file) as stream:
        while True:
            try:
                line = stream.readline()
            except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError):
                return
            if not line.endswith(b"\n"):
                return
            yield line
