"""Counts the records that a step reads."""

from collections.abc import Iterator
from dataclasses import dataclass

from sophia_cli.records import Record


@dataclass
class RecordCounter:
    """Counts the records that pass through `count_records`."""

    count: int = 0

    def count_records(self, rows: Iterator[Record]) -> Iterator[Record]:
        for row in rows:
            self.count += 1
            yield row
