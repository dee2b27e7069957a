"""Lossless early stop: samples no more trajectories for a caption whose reward can no longer pass α (method.md).

A caption fails once more than N − ⌊αN⌋ − 1 of its trajectories are wrong. They are sampled in rounds. A round is as
large as the number of failures that are still allowed plus one, so that no trajectory is sampled that the decision did
not need. The rounds depend on N, α and the verdicts only, and every trajectory has its own seed, so the records do not
depend on timing. Each record is written when it is sampled and carries `stop_alpha`; a caption was given up when fewer
than N of its trajectories exist.

The bound on lengths (`--bound-length`) serves Keep-1. Once a caption of a question passes with a correct trajectory of
L tokens, another caption matters only if it has a correct trajectory of at most L tokens. Its trajectories are sampled
up to L first. If none of them is correct, the caption is given up, and those that were cut are written with
`stop_length`; else they are sampled again to their ends with the same seeds. Until then they wait in memory. The
captions of a question are processed one after the other.
"""

import itertools
import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sophia_cli.errors import RecordError, UsageError
from sophia_cli.inference.early_stop_resume import EarlierCaption, RewardFunction
from sophia_cli.inference.types import Backend, Completion, Failure, Job
from sophia_cli.records import Record, error_record
from sophia_cli.rewards.trajectory import passes_alpha
from sophia_cli.runtime.read_ahead import ReadAhead
from sophia_cli.runtime.signals import on_interrupt

MAX_OPEN_CAPTIONS = 4096
"""Captions in progress at a time. Memory holds their records."""
READ_AHEAD_JOBS = 256
"""Jobs handed over before the backend has room. A small number lets later rounds go before new captions."""


def min_correct(alpha: float, count: int) -> int:
    """Returns the smallest number of correct trajectories with R(c) > α (Eq. 6), by the comparison that `propagate` uses."""
    return next((right for right in range(count + 1) if passes_alpha(right, count, alpha)), count + 1)


def max_failures(alpha: float, count: int) -> int:
    """Returns how many of N trajectories may be wrong: N − ⌊αN⌋ − 1.

    Raises:
        UsageError: no caption can pass α.
    """
    allowed = count - min_correct(alpha, count)
    if allowed < 0:
        raise UsageError(f"--alpha {alpha}: no caption can pass it; give a value below 1")
    return allowed


@dataclass
class CaptionPlan:
    """The N jobs of a caption, in order, and what an earlier run has sampled of them."""

    jobs: list[Job]
    earlier: EarlierCaption = field(default_factory=EarlierCaption)


@dataclass
class QuestionGroup:
    """Captions that are processed one after the other, and the length that a trajectory must not exceed to be selected.

    With a bound on lengths, these are all captions of a question; without one, each caption is a group.
    """

    plans: list[CaptionPlan]
    length_bound: float = math.inf


@dataclass
class OpenCaption:
    """A caption in progress.

    Attributes:
        queue: Numbers of the trajectories that are not requested yet.
        rewards, lengths: Results so far, by trajectory number.
        cut: Trajectories that were cut at the length bound, so that this pass does not know their end; None for one that an
            earlier run has written, cut or whole.
        has_failures: A trajectory failed; the next run samples it again.
        awaited: Trajectories of the current round that are still missing.
        is_uncut_pass: The second pass, in which cut trajectories are sampled to their ends.
        given_up: No more trajectories will be sampled.
    """

    plan: CaptionPlan
    group: QuestionGroup
    queue: list[int]
    rewards: dict[int, float | None] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    cut: dict[int, Record | None] = field(default_factory=dict)
    has_failures: bool = False
    awaited: int = 0
    is_uncut_pass: bool = False
    given_up: bool = False

    @property
    def length_bound(self) -> float:
        """The longest trajectory of this round; longer ones are cut."""
        return math.inf if self.is_uncut_pass else self.group.length_bound

    @property
    def failures(self) -> int:
        return sum(reward == 0.0 for reward in self.rewards.values())

    @property
    def shortest_correct(self) -> float:
        """The length of the shortest correct trajectory so far."""
        return min((self.lengths[number] for number, reward in self.rewards.items() if reward == 1.0), default=math.inf)

    def passes(self, alpha: float) -> bool:
        """Tells whether its reward passes α, as far as it is sampled."""
        return bool(passes_alpha(sum(reward == 1.0 for reward in self.rewards.values()), len(self.plan.jobs), alpha))

    def make_job(self, number: int) -> Job:
        """Returns the job of a trajectory, limited to the length bound."""
        job = self.plan.jobs[number]
        request, most = job.request, job.request.sampling.max_tokens
        if most <= self.length_bound:
            return job
        return replace(job, request=replace(request, sampling=replace(request.sampling, max_tokens=int(self.length_bound))))

    def next_round(self, allowed: int) -> list[int]:
        """Returns the trajectory numbers of the next round; none when the caption is given up or complete."""
        if not self.queue and self.cut and not self.is_uncut_pass:
            self.is_uncut_pass = True
            if self.shortest_correct < math.inf:
                self.queue = sorted(self.cut.keys() - self.plan.earlier.cut)
            else:
                self.given_up = True  # no uncut trajectory is correct, so none can be short enough
        size = allowed + 1 - self.failures
        self.given_up = self.given_up or (size <= 0 and bool(self.queue or self.cut))
        batch, self.queue = ([], []) if self.given_up else (self.queue[:size], self.queue[size:])
        return batch


