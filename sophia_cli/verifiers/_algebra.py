"""Algebra in a process of its own, so that an answer that hangs or eats memory is ended with it, and never this one.

`math-verify` parses and compares; nothing of a model's text is ever evaluated as code.
"""

import multiprocessing
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

MEMORY_BYTES = 1 << 30
_local = threading.local()


def equal(gold: str, answer: str, seconds: float) -> str:
    """`correct`, `wrong`, `ungradable` (the gold cannot be parsed), `timeout` or `error`, as math-verify sees it."""
    worker: Worker | None = getattr(_local, "worker", None)
    if worker is None or not worker.process.is_alive():
        worker = _local.worker = Worker()
    return worker.ask(gold, answer, seconds)


class Worker:
    """A process that compares pairs, one at a time; killed when one takes too long, and started anew by the next."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.process: Any = context.Process(target=_serve, args=(far_end,), daemon=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for the parent to handle
        self.process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        far_end.close()
        self.pipe.recv()  # ready: what it imports is not counted against an answer

    def ask(self, gold: str, answer: str, seconds: float) -> str:
        """The worker's verdict, `timeout` when none comes in time, `error` when it dies."""
        try:
            self.pipe.send((gold, answer, seconds))
            if self.pipe.poll(seconds):
                return str(self.pipe.recv())
            outcome = "timeout"
        except (EOFError, OSError):
            outcome = "error"
        self.process.kill()
        self.process.join()
        return outcome


def _serve(pipe: Connection) -> None:
    import logging
    import resource

    logging.disable(logging.CRITICAL)  # math-verify warns of every answer that we limit the time ourselves
    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    pipe.send("ready")
    while True:
        try:
            gold, answer, seconds = pipe.recv()
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)  # ends this process even if its parent is gone
        outcome = _compare(gold, answer, parse, verify)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(outcome)


def _compare(gold: str, answer: str, parse: Any, verify: Any) -> str:
    try:
        parsed = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
        if not parsed:
            return "ungradable"
        return (
            "correct"
            if verify(parsed, parse(f"\\boxed{{{answer}}}", parsing_timeout=None), timeout_seconds=None)
            else "wrong"
        )
    except MemoryError:
        return "timeout"
    except Exception:  # noqa: BLE001  (sympy raises anything; it means that we could not tell)
        return "error"
