"""Shards: `--shard I/N` takes every N-th row."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from sophia_cli.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `count`: every `count`-th row, counted from 0."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Shard":
        """Parses `I/N` as the user types it.

        Raises:
            UsageError: it is not of that form.
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or int(match[1]) >= int(match[2]):
            raise UsageError(f"--shard {text}: give I/N with I from 0 to N-1, as in 0/4")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def contains(self, number: Any, limit: int | None = None) -> Any:
        """Tells whether rows with these numbers (one, or an array) are in this shard, among its first `limit`."""
        mine = number % self.count == self.index
        return mine if limit is None else mine & (number // self.count < limit)

    def take(self, rows: Iterable[T], limit: int | None = None) -> Iterator[T]:
        """Yields the rows of this shard, at most `limit` of them."""
        return islice(islice(rows, self.index, None, self.count), limit)
