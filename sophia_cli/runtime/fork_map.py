"""A map over forked copies of this process. They start at once, because they import nothing.

Use it only for work that reads, cannot hang, and takes no lock that another thread may hold. Work that may hang or crash
belongs in `worker_pool.py`.
"""

import os
import pickle
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

INDEX_FORMAT = struct.Struct("=I")
MAX_ITEMS = 1 << 14
"""Most items of one call. Their indexes fill a pipe before the workers start, and a pipe holds 64 KB."""


def forked_map(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R | None]:
    """Yields `work(item)` for each item, in order; None where a worker ended before it finished.

    Each worker takes the next free index from a shared pipe.

    Raises:
        ValueError: more than MAX_ITEMS items.
    """
    if len(items) > MAX_ITEMS:
        raise ValueError(f"{len(items)} items; at most {MAX_ITEMS}")
    numbers, giver = os.pipe()
    os.write(giver, b"".join(map(INDEX_FORMAT.pack, range(len(items)))))
    os.close(giver)
    copies = dict(_fork_worker(work, items, numbers) for _ in range(workers))
    os.close(numbers)
    return _results_in_order(copies, len(items))


def _results_in_order(copies: dict[Connection, int], count: int) -> Iterator[Any]:
    done: dict[int, Any] = {}
    try:
        for number in range(count):
            while number not in done and copies:
                _receive_results(copies, done)
            yield done.pop(number, None)
    finally:
        for pipe in list(copies):
            _stop_worker(copies, pipe)


def _receive_results(copies: dict[Connection, int], done: dict[int, Any]) -> None:
    """Receives results from the workers that have some; stops a worker that has ended."""
    for pipe in wait(list(copies)):
        assert isinstance(pipe, Connection)
        try:
            number, result = pipe.recv()
            done[number] = result
        except (EOFError, OSError, pickle.UnpicklingError):
            _stop_worker(copies, pipe)


def _stop_worker(copies: dict[Connection, int], pipe: Connection) -> None:
    """Closes the pipe of a worker and kills the worker if it still runs."""
    pipe.close()
    os.kill(copies[pipe], signal.SIGKILL)
    os.waitpid(copies.pop(pipe), 0)


def _fork_worker(work: Callable[[T], Any], items: Sequence[T], numbers: int) -> tuple[Connection, int]:
    """Forks a worker. Returns the pipe on which it sends (index, result), and its process id."""
    ours, theirs = Pipe(duplex=False)
    if (process := os.fork()) == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
            ours.close()
            while number := os.read(numbers, INDEX_FORMAT.size):
                index = INDEX_FORMAT.unpack(number)[0]
                theirs.send((index, work(items[index])))
        finally:
            os._exit(0)
    theirs.close()
    return ours, process
