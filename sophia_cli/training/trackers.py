"""Trackers that the user asked for (`--report-to`): each is told the figures of every update. None by default."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sophia_cli.errors import UsageError

TRACKERS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
NONE = "none"


def refuse_unknown(name: str) -> None:
    """Raises UsageError for a tracker that is not known or not installed."""
    if name == NONE:
        return
    if name not in TRACKERS:
        raise UsageError(f"--report-to {name}: choose from {', '.join(TRACKERS)}, {NONE}")
    try:
        importlib.import_module(TRACKERS[name])
    except ImportError:
        raise UsageError(f"--report-to {name}: is not installed; `pip install {name}`, or leave it out") from None


def reporter(name: str, out: Path, settings: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """What is to be told each update's figures. out: the folder of the model to be; its name is the run's.

    tensorboard writes to `OUT.tensorboard`; wandb and trackio are called as their pages say, project `sophia`.
    """
    if name == NONE:
        return lambda told: None
    library = importlib.import_module(TRACKERS[name])
    if name == "tensorboard":
        writer = library.SummaryWriter(out.with_name(out.name + ".tensorboard"))

        def write(told: dict[str, Any]) -> None:
            for figure, value in flat(told).items():
                writer.add_scalar(figure, value, told["step"])
            writer.flush()

        return write
    library.init(project="sophia", name=out.name, config=settings)
    return lambda told: library.log(flat(told), step=told["step"])


def flat(told: dict[str, Any]) -> dict[str, float]:
    """The figures of an update, those within another as `log_ratio/mean`."""
    found: dict[str, float] = {}
    for name, value in told.items():
        inner = value.items() if isinstance(value, dict) else ()
        found |= {f"{name}/{part}": number for part, number in inner} if inner else {name: value}
    return found
