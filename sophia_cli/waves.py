"""Lossless early stop: no more trajectories for a caption whose reward can no longer pass α (method.md).

A caption is decided once its failures exceed N − ⌊αN⌋ − 1. Its trajectories are sampled in waves: each wave is as large as
the number of failures that would still decide it, so not one is sampled that the decision did not need. Waves are fixed by
N, α and the verdicts, and every trajectory has a seed of its own: what is written does not depend on timing. While one
caption waits for its verdicts, others are worked on. A caption's records go out together, when it is decided or complete,
since only then is it known whether they carry `stop_alpha`.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sophia_cli.arrivals import Arrivals
from sophia_cli.errors import RecordError, UsageError
from sophia_cli.interrupts import told_to
from sophia_cli.records import Record, failed, has_failed
from sophia_cli.sampling import Backend, Completion, Failure, Job

OPEN = 4096
"""Captions under way at once; memory holds their records."""
READ_AHEAD = 256
"""Jobs handed over before the backend has room for them; a small number lets later waves go before new captions."""

Graded = Callable[[Record], float | None]


def fewest_right(alpha: float, count: int) -> int:
    """The smallest number of right trajectories of `count` with R(c) > α (Eq. 6), found by the comparison of `propagate`."""
    return next((right for right in range(count + 1) if right / count > alpha), count + 1)


def allowed_failures(alpha: float, count: int) -> int:
    """How many of N trajectories may be wrong: N − ⌊αN⌋ − 1. Raises UsageError when no caption can pass."""
    allowed = count - fewest_right(alpha, count)
    if allowed < 0:
        raise UsageError(f"--alpha {alpha}: no caption passes it, as more than all would have to be right; give less than 1")
    return allowed


@dataclass
class Plan:
    """A caption's N jobs in their order, and the records of those that an earlier run has made (by number)."""

    jobs: list[Job]
    known: dict[int, Record] = field(default_factory=dict)


@dataclass
class Caption:
    """A caption under way: its plan, the rewards and records so far, and how many of its wave are still to come."""

    plan: Plan
    rewards: dict[int, float | None] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)
    asked: int = 0
    awaited: int = 0

    @property
    def stopped(self) -> bool:
        """Whether no more of its trajectories are to be sampled, though some are left."""
        return self.asked < len(self.plan.jobs)

    def next_wave(self, allowed: int) -> range:
        """The numbers of the next wave; empty when the caption is decided or complete."""
        failures = sum(reward == 0.0 for reward in self.rewards.values())
        size = max(min(allowed + 1 - failures, len(self.plan.jobs) - self.asked), 0)
        wave = range(self.asked, self.asked + size)
        self.asked += size
        return wave


@dataclass
class Tally:
    """For the manifest: captions, those stopped, and trajectories planned and sampled."""

    captions: int = 0
    stopped: int = 0
    planned: int = 0
    sampled: int = 0
    tokens: int = 0
    made: int = 0

    def add(self, planned: int, sampled: int, lengths: Sequence[int]) -> None:
        """Takes a caption that is decided or complete, and the tokens of its trajectories."""
        self.captions += 1
        self.stopped += sampled < planned
        self.planned += planned
        self.sampled += sampled
        self.tokens, self.made = self.tokens + sum(lengths), self.made + len(lengths)

    def figures(self) -> dict[str, float | int | None]:
        """The counts, the share of the trajectories that was spared, and about how many tokens that is, at their mean."""
        spared = self.planned - self.sampled
        return {
            "captions": self.captions,
            "captions_stopped": self.stopped,
            "trajectories_planned": self.planned,
            "trajectories_sampled": self.sampled,
            "share_spared": round(spared / self.planned, 4) if self.planned else None,
            "tokens_spared_about": round(spared * self.tokens / self.made) if self.made else None,
        }


