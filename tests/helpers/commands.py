"""Runs the command as a user types it, and reads and writes JSONL files."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from sophia_cli.cli.app import main

SOPHIA = [sys.executable, "-m", "sophia_cli"]


ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "160"}


Done = subprocess.CompletedProcess[bytes]


def sophia(*arguments: str, cwd: Path, stdin: str | bytes = b"", code: int | None = 0) -> Done:
    """Runs `sophia` within this process, in a folder; asserts the exit code, and that it printed no traceback.

    It takes the file descriptors 0 to 2, the working directory, the environment and the signal handlers for this time.
    Training is a process of its own: the bits of a run depend on the threads that torch was given before.
    """
    if arguments[0] == "train" and code != 2 and "--dry-run" not in arguments:
        return sophia_process(*arguments, cwd=cwd, stdin=stdin, code=code)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    with _streams(_bytes(stdin)) as (out, err), contextlib.chdir(cwd), mock.patch.dict(os.environ, ENVIRONMENT, clear=True):
        try:
            returned = main(list(arguments))
        finally:
            signal.alarm(0)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        sys.stdout.flush()
        sys.stderr.flush()
        done = Done(["sophia", *arguments], returned, out.read_bytes(), err.read_bytes())
    return _checked(done, code)


def sophia_process(*arguments: str, cwd: Path, stdin: str | bytes = b"", code: int | None = 0) -> Done:
    """Runs `sophia` as a process of its own; asserts the same."""
    command = [*SOPHIA, *arguments]
    return _checked(
        subprocess.run(command, cwd=cwd, input=_bytes(stdin), capture_output=True, env=ENVIRONMENT, timeout=600), code
    )


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _checked(done: Done, code: int | None) -> Done:
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert code is None or done.returncode == code, (done.returncode, done.stderr.decode())
    return done


@contextlib.contextmanager
def _streams(stdin: bytes) -> Iterator[tuple[Path, Path]]:
    """Replaces stdin, stdout and stderr, as descriptors and in `sys`; yields the files with what is written."""
    names, kept = ("stdin", "stdout", "stderr"), [os.dup(number) for number in range(3)]
    python_streams = [getattr(sys, name) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in names]
        files[0].write_bytes(stdin)
        for number, (file, mode) in enumerate(zip(files, "rww", strict=True)):
            descriptor = os.open(file, os.O_RDONLY if mode == "r" else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, number)
            os.close(descriptor)
            setattr(sys, names[number], os.fdopen(number, mode, encoding="utf-8", closefd=False))
        try:
            yield files[1], files[2]
        finally:
            for number, name in enumerate(names):
                with contextlib.suppress(OSError, ValueError):
                    getattr(sys, name).flush()
                os.dup2(kept[number], number)
                os.close(kept[number])
                setattr(sys, name, python_streams[number])


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