@dataclass
class EarlyStopStats:
    """Counts for the manifest: captions, those given up; trajectories planned, sampled and cut; tokens."""

    captions: int = 0
    given_up: int = 0
    planned: int = 0
    sampled: int = 0
    cut: int = 0
    whole_tokens: int = 0
    tokens: int = 0

    def add_caption(self, planned: int, lengths: Sequence[int], cut: int, given_up: bool) -> None:
        """Adds a finished caption: the lengths of its uncut trajectories and the number of cut ones."""
        self.captions += 1
        self.given_up += given_up
        self.planned += planned
        self.sampled += len(lengths) + cut
        self.cut += cut
        self.whole_tokens += sum(lengths)

    def to_manifest(self) -> dict[str, float | int | None]:
        """Returns the counts, and roughly how many tokens were saved, if the missing trajectories had the mean length."""
        whole = self.sampled - self.cut
        return {
            "captions": self.captions,
            "captions_given_up": self.given_up,
            "trajectories_planned": self.planned,
            "trajectories_sampled": self.sampled,
            "trajectories_cut": self.cut,
            "tokens_sampled": self.tokens,
            "tokens_spared_about": round(self.planned * self.whole_tokens / whole) - self.tokens if whole else None,
        }


class EarlyStopSampler:
    """Samples captions round by round. `stream` runs in one thread; the input and the backend have one thread each."""

    def __init__(
        self,
        alpha: float,
        count: int,
        bound_length: bool,
        grade: RewardFunction,
        finish: Callable[[Job, Completion], Record],
        stats: "EarlyStopStats",
    ):
        self.alpha, self.max_failures, self.bound_length = alpha, max_failures(alpha, count), bound_length
        self.grade, self.finish, self.stats = grade, finish, stats
        self.events: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
        self.todo: queue.PriorityQueue[tuple[int, int, tuple[OpenCaption, int] | None]] = queue.PriorityQueue()
        self.order = itertools.count()
        self.room = threading.Semaphore(MAX_OPEN_CAPTIONS)
        self.open_captions: dict[int, OpenCaption] = {}

    def stream(self, items: Iterable[QuestionGroup | Record], backend: Backend) -> Iterator[Record]:
        """Yields each record when it is sampled. Records among the groups pass through.

        Raises:
            BaseException: what the groups or the backend raise, after all records before it.
        """
        with on_interrupt(lambda: self.events.put(("interrupt", None))):
            yield from self._run_events(items, backend)

    def _run_events(self, items: Iterable[QuestionGroup | Record], backend: Backend) -> Iterator[Record]:
        threading.Thread(target=self._read_groups, args=(items,), daemon=True).start()
        threading.Thread(target=self._run_backend, args=(backend,), daemon=True).start()
        read = False
        fault: BaseException | None = None
        while True:
            kind, value = self.events.get()
            if kind == "record" and isinstance(value, Record):
                self.room.release()
                yield value
            elif kind == "item" and isinstance(value, QuestionGroup):
                yield from self._start_group(value)
            elif kind == "outcome" and isinstance(value, tuple):
                yield from self._add_outcome(*value)
            elif kind == "fault" and isinstance(value, BaseException):
                read, fault = True, fault or value
            elif kind == "interrupt":
                raise KeyboardInterrupt
            elif kind == "read":
                read = True
            else:
                break
            if read and not self.open_captions:
                read = False
                # Priority 2: after every request that still waits.
                self.todo.put((2, next(self.order), None))
        if fault is not None:
            raise fault

    def _read_groups(self, items: Iterable[QuestionGroup | Record]) -> None:
        try:
            for item in items:
                for _ in item.plans if isinstance(item, QuestionGroup) else (item,):
                    self.room.acquire()
                self.events.put(("item" if isinstance(item, QuestionGroup) else "record", item))
            self.events.put(("read", None))
        except BaseException as error:  # noqa: BLE001  (raised again by `stream`)
            self.events.put(("fault", error))

    def _run_backend(self, backend: Backend) -> None:
        asked: dict[int, tuple[OpenCaption, int]] = {}

        def jobs() -> Iterator[Job]:
            while (entry := self.todo.get()[2]) is not None:
                job = entry[0].make_job(entry[1])
                asked[id(job)] = entry
                yield job

        try:
            for job, outcome in backend.stream(ReadAhead(jobs(), READ_AHEAD_JOBS)):
                self.events.put(("outcome", (*asked.pop(id(job)), outcome)))
        except BaseException as error:  # noqa: BLE001  (raised again by `stream`)
            self.events.put(("fault", error))
        self.events.put(("worked", None))

    def _add_outcome(self, caption: OpenCaption, number: int, outcome: Completion | Failure) -> Iterator[Record]:
        """Adds a trajectory and yields it, unless it was cut. The last one of a round starts the next round."""
        job = caption.plan.jobs[number]
        caption.cut.pop(number, None)
        if isinstance(outcome, Failure):
            caption.rewards[number], caption.has_failures = None, True
            yield self._marked(error_record(job.record, outcome.error, job.ids))
        else:
            self.stats.tokens += outcome.tokens
            record = self.finish(job, outcome)
            caption.lengths[number] = outcome.tokens
            if outcome.finish_reason == "length" and outcome.tokens >= caption.length_bound:
                caption.cut[number] = record
            else:
                caption.rewards[number] = self._reward(record)
                yield self._marked(record)
        caption.awaited -= 1
        if not caption.awaited:
            yield from self._continue_caption(caption)

    def _reward(self, record: Record) -> float | None:
        try:
            return self.grade(record)
        except RecordError:
            return None

    def _marked(self, record: Record, **marks: float) -> Record:
        return Record({**record, "stop_alpha": self.alpha, **marks}, record.where)

    def _start_group(self, item: QuestionGroup) -> Iterator[Record]:
        """Starts the next caption of a group."""
        if item.plans:
            plan = item.plans.pop(0)
            caption = OpenCaption(plan, item, list(range(len(plan.jobs))))
            self.open_captions[id(caption)] = caption
            yield from self._continue_caption(caption, first=True)

    def _continue_caption(self, caption: OpenCaption, first: bool = False) -> Iterator[Record]:
        """Requests the next round, except what an earlier run has sampled; or ends the caption."""
        while batch := caption.next_round(self.max_failures):
            for number in batch:
                if not self._take_earlier(caption, number):
                    caption.awaited += 1
                    # Later rounds before new captions, so that open captions finish and free their room.
                    self.todo.put((int(first), next(self.order), (caption, number)))
            if caption.awaited:
                return
        del self.open_captions[id(caption)]
        self.room.release()
        yield from self._finish_caption(caption)
        yield from self._start_group(caption.group)

    def _take_earlier(self, caption: OpenCaption, number: int) -> bool:
        """Takes a trajectory of an earlier run. Tells whether there is one.

        A whole one beyond the length bound was written in the second pass. The first pass saw it cut, and sees it so again.
        """
        earlier = caption.plan.earlier
        if number not in earlier.lengths:
            return False
        if number not in caption.lengths:
            self.stats.tokens += earlier.lengths[number]
        caption.lengths[number] = earlier.lengths[number]
        if number in earlier.cut or earlier.lengths[number] > caption.length_bound:
            caption.cut[number] = None
        else:
            caption.cut.pop(number, None)
            caption.rewards[number] = earlier.rewards.get(number)
        return True

    def _finish_caption(self, caption: OpenCaption) -> Iterator[Record]:
        """Counts a caption that is given up or complete, and yields its cut trajectories.

        While a trajectory has failed, they stay out: the next run may find that the caption passes.
        """
        lengths = [length for number, length in caption.lengths.items() if number not in caption.cut]
        self.stats.add_caption(len(caption.plan.jobs), lengths, len(caption.cut), caption.given_up)
        bound = caption.group.length_bound
        for _, record in sorted(caption.cut.items()):
            if record is not None and not caption.has_failures:
                yield self._marked(record, stop_length=bound)
        if self.bound_length and caption.passes(self.alpha):
            caption.group.length_bound = min(bound, caption.shortest_correct)
