"""Requests to completions: what a step asks of a model, in a stream. Knows no backend.

A step makes jobs (a record and the request it needs); a backend takes jobs as it has room and gives each back with its
completion. Each sample has its own seed, so what comes back depends neither on the order nor on the company.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from sophia_cli import registry
from sophia_cli.aliases import Model
from sophia_cli.images import shorten
from sophia_cli.progress import notice
from sophia_cli.records import Record, failed

T = TypeVar("T")

LINGER_SECONDS = 0.03
"""How long a batch waits for its next member, once it has one."""


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 means greedy; `max_tokens` counts the end token. 0 tokens: the model's own default of the step."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 0

    def with_defaults(self, model: Model, step: str, longest: int) -> "Sampling":
        """With `max_tokens` from the model's folder, else `longest`, when the user gave none."""
        return replace(self, max_tokens=self.max_tokens or int(model.default(step, "max_tokens", longest)))

    def settings(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Place:
    """Where a model runs (`--backend`), and how many samples at once."""

    name: str = "hf"
    concurrency: int | None = None

    def backend(self, model: Model) -> "Backend":
        """The backend, which loads nothing before its first job. Raises UsageError for an unknown name."""
        if self.name not in registry.names("backends"):
            registry.find("backends", self.name)
        return Lazy(self, model)


@dataclass(frozen=True)
class Request:
    """Chat messages (parts of a content list are `{"type": "image", "image": reference}` or `{"type": "text", …}`)."""

    messages: list[dict[str, Any]]
    sampling: Sampling
    seed: int


@dataclass(frozen=True)
class Completion:
    """What a model said: the whole text, its length in tokens (the end token counted), and why it ended (stop, length)."""

    text: str
    tokens: int
    finish: str


@dataclass(frozen=True)
class Failure:
    """Why a request got no completion, in one line."""

    error: str


@dataclass(frozen=True)
class Job:
    """A record, the ids and counts that its sample will carry, and the request that makes the sample."""

    record: Record
    ids: dict[str, Any]
    request: Request = field(repr=False)


class Backend(Protocol):
    """Where a model runs. `stream` gives every job back once, in any order."""

    def stream(self, jobs: "Arrivals[Job]") -> Iterator[tuple[Job, Completion | Failure]]: ...


class Lazy:
    """A backend that is imported, and its model loaded, when the first job is there: no work, no model."""

    def __init__(self, place: Place, model: Model):
        self.place, self.model = place, model

    def stream(self, jobs: "Arrivals[Job]") -> Iterator[tuple[Job, Completion | Failure]]:
        """As the backend's own `stream`."""
        if first := jobs.take(1):
            jobs.put_back(first)
            backend: Backend = registry.find("backends", self.place.name).Backend(self.model, self.place.concurrency)
            yield from backend.stream(jobs)


class Arrivals(Generic[T]):
    """An iterator read ahead in a thread, so that a batch is made of what is there and never waits for a full house."""

    def __init__(self, items: Iterable[T], depth: int = 4096):
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._over = False
        self._back: list[T] = []
        threading.Thread(target=self._read, args=(items,), daemon=True).start()

    def _read(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                self._queue.put(("item", item))
        except BaseException as error:  # noqa: BLE001  (raised again where the items are taken)
            self._queue.put(("error", error))
        else:
            self._queue.put(("end", None))

    def put_back(self, items: list[T]) -> None:
        """Hands back what was taken too early; the next `take` begins with it."""
        self._back = items

    def take(self, most: int) -> list[T]:
        """Between one and `most` items, as many as arrive in time; none at the end. Raises what the iterator raised."""
        taken, self._back = self._back, []
        while len(taken) < most and not self._over:
            try:
                kind, value = self._queue.get(timeout=LINGER_SECONDS if taken else None)
            except queue.Empty:
                break
            if kind == "item":
                taken.append(value)
            elif kind == "end":
                self._over = True
            elif taken:  # first let these through, then raise
                self._queue.put((kind, value))
                break
            else:
                self._over = True
                raise value
        return taken


def sample(jobs: Iterator[Job | Record], backend: Backend, finish: Callable[[Job, Completion], Record]) -> Iterator[Record]:
    """Turns jobs into records: `finish` makes one of each completion, a failure becomes a record with `error`.

    Records among the jobs (failures of an earlier step) pass through at once: they share a queue with what the backend
    makes, which works in a thread of its own. What either raises is raised here, after all that came before it.
    """
    done: queue.Queue[Record | BaseException | None] = queue.Queue(1024)

    def only_jobs() -> Iterator[Job]:
        for job in jobs:
            if isinstance(job, Job):
                yield job
            else:
                done.put(job)

    def work() -> None:
        try:
            for job, outcome in backend.stream(Arrivals(only_jobs())):
                if isinstance(outcome, Failure):
                    done.put(failed(job.record, outcome.error, job.ids))
                else:
                    done.put(finish(job, outcome))
            done.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again below)
            done.put(error)

    threading.Thread(target=work, daemon=True).start()
    while (record := done.get()) is not None:
        if isinstance(record, BaseException):
            raise record
        yield record


def show_plan(step: str, jobs: Iterator[Job | Record], model: Model, sampling: Sampling, counts: dict[str, int]) -> int:
    """`--dry-run`: the first full request and the plan, on stderr. Returns the exit code."""
    job = next((job for job in jobs if isinstance(job, Job)), None)
    if job is None:
        notice(f"{step}: no request would be made: there is no record to work on")
        return 0
    for message in job.request.messages:
        content = message["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        shown = [part["text"] if part["type"] == "text" else f"[image {shorten(part['image'])}]" for part in parts]
        notice(f"--- {message['role']}\n" + "\n".join(shown))
    plan = ", ".join(f"{name} = {count}" for name, count in counts.items())
    notice(
        f"--- plan\n{step}: {model.name} ({model.path}), {plan}, {sampling}, first seed {job.request.seed}; nothing sampled"
    )
    return 0
