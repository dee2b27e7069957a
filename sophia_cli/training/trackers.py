"""Trackers that the user asked for (`--report-to`): each is told the figures of every update. None by default."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sophia_cli.errors import UsageError

TRACKERS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
NO_TRACKER = "none"


def check_tracker(name: str) -> None:
    """Raises UsageError for a tracker that is not known or not installed."""
    if name == NO_TRACKER:
        return
    if name not in TRACKERS:
        raise UsageError(f"--report-to {name}: choose from {', '.join(TRACKERS)}, {NO_TRACKER}")
    try:
        importlib.import_module(TRACKERS[name])
    except ImportError:
        raise UsageError(f"--report-to {name}: is not installed; `pip install {name}`, or leave it out") from None


def make_tracker(name: str, out: Path, settings: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """What is to be told each update's figures. out: the folder of the model to be; its name is the run's.

    tensorboard writes to `OUT.tensorboard`; wandb and trackio are called as their pages say, project `sophia`.
    """
    if name == NO_TRACKER:
        return lambda told: None
    library = importlib.import_module(TRACKERS[name])
    if name == "tensorboard":
        writer = library.SummaryWriter(out.with_name(out.name + ".tensorboard"))

        def write(told: dict[str, Any]) -> None:
            for figure, value in flatten_metrics(told).items():
                writer.add_scalar(figure, value, told["step"])
            writer.flush()

        return write
    library.init(project="sophia", name=out.name, config=settings)
    return lambda told: library.log(flatten_metrics(told), step=told["step"])


def flatten_metrics(told: dict[str, Any]) -> dict[str, float]:
    """The figures of an update, those within another as `log_ratio/mean`."""
    found: dict[str, float] = {}
    for name, value in told.items():
        inner = value.items() if isinstance(value, dict) else ()
        found |= {f"{name}/{part}": number for part, number in inner} if inner else {name: value}
    return found
