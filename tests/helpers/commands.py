"""Runs the command as a user types it, and reads and writes JSONL files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SOPHIA = [sys.executable, "-m", "sophia_cli"]


ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "160"}


def sophia(*arguments: str, cwd: Path, stdin: str | bytes = b"", code: int | None = 0) -> subprocess.CompletedProcess[bytes]:
    """Runs `sophia` in a folder; asserts the exit code, and that it printed no traceback."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run([*SOPHIA, *arguments], cwd=cwd, input=data, capture_output=True, env=ENVIRONMENT, timeout=600)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert code is None or done.returncode == code, (done.returncode, done.stderr.decode())
    return done


def records_of(data: bytes | Path) -> list[dict[str, Any]]:
    """Returns the records of JSONL bytes or of a file."""
    text = data.read_bytes() if isinstance(data, Path) else data
    return [json.loads(line) for line in text.splitlines()]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def wait_until(holds: Any, seconds: float = 60) -> None:
    for _ in range(int(seconds * 100)):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to hold")


def kill_after(lines: int, command: list[str], folder: Path, number: int = signal.SIGKILL) -> None:
    """Runs a step until its file has this many lines, then kills it, by default with SIGKILL."""
    step = subprocess.Popen([*SOPHIA, *command], cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    out = folder / "raw.jsonl"

    def reached() -> bool:
        return step.poll() is not None or (out.exists() and out.read_bytes().count(b"\n") >= lines)

    wait_until(reached, seconds=600)  # a server that fails time and again rests longer each time
    step.send_signal(number)
    step.wait()
