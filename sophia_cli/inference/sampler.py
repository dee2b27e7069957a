"""Turns jobs into records: runs them through a backend and passes on each result.

A backend takes jobs as it has room. Each sample has its own seed, so the records depend neither on the order nor on
the batch.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from sophia_cli.inference.types import Backend, Completion, EmptyResponse, Failure, Job, Request, SamplingParams
from sophia_cli.io.images import shorten_reference
from sophia_cli.models.aliases import ModelRef
from sophia_cli.records import Record, error_record
from sophia_cli.runtime.progress import log_line
from sophia_cli.runtime.read_ahead import Channel, ReadAhead
from sophia_cli.runtime.signals import on_interrupt

T = TypeVar("T")
R = TypeVar("R")


def sample_records(
    jobs: Iterator[Job | Record], backend: Backend, finish: Callable[[Job, Completion], Record], keeps_empty: bool = False
) -> Iterator[Record]:
    """Yields a record for each job: `finish` makes it from a completion, a failure becomes a record with `error`.

    Records among the jobs are failures of an earlier step and pass through at once.

    Args:
        jobs: The jobs.
        backend: Runs in a thread of its own.
        finish: Makes a record of a job and its completion.
        keeps_empty: An empty response is a completion too.

    Raises:
        BaseException: what `jobs` or the backend raise, after all records before it.
        KeyboardInterrupt: the user interrupts.
    """
    done: Channel[Record | BaseException | None] = Channel(1024)

    def only_jobs() -> Iterator[Job]:
        for job in jobs:
            if isinstance(job, Job):
                yield job
            else:
                done.put(job)

    def work() -> None:
        try:
            for job, outcome in backend.stream(ReadAhead(only_jobs())):
                done.put(_record_of(job, outcome, finish, keeps_empty))
            done.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again below)
            done.put(error)

    # A daemon: a backend that hangs must not keep the process alive after Ctrl-C.
    threading.Thread(target=work, daemon=True).start()
    with on_interrupt(done.interrupt):
        while (record := done.get()) is not None:
            if isinstance(record, BaseException):
                raise record
            yield record


def _record_of(
    job: Job, outcome: Completion | Failure, finish: Callable[[Job, Completion], Record], keeps_empty: bool
) -> Record:
    if keeps_empty and isinstance(outcome, EmptyResponse):
        outcome = Completion("", outcome.tokens, "stop")
    return error_record(job.record, outcome.error, job.ids) if isinstance(outcome, Failure) else finish(job, outcome)


def complete_in_order(
    items: Iterable[T],
    job_of: Callable[[T], Job | None],
    backend: Backend,
    finish: Callable[[T, Completion | Failure | None], R],
    window: int = 1024,
) -> Iterator[R]:
    """Yields `finish(item, outcome)` in the order of the items; the outcome is None where `job_of` returns no job.

    Items with equal requests share one completion: the last `MAX_CACHED_ANSWERS` are kept. At most `window` items are
    held.
    """
    done: Channel[tuple[int, R] | BaseException | None] = Channel(2 * window)
    room = threading.Semaphore(window)
    memory = _AnswerCache[tuple[int, T]]()

    def jobs() -> Iterator[Job]:
        for position, item in enumerate(items):
            room.acquire()
            job = job_of(item)
            known = memory.get_or_wait(job.request, (position, item)) if job else None
            if job is None or known:
                done.put((position, finish(item, known)))
            elif memory.is_first(job.request):
                yield job

    def work() -> None:
        try:
            for job, outcome in backend.stream(ReadAhead(jobs(), window)):
                for position, item in memory.store_answer(job.request, outcome):
                    done.put((position, finish(item, outcome)))
            done.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again below)
            done.put(error)

    threading.Thread(target=work, daemon=True).start()
    for result in _in_order(done):
        room.release()
        yield result


def _in_order(done: "Channel[tuple[int, R] | BaseException | None]") -> Iterator[R]:
    """Yields the results by their index, from 0. Raises an error that comes instead of a result."""
    waiting: dict[int, R] = {}
    following = 0
    while (result := done.get()) is not None:
        if isinstance(result, BaseException):
            raise result
        waiting[result[0]] = result[1]
        while following in waiting:
            yield waiting.pop(following)
            following += 1


# Judges answer in a few sentences (about 1 KB), so this many answers take about 100 MB.
MAX_CACHED_ANSWERS = 100_000


class _AnswerCache(Generic[T]):
    """Answers by request. The first item with a request gets it sent; items with the same request wait for its answer."""

    def __init__(self) -> None:
        self.answers: dict[bytes, Completion] = {}
        self.asking: dict[bytes, list[T]] = {}
        self.lock = threading.Lock()

    @staticmethod
    def _request_key(request: Request) -> bytes:
        # A hash, because requests with images have megabytes; surrogatepass, because texts may hold lone surrogates.
        return hashlib.sha256(repr(request).encode("utf-8", "surrogatepass")).digest()

    def get_or_wait(self, request: Request, who: T) -> Completion | None:
        """Returns the answer if there is one; else `who` waits for it."""
        key = self._request_key(request)
        with self.lock:
            if key not in self.answers:
                self.asking.setdefault(key, []).append(who)
            return self.answers.get(key)

    def is_first(self, request: Request) -> bool:
        """Tells whether no other item waits for this answer, so that the request must be sent."""
        with self.lock:
            return len(self.asking.get(self._request_key(request), [])) == 1

    def store_answer(self, request: Request, outcome: Completion | Failure) -> list[T]:
        """Stores an answer (not a failure). Returns the items that wait for it."""
        key = self._request_key(request)
        with self.lock:
            if isinstance(outcome, Completion):
                self.answers[key] = outcome
                if len(self.answers) > MAX_CACHED_ANSWERS:
                    # The oldest one: a dict keeps the order of insertion.
                    del self.answers[next(iter(self.answers))]
            return self.asking.pop(key)


def show_plan(
    step: str, jobs: Iterator[Job | Record], model: ModelRef, sampling: SamplingParams, counts: dict[str, int]
) -> int:
    """Prints the first full request and the plan to stderr (`--dry-run`). Returns the exit code."""
    job = next((job for job in jobs if isinstance(job, Job)), None)
    if job is None:
        log_line(f"{step}: there is no record to process; no request would be sent")
        return 0
    for message in job.request.messages:
        content = message["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        shown = [part["text"] if part["type"] == "text" else f"[image {shorten_reference(part['image'])}]" for part in parts]
        log_line(f"--- {message['role']}\n" + "\n".join(shown))
    plan = ", ".join(f"{name} = {count}" for name, count in counts.items())
    described = ", ".join(f"{name} = {value}" for name, value in sampling.manifest_settings().items())
    log_line(
        f"--- plan\n{step}: {model.name} ({model.path}), {plan}, {described}, first seed {job.request.seed}; nothing sampled"
    )
    return 0
