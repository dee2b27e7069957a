"""Writes the records of a step to stdout, to a file (`-o`), or to both (`--tee`), and resumes a file.

FILE.manifest.json holds the settings that the file was started with. When the same command runs again, whole lines without
`error` are kept, the rest is cut off and made again. Other settings are refused.
"""

import contextlib
import fcntl
import gzip
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.io.compression import open_appender, open_reader
from sophia_cli.io.jsonl import load_json, to_line
from sophia_cli.io.manifest import Manifest
from sophia_cli.io.stdio import write_stdout
from sophia_cli.records import Record, has_failed, record_name
from sophia_cli.runtime.progress import log_line


class RecordWriter:
    """Writes the records of one step. `finished_ids` counts, by id, the records that an earlier run has written."""

    def __init__(
        self,
        id_field: str,
        stdout: IO[bytes] | None,
        file: Path | None = None,
        manifest: Manifest | None = None,
        force: bool = False,
        keeps_order: bool = False,
        rewrite: bool = False,
        tokens_field: str | None = None,
        on_record: Callable[[Record], None] = lambda record: None,
    ):
        """Opens the output.

        Args:
            id_field: The field that identifies a record of this step. Records without it are never finished.
            stdout: Where each record goes, or None.
            file: The file to write, or None.
            manifest: The manifest of `file`.
            force: Start the file over.
            keeps_order: The step keeps the order of its input; resuming keeps only the records before the first failure.
            rewrite: The file is written again from its first record on. Until that record exists, the old file stays.
            tokens_field: The field that holds the number of tokens of a sample.
            on_record: Called with every record, including those kept from an earlier run.

        Raises:
            UsageError: the file cannot be written, or was started with other settings.
        """
        self.id_field, self.stdout, self.file, self.manifest = id_field, stdout, file, manifest
        self.tokens_field, self.on_record = tokens_field, on_record
        self.finished_ids: Counter[str] = Counter()
        self.written = self.failed = self.tokens = 0
        self.stream: IO[bytes] | None = None
        self.lock: IO[bytes] | None = None
        self.rewrite_pending = self.file_existed = False
        if file is not None and manifest is not None:
            self._open_file(file, manifest, force, keeps_order, rewrite)

    def _open_file(self, file: Path, manifest: Manifest, force: bool, keeps_order: bool, rewrite: bool) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            resumes = not force and file.exists() and (file.stat().st_size > 0 or manifest.path.exists())
            if resumes:
                manifest.check_settings()
            self.rewrite_pending, self.file_existed = rewrite, file.exists()
            self._lock_file(file)
            if rewrite:
                return  # the old content stays until the first record
            if resumes:
                self._resume_file(file, keeps_order)
            else:
                file.write_bytes(b"")
            manifest.save()
            self.stream = open_appender(file)
            self._lock_file(file)
        except OSError as error:
            raise UsageError(f"{file}: cannot be written ({error.strerror}); choose another file") from None

    def _start_rewrite(self) -> None:
        """Truncates a file that is written again, and opens it."""
        if self.rewrite_pending and self.file and self.manifest:
            self.rewrite_pending = False
            self.file.write_bytes(b"")
            self.manifest.save()
            self.stream = open_appender(self.file)

    def _keep_existing_file(self) -> None:
        """Leaves an existing file and its manifest as they are, because the run wrote nothing."""
        self.rewrite_pending = False
        if self.file and not self.file_existed:
            self.file.unlink(missing_ok=True)

    def _lock_file(self, file: Path) -> None:
        """Locks the file for this process.

        Raises:
            UsageError: another run writes to it.
        """
        lock = file.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A lock of our own is not another run's: the file is locked again after resuming replaced it.
            if self.lock is None or os.fstat(self.lock.fileno()).st_ino != os.fstat(lock.fileno()).st_ino:
                raise UsageError(f"{file}: another run is writing to it; wait for it, or choose another file") from None
            return
        self.lock = lock

    def _resume_file(self, file: Path, keeps_order: bool) -> None:
        """Removes a truncated last line and records with `error`; replays the rest to stdout.

        A plain file without failures is only truncated. Otherwise the file is written again beside itself and replaced.
        """
        good = self._finished_prefix(file, keeps_order)
        draft = file.with_name(file.name + ".tmp")
        target = open_appender(draft, fresh=True) if good is None else None
        for line in complete_lines(file):
            record = self._parse_finished(line)
            if record is None and keeps_order:
                break
            if record is None:
                continue
            if target:
                target.write(line)
            self.finished_ids[record[self.id_field]] += 1
            self._count_record(record)
            self._write_stdout(line)
        if target:
            target.close()
            os.replace(draft, file)
        elif good is not None and good != file.stat().st_size:  # a finished file stays untouched
            os.truncate(file, good)

    def _finished_prefix(self, file: Path, keeps_order: bool) -> int | None:
        """Returns the length of the finished prefix if nothing after it is kept; None where the file must be rewritten."""
        good = 0
        # A compressed file cannot be truncated at the end of a line.
        rewrite = file.suffix in (".gz", ".zst")
        for line in complete_lines(file):
            if self._parse_finished(line):
                good += 0 if rewrite else len(line)
            elif keeps_order:
                break
            else:
                rewrite = True
        return None if rewrite else good

    def _parse_finished(self, line: bytes) -> Record | None:
        record = Record(parse_line(line))
        return record if isinstance(record.get(self.id_field), str) and not has_failed(record) else None

    def skip_finished(self, name: str) -> bool:
        """Tells whether an earlier run wrote the record of this id. Each written record answers once."""
        if self.finished_ids.get(name, 0) == 0:
            return False
        # An id that occurs twice in the input needs two records.
        self.finished_ids[name] -= 1
        return True

    def write(self, record: Record) -> None:
        """Writes one record as one flushed line.

        Raises:
            SophiaError: the disk is full.
        """
        self._write_line(to_line(record), record)
        self._count_record(record)

    def write_raw(self, line: bytes) -> None:
        """Writes a line of a successful record as it is.

        Raises:
            SophiaError: the disk is full.
        """
        self._write_line(line, None)
        self.written += 1

    def _write_line(self, line: bytes, record: Record | None) -> None:
        if self.stream is not None or self.rewrite_pending:
            try:
                self._start_rewrite()
                assert self.stream is not None
                self.stream.write(line)
                self.stream.flush()
            except OSError as error:
                remedy = "free disk space and run the command again; it resumes"
                name = record_name(record if record is not None else parse_line(line))
                raise SophiaError(f"{self.file}: cannot write {name} ({error.strerror}); {remedy}") from None
        self._write_stdout(line)

    def log_failure(self, record: Record) -> None:
        """Logs and counts a failed record that is not written."""
        self.failed += 1
        log_line(f"{record_name(record)} failed: {record['error']}")

    def _count_record(self, record: Record) -> None:
        self.written += 1
        self.failed += has_failed(record)
        self.tokens += self.token_count(record)
        self.on_record(record)

    def token_count(self, record: Record) -> int:
        """Returns the number of tokens of a record's sample; 0 where the step samples none or the sample failed."""
        return int(record.get(self.tokens_field) or 0) if self.tokens_field else 0

    def _write_stdout(self, line: bytes) -> None:
        if self.stdout is not None:
            write_stdout(self.stdout, line)

    def close(self, finished: bool, records_in: int, report: dict[str, Any] | None = None) -> None:
        """Closes the file and saves its manifest with what the step reports."""
        if self.rewrite_pending and not finished:
            self._keep_existing_file()
            return
        try:
            self._start_rewrite()
        except OSError as error:
            raise SophiaError(
                f"{self.file}: cannot be written ({error.strerror}); free disk space and run the command again"
            ) from None
        if self.stream is None or self.manifest is None:
            return
        counts = {"in": records_in, "out": self.written, "failed": self.failed}
        try:
            self.stream.close()
        except OSError as error:
            raise SophiaError(
                f"{self.file}: cannot be written ({error.strerror}); free disk space and run the command again"
            ) from None
        finally:
            self.stream = None
        # An error is already being raised if the run is not finished; this one would hide it.
        first_error_counts = contextlib.nullcontext() if finished else contextlib.suppress(SophiaError)
        with first_error_counts:
            self.manifest.save(finished=finished, counts=counts, tokens=self.tokens, **(report or {}))

    def unlock(self) -> None:
        """Lets another run write to the file."""
        if self.lock:
            self.lock.close()


def parse_line(line: bytes) -> dict[str, Any]:
    """Returns the object on a line; an empty one if the line holds none."""
    try:
        record = load_json(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def complete_lines(file: Path) -> Iterator[bytes]:
    """Yields the complete lines of a file; skips what a crash cut off at its end."""
    import zstandard

    with open_reader(file) as stream:
        while True:
            try:
                line = stream.readline()
            # A compressed stream that a crash cut off.
            except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError):
                return
            if not line.endswith(b"\n"):
                return
            yield line
