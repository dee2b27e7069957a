"""The figures of every update, in a file beside the checkpoints; they go with the model in the end."""

from pathlib import Path
from typing import Any

from sophia_cli.streams import loads, to_line
from sophia_cli.training.settings import World

CURVE = "metrics.jsonl"


class Curve:
    """The updates of a run so far. past: those up to `first`; what was written beyond is of updates that are done again."""

    def __init__(self, draft: Path, first: int, world: World):
        self.file, self.leads = draft / CURVE, world.leads
        lines = self.file.read_bytes().splitlines() if self.leads and self.file.exists() else []
        self.past: list[dict[str, Any]] = [loads(line) for line in lines[:first]]
        if self.leads:
            self.file.write_bytes(b"".join(map(to_line, self.past)))

    def add(self, told: dict[str, Any]) -> None:
        """One update more."""
        if self.leads:
            with self.file.open("ab") as file:
                file.write(to_line(told))
