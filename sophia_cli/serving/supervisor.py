"""Runs one server process, and ends it with everything it started when its owner is gone, even after SIGKILL of the
owner.

This is a program in its own session that uses the standard library only: `python supervisor.py GRACE COMMAND…`. Its
stdin is a pipe that the owner keeps open and never writes to; the kernel closes it when the owner dies. On Linux, the
supervisor adopts and ends even processes that have left the server's process group; elsewhere it ends the group.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.1
# From linux/prctl.h; Python has no names for them.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(grace: float, command: list[str]) -> int:
    """Runs the command until it ends, the owner is gone, or SIGTERM comes. Returns the command's exit code.

    Args:
        grace: Seconds between SIGTERM and SIGKILL.
        command: The command.
    """
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    # The owner decides when the server ends, also after Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Orphans of the server become children of this process, so that it can find and kill them.
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent)
    except OSError as error:
        print(f"{command[0]}: cannot be started ({error.strerror})", flush=True)
        return 127
    while server.poll() is None and not signals and not _owner_is_gone(POLL_SECONDS):
        pass
    if server.poll() is None:
        _signal_group(server.pid, signal.SIGTERM)
        try:
            server.wait(grace)
        except subprocess.TimeoutExpired:
            _signal_group(server.pid, signal.SIGKILL)
    code = server.wait()
    kill_descendants(server.pid)
    # Ended by a signal: the exit code of a shell, 128 + number.
    return code if code >= 0 else 128 - code


def _owner_is_gone(seconds: float) -> bool:
    """Tells whether the pipe was closed within this many seconds."""
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and os.read(0, 1) == b""


def _die_with_parent() -> None:
    """Ends the server if the supervisor itself is killed."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def kill_descendants(group: int) -> None:
    """Kills what the server left behind until nothing is left: its group, and orphans that we have adopted."""
    _signal_group(group, signal.SIGKILL)
    while left := list_descendants():
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            # Reap killed processes; otherwise they stay listed in /proc.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(POLL_SECONDS)


def list_descendants() -> list[int]:
    """Returns all processes below this one, from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parent = int(text.rpartition(")")[2].split()[1])  # the process name, in parentheses, may contain anything
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]), sys.argv[2:]))
