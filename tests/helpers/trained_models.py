"""Compares trained models, and kills training."""

import subprocess
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from helpers.commands import ENVIRONMENT, SOPHIA, records_of
from sophia_cli.models.aliases import resolve_model

STEPS = ["--batch-size", "5", "--micro-batch-size", "2", "--lr", "1e-3"]
BASE = Path(resolve_model("tiny-vlm").path) / "model.safetensors"


def difference(one: Path, other: Path, base: Path = BASE) -> float:
    """Returns the distance between two trained models, as a share of the distance that the first has moved."""
    before, first, second = (load_file(file) for file in (base, one / "model.safetensors", other / "model.safetensors"))
    assert set(before) == set(first) == set(second)
    moved = sum((first[name].double() - before[name].double()).square().sum() for name in before)
    apart = sum((first[name].double() - second[name].double()).square().sum() for name in before)
    assert moved > 0
    return float((apart / moved).sqrt())


def curve(metrics: bytes | Path) -> list[Any]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in records_of(metrics) if "loss" in row]


def killed(folder: Path, out: str, options: list[str], after: int) -> None:
    """Starts a run and kills it after its `after`-th line of metrics."""
    command = [*SOPHIA, "train", "kept.jsonl", "--max-steps", "5", *STEPS, "-o", out, *options]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as run:
        assert run.stdout
        for _ in range(after):
            assert b"loss" in run.stdout.readline()
        run.kill()
