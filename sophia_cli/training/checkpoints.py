"""Checkpoints of a run, in the draft folder beside the model to be: `OUT.tmp/step-N`, the last whole one alone.

A checkpoint counts once its mark is there, which is written last; what a crash or a full disk left half is deleted.
"""

import json
import shutil
from pathlib import Path

import torch.distributed as dist

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.io.jsonl import write_json
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.engines import Engine

COMPLETE_MARK = "whole.json"


def last_checkpoint(draft: Path, processes: int) -> tuple[int, Path] | None:
    """Steps done and folder of the last whole checkpoint. Raises UsageError where another number wrote it."""
    marks = [(json.loads(mark.read_text()), mark.parent) for mark in draft.glob(f"*/{COMPLETE_MARK}")]
    if not marks:
        return None
    mark, folder = max(marks, key=lambda pair: int(pair[0]["step"]))
    if mark["processes"] != processes:
        raise UsageError(
            f"{folder}: was written by {mark['processes']} processes, these would be {processes}; a run goes on with as "
            "many as it was begun with (--gpus, --cpu-ranks), or begins anew with --force"
        )
    return int(mark["step"]), folder


def save_checkpoint(engine: Engine, draft: Path, step: int, world: DistributedContext) -> None:
    """Writes a checkpoint, and deletes the one before when it is whole. Every process calls it. Raises SophiaError."""
    folder = draft / f"step-{step}"
    try:
        engine.save_state(folder)
        _wait_for_all()
        if world.is_main:
            mark_complete(folder, step, world)
    except (OSError, RuntimeError, SophiaError) as error:  # torch's writer raises RuntimeError where the disk is full
        shutil.rmtree(folder, ignore_errors=True)
        raise write_error(folder, error) from None
    _wait_for_all()


def write_error(folder: Path, error: Exception) -> SophiaError:
    """What to say of a checkpoint that could not be written."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    if "inline_container" in reason:  # how torch's writer says that not all of it was taken
        reason = "the disk is full, it seems"
    return SophiaError(f"{folder}: cannot be written ({reason}); any before it stands: make room and type the command again")


def mark_complete(folder: Path, step: int, world: DistributedContext) -> None:
    """Marks a checkpoint as whole, and deletes every other one, half ones, too."""
    write_json(folder / COMPLETE_MARK, {"step": step, "processes": world.size})
    for other in folder.parent.glob(f"{folder.name.partition('-')[0]}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
