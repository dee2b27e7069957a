"""Step 3: R(y) = 1 if the final answer of a trajectory matches the gold answer, else 0 (Eq. 4).

Three outcomes, always: right, wrong, could not tell. The last carries `reward: null`, so that a verifier's trouble is
never taken for a wrong answer. Rules settle almost everything; a judge (`--judge`) may be asked about the rest.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sophia_cli import registry
from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.frame import Common, Counter, run_step
from sophia_cli.leaks import mentions_caption
from sophia_cli.output import Output
from sophia_cli.place import Lazy, Place
from sophia_cli.processes import ordered_map
from sophia_cli.progress import notice
from sophia_cli.prompts import load_prompt
from sophia_cli.records import Record, has_failed, name_of, need_text, sample_seed, where_of
from sophia_cli.sampling import Completion, Failure, Job, Request, Sampling, answer_in_order
from sophia_cli.streams import read_records
from sophia_cli.verifiers import judge as judging
from sophia_cli.verifiers._verdict import REWARDS, Verdict, Verify

STEP, KEY = "grade", "trajectory_id"
MADE_BY = "`sophia reason` writes it"
PATIENCE = 60.0
"""Seconds beyond the limit of algebra after which a worker that says nothing is replaced: it may be starting up."""
ITEM_FIELDS = ("answer", "choices", "answer_type", "tolerance", "precision", "unit", "language")
TASK_FIELDS = ("error", "trajectory_id", "trajectory", "finish_reason", *ITEM_FIELDS)
"""All that a worker needs of a record; the users' own fields stay in this process."""


@dataclass(frozen=True)
class Judge:
    """Who is asked (`--judge`), with what prompt and sampling, and about which: what rules left open, or all of them."""

    backend: Lazy
    name: str
    prompt: str
    sampling: Sampling
    seed: int
    everything: bool = False


def run(
    common: Common, files: list[str], workers: int, seconds: float, judge_model: str | None, judge_all: bool, place: Place
) -> int:
    """`sophia grade`: reads trajectories, judges them, writes records in their order. Returns the exit code."""
    if judge_all and judge_model is None:
        raise UsageError("--judge-all: says what to ask a judge about; name one with --judge MODEL")
    judge, settings = (None, {}) if judge_model is None else _judge(judge_model, judge_all, common.seed, place)
    records = common.part.take(read_records(files), common.limit)
    if common.dry_run:
        return _show_plan(next(records, None), workers, seconds, judge)

    def produce(output: Output, counter: Counter) -> Iterator[Record]:
        return grade(counter.over(records), workers, seconds, output, judge)

    backend = judge.backend if judge else None
    return run_step(STEP, KEY, common, settings, produce, inputs=files, ordered=True, backend=backend)


def _judge(name: str, everything: bool, seed: int, place: Place) -> tuple[Judge, dict[str, Any]]:
    """The judge, and what of it makes the records what they are."""
    model = place.resolve(name)
    prompt = load_prompt("judge", model.prompts)
    sampling = Sampling(temperature=0.0).with_defaults(model, "judge", judging.LONGEST)
    settings = {
        "judge": model.identity,
        "judge_prompt": prompt,
        "judge_all": everything,
        "judge_sampling": sampling.settings(),
    }
    return Judge(place.backend(model), name, prompt, sampling, seed, everything), settings


def _show_plan(first: Record | None, workers: int, seconds: float, judge: Judge | None) -> int:
    name = "nothing to grade" if first is None else f"first {name_of(first)}"
    notice(f"grade: {workers} workers, {seconds} s for algebra on one answer, {name}")
    if judge and first is not None:
        notice(
            f"--- judge {judge.name}, {judge.sampling}, asked about {'all' if judge.everything else 'what rules left open'}"
        )
        notice(judging.question(first, None, judge.prompt))
    return 0