class Waves:
    """Samples captions wave by wave. `stream` runs in one thread; the input and the backend have one each."""

    def __init__(self, alpha: float, count: int, grade: Graded, finish: Callable[[Job, Completion], Record], tally: "Tally"):
        self.alpha, self.allowed = alpha, allowed_failures(alpha, count)
        self.grade, self.finish = grade, finish
        self.tally = tally
        self.events: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self.todo: queue.PriorityQueue[tuple[int, int, tuple[Caption, int] | None]] = queue.PriorityQueue()
        self.order = itertools.count()
        self.room = threading.Semaphore(OPEN)
        self.open: dict[int, Caption] = {}

    def stream(self, plans: Iterable[Plan | Record], backend: Backend) -> Iterator[Record]:
        """The records of all captions, each caption's together. Records among the plans pass through.

        Raises what the plans or the backend raise, after all that came before it. Interrupted, what is done goes out,
        without `stop_alpha`: a run that continues takes it back until its caption is settled.
        """
        try:
            with told_to(lambda: self.events.put(("interrupt", None))):
                yield from self._stream(plans, backend)
        except (Exception, KeyboardInterrupt):
            yield from (record for caption in self.open.values() for _, record in sorted(caption.records.items()))
            raise

    def _stream(self, plans: Iterable[Plan | Record], backend: Backend) -> Iterator[Record]:
        threading.Thread(target=self._read, args=(plans,), daemon=True).start()
        threading.Thread(target=self._work, args=(backend,), daemon=True).start()
        read = False
        fault: BaseException | None = None
        while True:
            kind, value = self.events.get()
            if kind == "record" and isinstance(value, Record):
                self.room.release()
                yield value
            elif kind == "plan" and isinstance(value, Plan):
                caption = Caption(value)
                self.open[id(caption)] = caption
                yield from self._go_on(caption, first=True)
            elif kind == "outcome" and isinstance(value, tuple):
                yield from self._learn(*value)
            elif kind == "fault" and isinstance(value, BaseException):
                read, fault = True, fault or value
            elif kind == "interrupt":
                raise KeyboardInterrupt
            elif kind == "read":
                read = True
            else:
                break
            if read and not self.open:
                read = False
                self.todo.put((2, next(self.order), None))
        if fault is not None:
            raise fault

    def _read(self, plans: Iterable[Plan | Record]) -> None:
        try:
            for plan in plans:
                self.room.acquire()
                self.events.put(("plan" if isinstance(plan, Plan) else "record", plan))
            self.events.put(("read", None))
        except BaseException as error:  # noqa: BLE001  (raised again by `stream`)
            self.events.put(("fault", error))

    def _work(self, backend: Backend) -> None:
        asked: dict[int, tuple[Caption, int]] = {}

        def jobs() -> Iterator[Job]:
            while (entry := self.todo.get()[2]) is not None:
                job = entry[0].plan.jobs[entry[1]]
                asked[id(job)] = entry
                yield job

        try:
            for job, outcome in backend.stream(Arrivals(jobs(), READ_AHEAD)):
                self.events.put(("outcome", (*asked.pop(id(job)), outcome)))
        except BaseException as error:  # noqa: BLE001  (raised again by `stream`)
            self.events.put(("fault", error))
        self.events.put(("worked", None))

    def _learn(self, caption: Caption, number: int, outcome: Completion | Failure) -> Iterator[Record]:
        """Takes a trajectory; the last of a wave brings the next wave, or the caption's records."""
        job = caption.plan.jobs[number]
        if isinstance(outcome, Failure):
            record, reward = failed(job.record, outcome.error, job.ids), None
        else:
            record = self.finish(job, outcome)
            reward = self._reward(record)
        caption.records[number], caption.rewards[number] = record, reward
        caption.awaited -= 1
        if not caption.awaited:
            yield from self._go_on(caption)

    def _reward(self, record: Record) -> float | None:
        try:
            return self.grade(record)
        except RecordError:
            return None

    def _go_on(self, caption: Caption, first: bool = False) -> Iterator[Record]:
        """Asks for the next wave, of which an earlier run may have made some; or lets the caption's records go."""
        while wave := caption.next_wave(self.allowed):
            for number in wave:
                if number in caption.plan.known:
                    caption.records[number] = caption.plan.known[number]
                    caption.rewards[number] = self._reward(caption.records[number])
                else:
                    caption.awaited += 1
                    self.todo.put((int(first), next(self.order), (caption, number)))
            if caption.awaited:
                return
        lengths = [record["trajectory_tokens"] for record in caption.records.values() if not has_failed(record)]
        self.tally.add(len(caption.plan.jobs), caption.asked, lengths)
        del self.open[id(caption)]
        self.room.release()
        for _, record in sorted(caption.records.items()):
            yield Record({**record, "stop_alpha": self.alpha}, record.where) if caption.stopped else record
