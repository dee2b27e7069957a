"""Helpers of all tests: the command as a user types it, and small files made by it once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOPHIA = [sys.executable, "-m", "sophia_cli"]
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, whatever is started here would ignore it
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "160"}


def sophia(*arguments: str, cwd: Path, stdin: str | bytes = b"", code: int | None = 0) -> subprocess.CompletedProcess[bytes]:
    """Runs `sophia` in a folder; asserts the exit code, and that no traceback was shown."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run([*SOPHIA, *arguments], cwd=cwd, input=data, capture_output=True, env=ENVIRONMENT, timeout=600)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert code is None or done.returncode == code, (done.returncode, done.stderr.decode())
    return done


def records_of(data: bytes | Path) -> list[dict[str, Any]]:
    """The records of JSONL bytes or of a file."""
    text = data.read_bytes() if isinstance(data, Path) else data
    return [json.loads(line) for line in text.splitlines()]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a world of eight images (`imgs`), their captions and their graded trajectories, K = N = 2."""
    folder = tmp_path_factory.mktemp("lab")
    sophia("world", "imgs", "-n", "8", "--seed", "11", cwd=folder)
    captions = sophia("caption", "imgs", "-k", "2", cwd=folder).stdout
    (folder / "caps.jsonl").write_bytes(captions)
    raw = sophia("reason", "caps.jsonl", "-n", "2", cwd=folder).stdout
    (folder / "raw.jsonl").write_bytes(raw)
    (folder / "traj.jsonl").write_bytes(sophia("grade", "raw.jsonl", cwd=folder).stdout)
    return folder