def grade(
    records: Iterable[Record], workers: int, seconds: float, output: Output, judge: Judge | None = None
) -> Iterator[Record]:
    """The records in their order, each with its verdict; those that `output` has done already are left out."""
    todo = (record for record in records if not output.take_done(str(record.get(KEY, ""))))
    judged_by_rules = by_rules(todo, workers, seconds)
    return judged_by_rules if judge is None else by_judge(judged_by_rules, judge)


def by_rules(records: Iterable[Record], workers: int, seconds: float) -> Iterator[Record]:
    """The records with the fields of `grade`, in their order. One worker needs no process but that of algebra."""
    work = partial(fields_of, seconds=seconds)
    if workers <= 1:
        pairs: Iterator[tuple[Record, dict[str, Any]]] = ((record, work(record)) for record in records)
    else:
        pairs = ordered_map(work, records, workers, _task, seconds + PATIENCE, _lost)
    for record, fields in pairs:
        yield Record({**record, **fields}, where_of(record))


def _task(record: Record) -> Record:
    return Record({field: record[field] for field in TASK_FIELDS if field in record}, where_of(record))


def _lost(record: Record, outcome: str) -> dict[str, Any]:
    """The fields of a record whose worker died under it, or said nothing for too long."""
    return _fields(Verdict(outcome, None, "worker lost"), mentions_caption(str(record.get("trajectory", ""))))


def fields_of(record: Record, seconds: float) -> dict[str, Any]:
    """The fields that `grade` adds. A record that failed before gets verdict `error` and reward null."""
    verify: Verify = registry.find("verifiers", "rules").verify
    if has_failed(record):
        return _fields(Verdict("error", None, "an earlier step failed"), None)
    try:
        need_text(record, KEY, MADE_BY)
        trajectory = need_text(record, "trajectory", MADE_BY, empty=True)
        if record.get("answer") is None:
            raise RecordError(f"{where_of(record)}: field `answer` is missing; give the gold answer in the source")
        verdict = verify(trajectory, record, truncated=record.get("finish_reason") == "length", seconds=seconds)
    except RecordError as error:
        return {**_fields(Verdict("error", None, "unreadable record"), None), "error": str(error)}
    return _fields(verdict, mentions_caption(trajectory))


def _fields(verdict: Verdict, mentions: bool | None) -> dict[str, Any]:
    return {
        "extracted": verdict.extracted,
        "verdict": verdict.verdict,
        "verified_by": verdict.verified_by,
        "reward": verdict.reward,
        "mentions_caption": mentions,
    }


def by_judge(records: Iterable[Record], judge: Judge) -> Iterator[Record]:
    """The records in their order; of those that the judge is asked about, each with both verdicts.

    The judge's word counts where it gives one: else that of the rules stands. The same question, gold and answer are
    asked about once.
    """

    def job(record: Record) -> Job | None:
        if has_failed(record) or not (judge.everything or record["reward"] is None):
            return None
        if judge.everything and record.get("stop_alpha") is not None:
            raise InputError(
                f"{where_of(record)}: was sampled with --stop-early by the word of the rules, which --judge-all may "
                "overrule; use --judge, or sample again without --stop-early"
            )
        text = judging.question(record, record["extracted"], judge.prompt)
        request = Request([{"role": "user", "content": text}], judge.sampling, sample_seed(judge.seed, text, 0))
        return Job(record, {}, request)

    def finish(record: Record, outcome: Completion | Failure | None) -> Record:
        if outcome is None:
            return record
        if isinstance(outcome, Failure):
            failure = {
                "verdict": "error",
                "reward": None,
                "verified_by": "judge",
                "error": f"the judge failed: {outcome.error}",
            }
            return Record({**record, **failure}, where_of(record))
        verdict = judging.read_verdict(outcome.text)
        fields = {"rules_verdict": record["verdict"], "judge_verdict": verdict, "judge_model": judge.name}
        if REWARDS[verdict] is not None:
            fields |= {"verdict": verdict, "verified_by": "judge", "reward": REWARDS[verdict]}
        return Record({**record, **fields}, where_of(record))

    return answer_in_order(records, job, judge.backend, finish)
