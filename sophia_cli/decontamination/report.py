"""Reports every overlap: a line on stderr, a record in the file of `--report`, and counts for the manifest."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sophia_cli.decontamination.benchmark_index import STEP, BenchmarkIndex, CheckedRecord, OverlapRules
from sophia_cli.decontamination.overlap import Overlap
from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.io.compression import open_appender
from sophia_cli.io.jsonl import to_line
from sophia_cli.records import Record, where_of
from sophia_cli.rewards.table import hash64
from sophia_cli.runtime.progress import log_info

MAX_REPORTED = 100
"""Pairs of one item that are reported."""


MANY_DROPPED = 0.2
"""Share of records dropped by text alone above which a hint is shown."""


class OverlapReport:
    """Reports every pair once: a line on stderr, and a record in the file if there is one."""

    def __init__(self, file: Path | None, benchmark: BenchmarkIndex):
        self.file, self.benchmark = file, benchmark
        self.stream: IO[bytes] | None = None
        self.reported: set[int] = set()

    def __enter__(self) -> "OverlapReport":
        if self.file:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self.stream = open_appender(self.file, fresh=True)
            except OSError as error:
                raise UsageError(
                    f"--report {self.file}: cannot be written ({error.strerror}); choose another file"
                ) from None
        return self

    def __exit__(self, *error: object) -> None:
        if self.stream:
            with suppress(OSError):  # a full disk was reported when a line was flushed
                self.stream.close()

    def report_record(self, each: CheckedRecord, pairs: list[Overlap]) -> None:
        """Reports the pairs for which a record is dropped, and those that the judge found different.

        Raises:
            SophiaError: the disk is full.
        """
        record = each.record
        different = [near for near in each.texts if each.verdicts.get(near.number) == "different"]
        item = hash64(f"{record.get('id')}\0{record.get('question')}\0{record.get('image')}")
        if not (pairs or different) or item in self.reported:
            return
        self.reported.add(item)
        name = where_of(record) if record.get("id") is None else str(record["id"])
        for near in [*pairs, *different][:MAX_REPORTED]:
            self._report_pair(name, record, near, bool(pairs), each.verdicts.get(near.number))
        if len(pairs) + len(different) > MAX_REPORTED:
            log_info(f"{STEP}: {name}: {len(pairs) + len(different) - MAX_REPORTED} more pairs")

    def _report_pair(self, name: str, record: Record, near: Overlap, dropped: bool, verdict: str | None) -> None:
        source, other = self.benchmark.items[near.number]
        by = "image" if near.share is None else "text"
        how = f"{near.distance} of 256 bits differ" if near.share is None else f"{near.share:.0%} of the words"
        judged = f", judge: {verdict}" if verdict and by == "text" else ""
        log_info(f"{STEP}: {name} {'dropped' if dropped else 'kept'}: {by} as {other['id']} of {source} ({how}{judged})")
        fields = {
            "id": record.get("id"), "dropped": dropped, "by": by, "share": near.share, "distance": near.distance,
            "judge": verdict if by == "text" else None, "question": record.get("question"), "image": record.get("image"),
            "against": source, "against_id": other["id"], "against_question": other.get("question"),
            "against_image": other.get("image"),
        }  # fmt: skip
        self._write_line(to_line(fields))

    def _write_line(self, line: bytes) -> None:
        if self.stream:
            try:
                self.stream.write(line)
                self.stream.flush()
            except OSError as error:
                raise SophiaError(f"--report {self.file}: cannot be written ({error.strerror}); free disk space") from None


@dataclass
class DropCounts:
    """How many records were dropped, and why."""

    records: int = 0
    dropped: int = 0
    by_text: int = 0
    by_image: int = 0
    by_both: int = 0

    def count_pairs(self, pairs: list[Overlap]) -> None:
        """Counts a record and the pairs for which it is dropped."""
        texts, images = any(near.share is not None for near in pairs), any(near.share is None for near in pairs)
        self.records += 1
        self.dropped += texts or images
        self.by_both += texts and images
        self.by_text += texts and not images
        self.by_image += images and not texts

    def to_manifest(self) -> dict[str, Any]:
        """Returns the counts for the manifest."""
        return {"dropped": vars(self)}

    def summary_line(self, rules: OverlapRules) -> str:
        """Returns `decontaminate: 12 of 400 records dropped (…)`."""
        parts = f"{self.by_text} by text, {self.by_image} by image, {self.by_both} by both"
        hint = ""
        if rules.match == "any" and self.by_text > self.records * MANY_DROPPED:
            hint = "; many by text only: if questions follow templates, --match both also compares images"
        return f"{STEP}: {self.dropped} of {self.records} records dropped ({parts}){hint}"
