"""Step 3: R(y) = 1 if the final answer of a trajectory matches the gold answer, else 0 (Eq. 4).

There are always three outcomes: correct, wrong, cannot tell. The last has `reward: null`, so that a problem of the
verifier never counts as a wrong answer. Rules decide almost everything; a judge (`--judge`) may decide the rest.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.jsonl import read_records
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.judge.answer_judge import AnswerJudge, apply_judge, make_judge
from sophia_cli.models.thinking import ThinkTags, to_think_tags
from sophia_cli.records import Record, has_failed, need_text, record_name, where_of
from sophia_cli.runtime.progress import log_line
from sophia_cli.runtime.worker_pool import ordered_map
from sophia_cli.steps._common import StepOptions, plain_settings
from sophia_cli.steps._runner import run_step
from sophia_cli.verifier.caption_leak import mentions_caption
from sophia_cli.verifier.types import Verdict

STEP, ID_FIELD = "grade", "trajectory_id"
MADE_BY = "`sophia reason` writes it"
EXTRA_WAIT_SECONDS = 60.0
"""Seconds beyond the time limit of algebra after which a silent worker is replaced. It may be starting up."""
ITEM_FIELDS = ("answer", "choices", "answer_type", "tolerance", "precision", "unit", "language")
TASK_FIELDS = ("error", "trajectory_id", "trajectory", "finish_reason", *ITEM_FIELDS)
"""All fields of a record that a worker needs. The user's own fields stay in this process."""


def run(
    options: StepOptions,
    files: list[str],
    workers: int,
    seconds: float,
    judge_model: str | None,
    judge_all: bool,
    backend_options: BackendOptions,
) -> int:
    """`sophia grade`: reads trajectories, grades them, writes records in order. Returns the exit code."""
    if judge_all and judge_model is None:
        raise UsageError("--judge-all needs a judge; name one with --judge MODEL")
    judge, settings = (
        (None, {}) if judge_model is None else make_judge(judge_model, judge_all, options.seed, backend_options)
    )
    records = options.parsed_shard.take(read_records(files), options.limit)
    if options.dry_run:
        return _show_plan(next(records, None), workers, seconds, judge, judge_all)

    def produce(output: RecordWriter, counter: RecordCounter) -> Iterator[Record]:
        todo = counter.count_records(records)
        if backend_options.think_tags:
            todo = (_with_think_tags(record, backend_options.think_tags) for record in todo)
        return grade_records(todo, workers, seconds, output, judge, judge_all, backend_options.think_tags)

    backend = judge.backend if judge else None
    settings |= backend_options.manifest_settings()
    return run_step(STEP, ID_FIELD, options, settings, produce, inputs=files, keeps_order=True, backend=backend)


def _with_think_tags(record: Record, own: ThinkTags) -> Record:
    """Returns the record with the user's own marks of thinking as `<think>`, which is what records hold (contract.md)."""
    if not isinstance(record.get("trajectory"), str):
        return record
    return Record({**record, "trajectory": to_think_tags(record["trajectory"], own)}, where_of(record))


def _show_plan(first: Record | None, workers: int, seconds: float, judge: AnswerJudge | None, judge_all: bool) -> int:
    name = "nothing to grade" if first is None else f"first {record_name(first)}"
    log_line(f"grade: {workers} workers, {seconds} s for algebra on one answer, {name}")
    if judge and first is not None:
        share = "everything" if judge_all else "what the rules cannot"
        log_line(f"--- judge {judge.name}, {plain_settings(judge.sampling.manifest_settings())}; it decides {share}")
        log_line(judge.make_question(first, None))
    return 0


def grade_records(
    records: Iterable[Record],
    workers: int,
    seconds: float,
    output: RecordWriter,
    judge: AnswerJudge | None = None,
    judge_all: bool = False,
    think_tags: ThinkTags | None = None,
) -> Iterator[Record]:
    """Yields the records in order, each with its verdict; skips those that `output` has finished."""
    todo = (record for record in records if not output.skip_finished(str(record.get(ID_FIELD, ""))))
    judged_by_rules = grade_by_rules(todo, workers, seconds, think_tags)
    if judge is None:
        return judged_by_rules
    return apply_judge(judged_by_rules, judge, partial(needs_judge, everything=judge_all))


def grade_by_rules(
    records: Iterable[Record], workers: int, seconds: float, think_tags: ThinkTags | None = None
) -> Iterator[Record]:
    """Yields the records in order with the fields of `grade`. One worker needs no process except the algebra worker."""
    work = partial(grade_fields, seconds=seconds, think_tags=think_tags)
    if workers <= 1:
        pairs: Iterator[tuple[Record, dict[str, Any]]] = ((record, work(record)) for record in records)
    else:
        pairs = ordered_map(work, records, workers, _grading_task, seconds + EXTRA_WAIT_SECONDS, _lost_worker_fields)
    for record, fields in pairs:
        yield Record({**record, **fields}, where_of(record))


def _grading_task(record: Record) -> Record:
    return Record({field: record[field] for field in TASK_FIELDS if field in record}, where_of(record))


def _lost_worker_fields(record: Record, outcome: str) -> dict[str, Any]:
    """Returns the fields of a record whose worker died or timed out."""
    return _verdict_fields(Verdict(outcome, None, "worker lost"), mentions_caption(str(record.get("trajectory", ""))))


def grade_fields(record: Record, seconds: float, think_tags: ThinkTags | None = None) -> dict[str, Any]:
    """Returns the fields that `grade` adds. A record that failed before gets verdict `error` and reward null."""
    from sophia_cli.verifier import verify

    if has_failed(record):
        return _verdict_fields(Verdict("error", None, "an earlier step failed"), None)
    try:
        need_text(record, ID_FIELD, MADE_BY)
        trajectory = need_text(record, "trajectory", MADE_BY, empty=True)
        if record.get("answer") is None:
            raise RecordError(f"{where_of(record)}: field `answer` is missing; give the gold answer in the source")
        cut_off = record.get("finish_reason") == "length"
        verdict = verify(trajectory, record, truncated=cut_off, seconds=seconds, think_tags=think_tags)
    except RecordError as error:
        return {**_verdict_fields(Verdict("error", None, "unreadable record"), None), "error": str(error)}
    return _verdict_fields(verdict, mentions_caption(trajectory))


def _verdict_fields(verdict: Verdict, mentions: bool | None) -> dict[str, Any]:
    return {
        "extracted": verdict.extracted,
        "verdict": verdict.verdict,
        "verified_by": verdict.verified_by,
        "reward": verdict.reward,
        "mentions_caption": mentions,
    }


def needs_judge(record: Record, everything: bool) -> bool:
    """Tells whether the judge decides: always with `everything`, else where the rules cannot tell.

    Raises:
        InputError: the record was sampled with early stop, which relied on the rules' verdicts.
    """
    if everything and record.get("stop_alpha") is not None:
        raise InputError(
            f"{where_of(record)}: was sampled with --stop-early by the rules' verdicts, which --judge-all may "
            "overrule; use --judge, or sample again without --stop-early"
        )
    return everything or record["reward"] is None
