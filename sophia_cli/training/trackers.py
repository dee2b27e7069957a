"""Experiment trackers (`--report-to`): each gets the metrics of every update. None by default."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sophia_cli.errors import UsageError

TRACKERS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
NO_TRACKER = "none"


def check_tracker(name: str) -> None:
    """Checks the name of a tracker.

    Raises:
        UsageError: it is unknown or not installed.
    """
    if name == NO_TRACKER:
        return
    if name not in TRACKERS:
        raise UsageError(f"--report-to {name}: choose from {', '.join(TRACKERS)}, {NO_TRACKER}")
    try:
        importlib.import_module(TRACKERS[name])
    except ImportError:
        raise UsageError(f"--report-to {name}: is not installed; run `pip install {name}`, or omit it") from None


def make_tracker(name: str, out: Path, settings: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Returns the function that reports the metrics of an update. out: the model's folder; its name is the run's name.

    tensorboard writes to `OUT.tensorboard`; wandb and trackio use the project `sophia`.
    """
    if name == NO_TRACKER:
        return lambda row: None
    library = importlib.import_module(TRACKERS[name])
    if name == "tensorboard":
        writer = library.SummaryWriter(out.with_name(out.name + ".tensorboard"))

        def write(row: dict[str, Any]) -> None:
            for figure, value in flatten_metrics(row).items():
                writer.add_scalar(figure, value, row["step"])
            writer.flush()

        return write
    library.init(project="sophia", name=out.name, config=settings)
    return lambda row: library.log(flatten_metrics(row), step=row["step"])


def flatten_metrics(row: dict[str, Any]) -> dict[str, float]:
    """Returns the metrics with nested ones as `log_ratio/mean`."""
    found: dict[str, float] = {}
    for name, value in row.items():
        inner = value.items() if isinstance(value, dict) else ()
        found |= {f"{name}/{part}": number for part, number in inner} if inner else {name: value}
    return found
