"""Worker processes that may be killed without harm: a single one, and an ordered map over several.

A worker may hang, crash or be killed from outside. The parent notices, starts another one, and goes on.
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
"""Tasks that a worker receives at a time. Each result is returned as soon as it is finished."""
CHUNKS_PER_WORKER = 8
"""Chunks per worker that may be finished ahead of the one whose results are due next."""
# Enough to keep workers busy while the source blocks, and little memory.
READ_AHEAD_ITEMS = 256
FLUSH_SECONDS = 0.01
MAX_FAILED_STARTS = 3
"""Workers in a row that may end before they are ready. After that the pool gives up."""


class WorkerTimeout(Exception):
    """A worker did not answer in time."""


class WorkerDied(Exception):
    """A worker ended before it answered."""


class WorkerNotStarted(Exception):
    """A worker ended before it was ready."""


class WorkerProcess:
    """A process that runs `target(pipe)`, a module-level function that first sends `ready`. It ends when its parent ends.

    It is a plain subprocess: `multiprocessing` would import the caller's main module again and wait for the worker at exit.
    """

    def __init__(self, target: Callable[[Connection], None]):
        ours, theirs = socket.socketpair()
        arguments = f"{theirs.fileno()}, {target.__module__!r}, {target.__qualname__!r}"
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; from sophia_cli.runtime.worker_pool import main; main({arguments})"
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child inherits it: the parent handles Ctrl-C
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
        """Sends a message.

        Raises:
            WorkerDied: the worker has ended.
        """
        try:
            if not self.ready:
                self.pipe.recv()  # wait for the imports, so that they do not count as task time
                self.ready = True
            self.pipe.send(message)
        except (EOFError, OSError):
            raise WorkerDied from None

    def receive(self, seconds: float) -> Any:
        """Returns the next message.

        Raises:
            WorkerTimeout: none came within `seconds`.
            WorkerDied: the worker has ended.
        """
        try:
            if self.pipe.poll(seconds):
                return self.pipe.recv()
        except (EOFError, OSError):
            raise WorkerDied from None
        raise WorkerTimeout

    def kill(self) -> None:
        self.process.kill()
        # Reaps the process, so that no zombie stays until the pool ends.
        self.process.wait()
        self.pipe.close()


def main(descriptor: int, module: str, function: str) -> None:
    """Runs the worker's function until it returns or the parent closes the pipe."""
    try:
        getattr(importlib.import_module(module), function)(Connection(descriptor))
    except (EOFError, OSError):
        os._exit(0)


def run_worker(pipe: Connection) -> None:
    """The loop of an `ordered_map` worker. It receives the function, then lists of tasks, and sends lists of results.

    Results are sent together every FLUSH_SECONDS, because a message costs the parent more than a cheap task.
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
        """Yields the results as they come. Raises an error that was put in their place."""
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
    """Yields (item, `work(task_of(item))`) in the order of the items, each as soon as it and those before it are done.

    Args:
        work: A module-level function, run in the workers.
        items: The items; a bounded number is held in memory.
        workers: Number of processes.
        task_of: Makes the task that is sent to a worker from an item.
        timeout: Seconds after which a task is given up and its worker replaced.
        on_lost: Called as `on_lost(item, "timeout" | "error")` for a task that cost two workers; returns its result.

    Raises:
        SophiaError: workers cannot start.
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
    """Cuts the items into chunks and puts each into the work queue and the output order."""
    buffered = ReadAhead(items, READ_AHEAD_ITEMS)
    try:
        while taken := buffered.take_batch(CHUNK_SIZE):
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
    """One worker thread: takes chunk after chunk and runs it in a process that starts with the first chunk."""
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
    """Puts a result for every item of a chunk. Returns the worker for the next chunk, if it lives.

    After a worker is lost, the rest of the chunk is sent task by task, to find the task that is to blame. That task is
    given up when it costs a second worker.
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
                raise SophiaError(
                    "a worker process cannot start; --workers 1 runs without one and may show the reason"
                ) from None
        except (WorkerTimeout, WorkerDied) as trouble:
            if not together:
                chunk.results.put([on_lost(chunk.items[done], "timeout" if isinstance(trouble, WorkerTimeout) else "error")])
                done += 1
            together = False
            _stop_worker(child)
            child = None
    return child


def _start_worker(work: Callable[[Any], Any]) -> WorkerProcess:
    """Starts a worker and sends it its function.

    Raises:
        WorkerNotStarted: it ended first.
    """
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
