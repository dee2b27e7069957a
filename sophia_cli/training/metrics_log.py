"""The metrics of every update, in a file beside the checkpoints; saved with the model at the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sophia_cli.errors import SophiaError
from sophia_cli.io.jsonl import load_json, to_line
from sophia_cli.training.distributed import DistributedContext

EmitFunction = Callable[[dict[str, Any]], None]
"""Called with the metrics of each update."""
METRICS_FILE, PLOT_FILE = "metrics.jsonl", "curve.png"
# Markers on more points hide the line.
MAX_POINTS = 40


class MetricsLog:
    """The metrics of a run so far. past: those before `first`; later ones belong to updates that run again after a
    resume.
    """

    def __init__(self, draft: Path, first: int, world: DistributedContext):
        self.file, self.is_main = draft / METRICS_FILE, world.is_main
        lines = self.file.read_bytes().splitlines() if self.is_main and self.file.exists() else []
        self.past: list[dict[str, Any]] = [load_json(line) for line in lines[:first]]
        if self.is_main:
            self.file.write_bytes(b"".join(map(to_line, self.past)))

    def add_update(self, row: dict[str, Any]) -> None:
        """Appends the metrics of an update.

        Raises:
            SophiaError: the file cannot be written.
        """
        if self.is_main:
            try:
                with self.file.open("ab") as file:
                    file.write(to_line(row))
            except OSError as error:
                remedy = "free disk space and run the command again, it resumes from the last checkpoint"
                raise SophiaError(f"{self.file}: cannot be written ({error.strerror}); {remedy}") from None


def draw_curves(rows: list[dict[str, Any]], file: Path) -> None:
    """Draws loss and learning rate over the updates as a PNG."""
    from matplotlib.figure import Figure

    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(8, 3), layout="constrained")
    for panel, (name, title) in enumerate((("loss", "loss"), ("learning_rate", "learning rate")), 1):
        axes = figure.add_subplot(1, 2, panel)
        axes.plot(steps, [row[name] for row in rows], marker="." if len(rows) < MAX_POINTS else "")
        axes.set(xlabel="update", title=title)
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
