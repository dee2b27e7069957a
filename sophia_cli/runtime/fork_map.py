"""A map over several processes that are copies of this one: they start at once, as they have nothing to import.

For work that only reads and cannot hang, and that touches nothing that another thread of this process may hold. What may
hang or crash is done in `processes.py`.
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
"""Items at most: their numbers lie in a pipe from the start, and a pipe holds 64 KB."""


def forked_map(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R | None]:
    """`work(item)` of each item, in order, by so many copies of this process; None where a copy ended before it was done.

    Each copy takes the next item that nobody has taken.
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
    """Takes in what the copies have to tell; one that has ended is heard no more."""
    for pipe in wait(list(copies)):
        assert isinstance(pipe, Connection)
        try:
            number, result = pipe.recv()
            done[number] = result
        except (EOFError, OSError, pickle.UnpicklingError):
            _stop_worker(copies, pipe)


def _stop_worker(copies: dict[Connection, int], pipe: Connection) -> None:
    """Hears a copy no more, and ends it if it has not ended."""
    pipe.close()
    os.kill(copies[pipe], signal.SIGKILL)
    os.waitpid(copies.pop(pipe), 0)


def _fork_worker(work: Callable[[T], Any], items: Sequence[T], numbers: int) -> tuple[Connection, int]:
    """Starts a copy: the pipe on which it tells (number, result), and its process."""
    ours, theirs = Pipe(duplex=False)
    if (process := os.fork()) == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is the end of its pipes
            ours.close()
            while number := os.read(numbers, INDEX_FORMAT.size):
                index = INDEX_FORMAT.unpack(number)[0]
                theirs.send((index, work(items[index])))
        finally:
            os._exit(0)
    theirs.close()
    return ours, process
