"""The options that every step has, and settings in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sophia_cli.io.shards import Shard


@dataclass(frozen=True)
class StepOptions:
    """The options that every step has."""

    out: Path | None = None
    tee: Path | None = None
    seed: int = 0
    limit: int | None = None
    shard: str | None = None
    dry_run: bool = False
    quiet: bool = False
    debug: bool = False
    force: bool = False

    @property
    def parsed_shard(self) -> Shard:
        """The shard that the step reads."""
        return Shard.parse(self.shard)

    def expected_records(self, rows: int | None, each: int) -> int | None:
        """Returns how many records a step will write for this many source rows, if that is known."""
        if rows is None:
            return None
        mine = len(range(self.parsed_shard.index, rows, self.parsed_shard.count))
        return each * (mine if self.limit is None else min(mine, self.limit))


def plain_settings(settings: Mapping[str, Any]) -> str:
    """Returns settings as `alpha 0.75, keep 1`, for people; those without a value are omitted."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value is not None)
