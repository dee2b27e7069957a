"""Puts `fake_vllm.py` on PATH as `vllm`, and lists the servers that were started from it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 40.0


def stand_in(desk: Path, name: str, script: str) -> None:
    path = desk / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def started(desk: Path) -> list[dict[str, Any]]:
    """Returns the arguments of each server that was started."""
    seen = [json.loads(file.read_text()) for file in sorted((desk / "pids").iterdir())]
    return [entry for number, entry in enumerate(seen) if entry not in seen[:number]]


def alive(desk: Path) -> list[int]:
    """Returns the processes of the servers that still run."""
    return [int(file.name) for file in (desk / "pids").iterdir() if runs(int(file.name))]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any]) -> None:
    """Waits until a condition holds; fails after a time that no working run needs."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
