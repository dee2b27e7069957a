"""Work in processes of their own: one that may be killed without harm, and an ordered map over several.

Whatever a child does (hang, crash, be killed from outside), its parent learns of it, starts another, and goes on.
"""

import importlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from sophia_cli.errors import SophiaError
from sophia_cli.runtime.read_ahead import ReadAhead

T = TypeVar("T")
R = TypeVar("R")

CHUNK_SIZE = 16
"""Tasks that a worker is handed at once; each result comes back as soon as it is there."""
CHUNKS_PER_WORKER = 8
"""Chunks a worker that may be ahead of the one that everybody waits for."""
READ_AHEAD_ITEMS = 256
FLUSH_SECONDS = 0.01
MAX_FAILED_STARTS = 3
"""Workers in a row that may end before they are ready; then something is wrong with all of them."""


class WorkerTimeout(Exception):
    """A child gave no answer in its time."""


class WorkerDied(Exception):
    """A child ended before it answered."""


class WorkerNotStarted(Exception):
    """A child ended before it was ready."""


class WorkerProcess:
    """A process that runs `target(pipe)`, a function of a module, which says `ready` first. It ends when its parent does.

    A plain subprocess: `multiprocessing` would import the main module of whoever calls us again, and wait for us at exit.
    """

    def __init__(self, target: Callable[[Connection], None]):
        ours, theirs = socket.socketpair()
        arguments = f"{theirs.fileno()}, {target.__module__!r}, {target.__qualname__!r}"
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; from sophia_cli.runtime.worker_pool import main; main({arguments})"
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for the parent to handle
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self.pipe = Connection(ours.detach())
        self.ready = False

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def send(self, message: Any) -> None:
        """Raises Died."""
        try:
            if not self.ready:
                self.pipe.recv()  # what it imports is not counted against a task
                self.ready = True
            self.pipe.send(message)
        except (EOFError, OSError):
            raise WorkerDied from None

    def receive(self, seconds: float) -> Any:
        """The next message. Raises Silent when none comes in time, Died when the child has ended."""
        try:
            if self.pipe.poll(seconds):
                return self.pipe.recv()
        except (EOFError, OSError):
            raise WorkerDied from None
        raise WorkerTimeout

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def main(descriptor: int, module: str, function: str) -> None:
    """What a child runs: its function, until it returns or the other end of the pipe is gone."""
    try:
        getattr(importlib.import_module(module), function)(Connection(descriptor))
    except (EOFError, OSError):
        os._exit(0)


def run_worker(pipe: Connection) -> None:
    """What a worker of `ordered_map` runs: the function first, then lists of tasks in, lists of results out.

    Results leave together with those of the next moments, as every message costs its reader more than a cheap task.
    """
    pipe.send("ready")
    work = pipe.recv()
    results: list[Any] = []
    lock = threading.Lock()

    def flush() -> None:
        with lock:
            if results:
                pipe.send(results)
                results.clear()

    def flush_periodically() -> None:
        while True:
            time.sleep(FLUSH_SECONDS)
            try:
                flush()
            except OSError:  # the parent is gone
                os._exit(0)

    threading.Thread(target=flush_periodically, daemon=True).start()
    while True:
        for task in pipe.recv():
            result = work(task)
            with lock:
                results.append(result)
        flush()


@dataclass
class _Chunk(Generic[T, R]):
    items: list[T]
    results: "queue.SimpleQueue[list[R] | BaseException]" = field(default_factory=queue.SimpleQueue)

    def in_order(self) -> Iterator[R]:
        """The results, as they come. Raises what was put in their place."""
        left = len(self.items)
        while left:
            found = self.results.get()
            if isinstance(found, BaseException):
                raise found
            left -= len(found)
            yield from found


