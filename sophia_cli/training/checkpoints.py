"""Checkpoints of a run: `OUT.tmp/step-N`, of which only the last complete one is kept.

A mark is written last. A checkpoint without it was interrupted by a crash or a full disk and is deleted.
"""

import json
import shutil
from pathlib import Path

import torch.distributed as dist

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.io.jsonl import write_json
from sophia_cli.training.distributed import LOST_PATTERN, DistributedContext
from sophia_cli.training.engines import Engine

COMPLETE_MARK = "whole.json"


def last_checkpoint(draft: Path, processes: int) -> tuple[int, Path] | None:
    """Returns the number of steps done and the folder of the last complete checkpoint, or None.

    Raises:
        UsageError: another number of processes wrote it.
    """
    marks = [(_read_mark(mark), mark.parent) for mark in draft.glob(f"*/{COMPLETE_MARK}")]
    if not marks:
        return None
    # Two complete ones exist if the run was killed before the older one was deleted.
    mark, folder = max(marks, key=lambda pair: int(pair[0]["step"]))
    if mark["processes"] != processes:
        raise UsageError(
            f"{folder}: was written by {mark['processes']} processes, now there are {processes}; a run resumes with the "
            "number it was started with (--gpus, --cpu-ranks), or starts over with --force"
        )
    return int(mark["step"]), folder


def _read_mark(file: Path) -> dict[str, int]:
    """Reads the mark of a complete checkpoint.

    Raises:
        UsageError: it is damaged.
    """
    try:
        mark = json.loads(file.read_text(encoding="utf-8"))
        return {"step": int(mark["step"]), "processes": int(mark["processes"])}
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file}: is damaged; delete {file.parent} to resume from an earlier checkpoint") from None


def save_checkpoint(engine: Engine, draft: Path, step: int, world: DistributedContext) -> None:
    """Writes a checkpoint and deletes the previous one once it is complete. Every rank calls it.

    Raises:
        SophiaError: it cannot be written.
    """
    folder = draft / f"step-{step}"
    try:
        engine.save_state(folder)
    except (OSError, RuntimeError, SophiaError) as error:  # torch's writer raises RuntimeError on a full disk
        shutil.rmtree(folder, ignore_errors=True)
        raise write_error(folder, error) from None
    _wait_for_all()
    # Only after all ranks have written: the mark says that the checkpoint is complete.
    if world.is_main:
        mark_complete(folder, step, world)
    _wait_for_all()


def write_error(folder: Path, error: Exception) -> Exception:
    """Returns the error for a checkpoint that could not be written; the error itself if another process is gone."""
    if LOST_PATTERN.match(f"{type(error).__name__}: {error}"):
        return error
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    if "inline_container" in reason:  # the message of torch's writer for an incomplete write
        reason = "the disk seems to be full"
    return SophiaError(
        f"{folder}: cannot be written ({reason}); the previous checkpoint is kept, free disk space and run the command again"
    )


def mark_complete(folder: Path, step: int, world: DistributedContext) -> None:
    """Marks a checkpoint as complete and deletes all others."""
    write_json(folder / COMPLETE_MARK, {"step": step, "processes": world.size})
    for other in folder.parent.glob(f"{folder.name.partition('-')[0]}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
