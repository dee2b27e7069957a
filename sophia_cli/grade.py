"""Step 3: R(y) = 1 if the final answer of a trajectory matches the gold answer, else 0 (Eq. 4).

Three outcomes, always: right, wrong, could not tell. The last carries `reward: null`, so that a verifier's trouble is
never taken for a wrong answer.
"""

import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sophia_cli import registry
from sophia_cli.errors import RecordError
from sophia_cli.frame import Common, Counter, run_step
from sophia_cli.output import Output
from sophia_cli.progress import notice
from sophia_cli.records import Record, has_failed, name_of, need_text, where_of
from sophia_cli.streams import read_records
from sophia_cli.verifiers._verdict import Verdict, Verify

T = TypeVar("T")
R = TypeVar("R")

LEAK = re.compile(
    r"\b(?:the|this|given|provided|your)\s+(?:\w+\s+)?(?:description|caption)\b(?!\s+(?:of|in|on|under|below|above|reads)\b)"
    r"|\b(?:visual information|described (?:in|by) the (?:text|prompt))\b"
    r"|(?:根据|按照|从|由)(?:\w{0,4})(?:描述|文字说明|图片说明)",
    re.IGNORECASE,
)
"""Words that betray that a description was read and no image seen."""


def run(common: Common, files: list[str], workers: int, seconds: float) -> int:
    """`sophia grade`: reads trajectories, judges them, writes records in their order. Returns the exit code."""
    verify: Verify = registry.find("verifiers", "rules").verify
    records = common.part.take(read_records(files), common.limit)
    if common.dry_run:
        first = next(records, None)
        name = "nothing to grade" if first is None else f"first {name_of(first)}"
        notice(f"grade: {workers} workers, {seconds} s for algebra on one answer, {name}")
        return 0

    def produce(output: Output, counter: Counter) -> Iterator[Record]:
        return grade(counter.over(records), verify, workers, seconds, output)

    return run_step("grade", "trajectory_id", common, {}, produce, inputs=files, ordered=True)


def grade(records: Iterable[Record], verify: Verify, workers: int, seconds: float, output: Output) -> Iterator[Record]:
    """The records in their order, each with its verdict; those that `output` has done already are left out."""
    todo = (record for record in records if not output.take_done(str(record.get("trajectory_id", ""))))
    return _in_order(lambda record: graded(record, verify, seconds), todo, workers)


def graded(record: Record, verify: Verify, seconds: float) -> Record:
    """The record with the fields of `grade`. A record that failed before gets verdict `error` and reward null."""
    if has_failed(record):
        return _with_verdict(record, Verdict("error", None, "an earlier step failed"), None)
    try:
        need_text(record, "trajectory_id", "`sophia reason` writes it")
        trajectory = need_text(record, "trajectory", "`sophia reason` writes it", empty=True)
        if record.get("answer") is None:
            raise RecordError(f"{where_of(record)}: field `answer` is missing; give the gold answer in the source")
        verdict = verify(trajectory, record, truncated=record.get("finish_reason") == "length", seconds=seconds)
    except RecordError as error:
        failure = _with_verdict(record, Verdict("error", None, "unreadable record"), None)
        return Record({**failure, "error": str(error)}, where_of(record))
    return _with_verdict(record, verdict, mentions_caption(trajectory))


def _with_verdict(record: Record, verdict: Verdict, mentions: bool | None) -> Record:
    fields: dict[str, Any] = {
        "extracted": verdict.extracted,
        "verdict": verdict.verdict,
        "verified_by": verdict.verified_by,
        "reward": verdict.reward,
        "mentions_caption": mentions,
    }
    return Record({**record, **fields}, where_of(record))


def mentions_caption(trajectory: str) -> bool:
    """Whether a trajectory betrays that a description was read: nobody who sees an image speaks of its description."""
    return bool(LEAK.search(trajectory))


def _in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`work` over the items in threads, results in order, each as soon as it and those before it are done.

    One worker needs no thread. A reader thread feeds the others, so that a result leaves while the next item is awaited.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    pending: queue.Queue[Future[R] | BaseException | None] = queue.Queue(4 * workers)
    pool = ThreadPoolExecutor(workers)

    def feed() -> None:
        try:
            for item in items:
                pending.put(pool.submit(work, item))
            pending.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again below)
            pending.put(error)

    threading.Thread(target=feed, daemon=True).start()
    try:
        while (future := pending.get()) is not None:
            if isinstance(future, BaseException):
                raise future
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
