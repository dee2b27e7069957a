"""FILE.held: finished trajectories of captions that `reason --stop-early` has not finished, kept beside the output file.

The output file holds finished captions only. After an interrupt, the trajectories of the other captions are stored
here. The next run reads them by their offset, so that memory holds no texts.
"""

import math
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sophia_cli.errors import RecordError
from sophia_cli.io.jsonl import load_json, to_line
from sophia_cli.records import Record, has_failed

HELD_SUFFIX, ID_FIELD = ".held", "trajectory_id"
STOP_FIELDS = ("stop_alpha", "stop_length")
"""The fields that the records of a caption get when it is given up."""


class HeldRecords:
    """The records that are stored beside a file; none without a file."""

    def __init__(self, file: Path | None):
        self.path = file.with_name(file.name + HELD_SUFFIX) if file else None
        self.offsets: dict[str, dict[str, int]] = defaultdict(dict)
        self.loaded = False

    def load(self) -> None:
        """Reads the offset of each record; removes a truncated last line."""
        self.loaded = True
        if self.path is None or not self.path.exists():
            return
        good = 0
        with self.path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._note_offset(Record(load_json(line)), good)
                good += len(line)
        os.truncate(self.path, good)

    def _note_offset(self, record: Record, offset: int) -> None:
        self.offsets[str(record.get("caption_id"))][str(record.get("trajectory_id"))] = offset

    def add_record(self, record: Record) -> None:
        """Stores a record without its stop fields, unless it is stored already.

        Raises:
            OSError: it cannot be written.
        """
        caption, name = str(record.get("caption_id")), str(record.get("trajectory_id"))
        if self.path is None or name in self.offsets.get(caption, {}):
            return
        with self.path.open("ab") as stream:
            self._note_offset(record, stream.tell())
            stream.write(to_line(Record({name: value for name, value in record.items() if name not in STOP_FIELDS})))

    def get_record(self, caption: str, name: str) -> Record | None:
        """Returns a trajectory of a caption, or None."""
        offset = self.offsets.get(caption, {}).get(name)
        if offset is None or self.path is None:
            return None
        with self.path.open("rb") as stream:
            stream.seek(offset)
            return Record(load_json(stream.readline()))

    def forget_caption(self, caption: str) -> None:
        """Drops the records of a finished caption; deletes the file when none are left."""
        if self.offsets.pop(caption, None) is not None and not self.offsets:
            self.clear()

    def clear(self) -> None:
        """Deletes the file."""
        self.offsets.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass
class ResumeState:
    """What an earlier run with early stop has written (a `ResumeFilter` of its file).

    A caption is finished when it was given up, or when all N trajectories exist and none has failed. Records of other
    captions are moved to FILE.held, because only at the end is it known whether they carry `stop_alpha`.

    Attributes:
        n: N.
        held: The records beside the file.
        grade: R(y) of a record, where the shortest correct trajectory of a caption bounds the others.
    """

    n: int
    held: HeldRecords
    grade: Callable[[Record], float | None] | None = None
    written: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    cut: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    right: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    given_up: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    questions: dict[str, str] = field(default_factory=dict)
    unfinished_questions: set[str] = field(default_factory=set)
    last_caption: str = ""

    def observe(self, record: Record) -> None:
        """Counts a record for its caption."""
        caption = self.last_caption = str(record.get("caption_id"))
        self.questions[caption] = str(record.get("id"))
        if has_failed(record):
            self.broken.add(caption)
        elif isinstance(record.get(ID_FIELD), str):
            tokens = int(record.get("trajectory_tokens") or 0)
            cut = record.get("finish_reason") == "length" and tokens >= (record.get("stop_length") or math.inf)
            (self.cut if cut else self.written)[caption].append(tokens)
            if record.get("stop_alpha") is not None:
                self.given_up.add(caption)
            elif self.grade is not None and self._reward(record) == 1.0:
                self.right[caption].append(tokens)

    def _reward(self, record: Record) -> float | None:
        try:
            return self.grade(record) if self.grade else None
        except RecordError:
            return None

    def length_bound(self, caption: str, alpha: float) -> float:
        """Returns the length of the shortest correct trajectory of a finished caption, if the caption passes."""
        right = self.right.get(caption, [])
        return min(right) if len(right) / self.n > alpha else math.inf

    def is_finished(self, caption: str) -> bool:
        """Tells whether nothing is left to do for a caption and, with a length bound, for its question."""
        return self._is_complete(caption) and self.questions.get(caption) not in self.unfinished_questions

    def _is_complete(self, caption: str) -> bool:
        """Tells whether all records of a caption exist. A crash may have truncated the records of the last caption."""
        given_up = caption in self.given_up and caption != self.last_caption
        return caption not in self.broken and (given_up or len(self.written.get(caption, ())) >= self.n)

    def takes_back(self, record: Record | None) -> bool:
        """Moves the records of unfinished captions to FILE.held."""
        if record is None:
            self.held.load()
            if self.grade is not None:
                self.unfinished_questions = {
                    name for caption, name in self.questions.items() if not self._is_complete(caption)
                }
            return any(not self.is_finished(caption) for caption in {*self.written, *self.cut})
        if self.is_finished(str(record.get("caption_id"))):
            return False
        self.held.add_record(record)
        return True

    def on_rewrite(self) -> None:
        """Deletes FILE.held."""
        self.held.clear()