def ordered_map(
    work: Callable[[Any], R],
    items: Iterable[T],
    workers: int,
    task_of: Callable[[T], Any],
    timeout: float,
    on_lost: Callable[[T, str], R],
) -> Iterator[tuple[T, R]]:
    """(item, `work(task_of(item))`) in the order of the items, each as soon as it and those before it are done.

    work: a function of a module, run in `workers` processes. patience: seconds after which a task is given up and its
    worker replaced. lost(item, "timeout" | "error"): what stands for the result of a task that twice cost its worker.
    Memory holds a bounded number of items.
    """
    order: queue.Queue[_Chunk[T, R] | BaseException | None] = queue.Queue(CHUNKS_PER_WORKER * workers)
    todo: queue.SimpleQueue[_Chunk[T, R] | None] = queue.SimpleQueue()

    threading.Thread(target=_feed_chunks, args=(items, order, todo, workers), daemon=True).start()
    for _ in range(workers):
        threading.Thread(target=_run_chunks, args=(todo, work, task_of, timeout, on_lost), daemon=True).start()
    while (chunk := order.get()) is not None:
        if isinstance(chunk, BaseException):
            raise chunk
        yield from zip(chunk.items, chunk.in_order(), strict=True)


def _feed_chunks(items: Iterable[T], order: "queue.Queue[Any]", todo: "queue.SimpleQueue[Any]", workers: int) -> None:
    """Hands the items out in chunks, to the workers and to whoever waits for them in order."""
    arrivals = ReadAhead(items, READ_AHEAD_ITEMS)
    try:
        while taken := arrivals.take_batch(CHUNK_SIZE):
            chunk: _Chunk[T, Any] = _Chunk(taken)
            order.put(chunk)
            todo.put(chunk)
        order.put(None)
    except BaseException as error:  # noqa: BLE001  (raised again where the results are taken)
        order.put(error)
    for _ in range(workers):
        todo.put(None)


def _run_chunks(
    todo: "queue.SimpleQueue[_Chunk[T, R] | None]",
    work: Callable[[Any], R],
    task_of: Callable[[T], Any],
    timeout: float,
    on_lost: Callable[[T, str], R],
) -> None:
    """One worker: chunk after chunk, in a child that is started when the first is there."""
    child: WorkerProcess | None = None
    for chunk in iter(todo.get, None):
        try:
            child = _run_chunk(chunk, work, child, task_of, timeout, on_lost)
        except BaseException as error:  # noqa: BLE001  (raised again where the results are taken)
            chunk.results.put(error)
    _stop_worker(child)


def _run_chunk(
    chunk: _Chunk[T, R],
    work: Callable[[Any], R],
    child: WorkerProcess | None,
    task_of: Callable[[T], Any],
    timeout: float,
    on_lost: Callable[[T, str], R],
) -> WorkerProcess | None:
    """Puts a result for every item of a chunk; the worker that is left is used for the next.

    After a worker was lost the rest goes out one by one, so that the task that is to blame is known: it is given up when it
    costs a worker again.
    """
    done = starts = 0
    together = True
    while done < len(chunk.items):
        upto = len(chunk.items) if together else done + 1
        try:
            child = child or _start_worker(work)
            starts = 0
            child.send([task_of(item) for item in chunk.items[done:upto]])
            while done < upto:
                found = child.receive(timeout)
                chunk.results.put(found)
                done += len(found)
        except WorkerNotStarted:
            starts += 1
            if starts == MAX_FAILED_STARTS:
                raise SophiaError("a worker cannot start; --workers 1 needs none, and may show why") from None
        except (WorkerTimeout, WorkerDied) as trouble:
            if not together:
                chunk.results.put([on_lost(chunk.items[done], "timeout" if isinstance(trouble, WorkerTimeout) else "error")])
                done += 1
            together = False
            _stop_worker(child)
            child = None
    return child


def _start_worker(work: Callable[[Any], Any]) -> WorkerProcess:
    """A new worker that knows its work. Raises NotStarted."""
    child = WorkerProcess(run_worker)
    try:
        child.send(work)
        return child
    except WorkerDied:
        child.kill()
        raise WorkerNotStarted from None


def _stop_worker(child: WorkerProcess | None) -> None:
    if child is not None:
        child.kill()
