"""The figures of every update, in a file beside the checkpoints; they go with the model in the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sophia_cli.errors import SophiaError
from sophia_cli.io.jsonl import load_json, to_line
from sophia_cli.training.distributed import DistributedContext

EmitFunction = Callable[[dict[str, Any]], None]
"""Told of each update."""
METRICS_FILE, PLOT_FILE = "metrics.jsonl", "curve.png"
MAX_POINTS = 40


class MetricsLog:
    """The updates of a run so far. past: those up to `first`; what was written beyond is of updates that are done again."""

    def __init__(self, draft: Path, first: int, world: DistributedContext):
        self.file, self.is_main = draft / METRICS_FILE, world.is_main
        lines = self.file.read_bytes().splitlines() if self.is_main and self.file.exists() else []
        self.past: list[dict[str, Any]] = [load_json(line) for line in lines[:first]]
        if self.is_main:
            self.file.write_bytes(b"".join(map(to_line, self.past)))

    def add_update(self, told: dict[str, Any]) -> None:
        """One update more. Raises SophiaError."""
        if self.is_main:
            try:
                with self.file.open("ab") as file:
                    file.write(to_line(told))
            except OSError as error:
                mend = "make room and type the command again, it goes on from its last checkpoint"
                raise SophiaError(f"{self.file}: cannot be written ({error.strerror}); {mend}") from None


def draw_curves(told: list[dict[str, Any]], file: Path) -> None:
    """Loss and learning rate over the updates, as a PNG."""
    from matplotlib.figure import Figure

    steps = [row["step"] for row in told]
    figure = Figure(figsize=(8, 3), layout="constrained")
    for place, (name, title) in enumerate((("loss", "loss"), ("learning_rate", "learning rate")), 1):
        axes = figure.add_subplot(1, 2, place)
        axes.plot(steps, [row[name] for row in told], marker="." if len(told) < MAX_POINTS else "")
        axes.set(xlabel="update", title=title)
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
