"""FILE.held: trajectories of captions that are not settled, kept beside the file of `reason --stop-early` until they are.

The file itself holds settled captions only. What an interrupt leaves of the others, and what fellows of a failed trajectory
there are, is put here; the next run takes it from here, by its place, so that memory holds no texts.
"""

import os
from collections import defaultdict
from pathlib import Path

from sophia_cli.records import Record
from sophia_cli.streams import loads, to_line

SUFFIX = ".held"


class Held:
    """The records that are held beside a file; without one, none are."""

    def __init__(self, file: Path | None):
        self.path = file.with_name(file.name + SUFFIX) if file else None
        self.places: dict[str, dict[str, int]] = defaultdict(dict)
        self.loaded = False

    def load(self) -> None:
        """Reads where each record stands; a line that a crash cut off is cut away."""
        self.loaded = True
        if self.path is None or not self.path.exists():
            return
        good = 0
        with self.path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._note(Record(loads(line)), good)
                good += len(line)
        os.truncate(self.path, good)

    def _note(self, record: Record, place: int) -> None:
        self.places[str(record.get("caption_id"))][str(record.get("trajectory_id"))] = place

    def add(self, record: Record) -> None:
        """Puts a record beside the file, unless it is there already. Raises OSError."""
        caption, name = str(record.get("caption_id")), str(record.get("trajectory_id"))
        if self.path is None or name in self.places.get(caption, {}):
            return
        with self.path.open("ab") as stream:
            self._note(record, stream.tell())
            stream.write(to_line(record))

    def get(self, caption: str, name: str) -> Record | None:
        """A trajectory of a caption."""
        place = self.places.get(caption, {}).get(name)
        if place is None or self.path is None:
            return None
        with self.path.open("rb") as stream:
            stream.seek(place)
            return Record(loads(stream.readline()))

    def settle(self, caption: str) -> None:
        """Nothing more is needed of a caption; when that holds for all, the file beside goes."""
        if self.places.pop(caption, None) is not None and not self.places:
            self.clear()

    def clear(self) -> None:
        """Removes the file beside: all is settled, or begun anew."""
        self.places.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
