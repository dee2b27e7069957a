"""Step 2, off-policy: a text-only reasoner thinks over a description as if it saw the image (method.md, step 2).

For each caption N trajectories, y ~ π̄(· | x̂_q), where x̂_q is the prompt filled with the question and the caption.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.inference.early_stop import CaptionPlan, EarlyStopSampler, EarlyStopStats, QuestionGroup, max_failures
from sophia_cli.inference.early_stop_resume import HeldRecords, ResumeState
from sophia_cli.inference.sampler import sample_records, show_plan
from sophia_cli.inference.types import Backend, Completion, Job, Request, SamplingParams
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.jsonl import read_records
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.prompts import chosen_prompt, fill_template, question_text
from sophia_cli.records import Record, error_record, has_failed, need_text, sample_seed, trajectory_id, where_of
from sophia_cli.steps._common import StepOptions
from sophia_cli.steps._runner import run_step

STEP, ID_FIELD = "reason", "trajectory_id"
DEFAULT_MAX_TOKENS = 32768
"""The paper's longest trajectory, in tokens."""
LOGPROB_DECIMALS = 6
"""What is the same in whatever company a trajectory was sampled; sums differ beyond."""
PROMPT_FIELDS = ("question", "caption")
MADE_BY = "`sophia caption` writes it"


@dataclass(frozen=True)
class ReasonConfig:
    """What makes the trajectories of a caption: how many, how they are asked for and drawn, and the tag in their ids.

    stop_alpha: the α of early stop (waves.py); None samples all of them. shortest: with the bound on lengths.
    """

    n: int
    prompt: str
    sampling: SamplingParams
    seed: int
    tag: str | None = None
    stop_alpha: float | None = None
    bound_length: bool = False


def run(
    common: StepOptions,
    files: list[str],
    llm: str,
    n: int,
    sampling: SamplingParams,
    prompt_file: Path | None,
    tag: str | None,
    stop_alpha: float | None,
    shortest: bool,
    place: BackendOptions,
) -> int:
    """`sophia reason`: reads captions, samples with the reasoner, writes records. Returns the exit code."""
    chosen = place.resolve_model(llm)
    backend = place.make_backend(chosen)
    sampling = sampling.with_defaults(chosen, STEP, DEFAULT_MAX_TOKENS)
    if tag is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", tag):
        raise UsageError(f"--tag {tag}: use letters, digits, - and _, as in r1")
    prompt = chosen_prompt(prompt_file, STEP, chosen.prompt_style, PROMPT_FIELDS)
    thinking = ReasonConfig(n, prompt, sampling, common.seed, tag, stop_alpha, shortest)
    if stop_alpha is not None:
        max_failures(stop_alpha, n)
    if shortest and stop_alpha is None:
        raise UsageError("--bound-length: bounds what --stop-early samples; give both")
    if shortest and common.parsed_shard.count > 1:
        raise UsageError("--bound-length needs all captions of a question together; give --shard to `caption` instead")
    records = common.parsed_shard.take(read_records(files), common.limit)
    if common.dry_run:
        return show_plan(STEP, _make_jobs(records, thinking, RecordWriter(ID_FIELD, None)), chosen, sampling, {"N": n})
    stop = {"stop_alpha": stop_alpha, "shortest": shortest}
    settings = {**chosen.identity, "prompt": prompt, "n": n, "tag": tag, **stop, **sampling.manifest_settings()}
    tally, earlier = (
        EarlyStopStats(),
        ResumeState(n, HeldRecords(common.out or common.tee), rule_reward if shortest else None),
    )

    def produce(output: RecordWriter, counter: RecordCounter) -> Iterator[Record]:
        return sample_trajectories(counter.count_records(records), backend, llm, thinking, output, tally, earlier)

    return run_step(
        STEP,
        ID_FIELD,
        common,
        settings,
        produce,
        tokens_field="trajectory_tokens",
        review=earlier if stop_alpha is not None else None,
        backend=backend,
        report=lambda: {} if stop_alpha is None else {"early_stop": tally.to_manifest()},
    )


def sample_trajectories(
    captions: Iterable[Record],
    backend: Backend,
    model: str,
    thinking: ReasonConfig,
    output: RecordWriter,
    tally: EarlyStopStats,
    earlier: ResumeState,
) -> Iterator[Record]:
    """N records a caption, each with one trajectory; fewer with early stop. Records that failed before are passed on.

    earlier: what an earlier run has written, for early stop. tally: what it spared.
    """

    def finish(job: Job, completion: Completion) -> Record:
        fields = {
            **job.ids,
            "trajectory": completion.text,
            "reason_model": model,
            "trajectory_tokens": completion.tokens,
            "finish_reason": completion.finish_reason,
        }
        if completion.logprob is not None:
            fields["trajectory_logprob"] = round(completion.logprob, LOGPROB_DECIMALS)
        return Record({**job.record, **fields}, where_of(job.record))

    if thinking.stop_alpha is None:
        return sample_records(_make_jobs(captions, thinking, output), backend, finish)
    waves = EarlyStopSampler(
        thinking.stop_alpha, thinking.n, thinking.bound_length, rule_reward, finish, tally, earlier.held
    )
    return waves.stream(_question_groups(captions, thinking, output, earlier, tally), backend)


def rule_reward(record: Record) -> float | None:
    """R(y) of a trajectory, by the rules of `grade` and its limit of time. Raises RecordError."""
    from sophia_cli.verifier import verify

    return verify(record["trajectory"], record, truncated=record["finish_reason"] == "length").reward


def _make_jobs(captions: Iterable[Record], thinking: ReasonConfig, output: RecordWriter) -> Iterator[Job | Record]:
    """The jobs of all captions that are not done yet, and the records of those that cannot be asked about."""
    for record in captions:
        for job in _caption_jobs(record, thinking):
            if isinstance(job, Record) or not output.skip_finished(job.ids[ID_FIELD]):
                yield job


def _question_groups(
    captions: Iterable[Record], thinking: ReasonConfig, output: RecordWriter, earlier: ResumeState, tally: EarlyStopStats
) -> Iterator[QuestionGroup | Record]:
    """The same for early stop, question by question if the bound on lengths is wanted, else caption by caption."""
    each = _check_unique(captions)
    for group in _group_by_question(each) if thinking.bound_length else ([record] for record in each):
        plans = []
        for record in group:
            whole = _caption_jobs(record, thinking)
            jobs = [job for job in whole if isinstance(job, Job)]
            yield from (failure for failure in whole if isinstance(failure, Record))
            if jobs:
                plans.append(_plan_caption(record, jobs, thinking, output, earlier, tally))
        if plans:
            yield QuestionGroup(plans)


def _check_unique(captions: Iterable[Record]) -> Iterator[Record]:
    """The captions. Raises InputError for one that comes twice: its trajectories would count twice in the waves."""
    seen: set[str] = set()
    for record in captions:
        name = record.get("caption_id")
        if isinstance(name, str) and not has_failed(record):
            if name in seen:
                raise InputError(
                    f"{where_of(record)}: caption_id {name!r} comes twice, which --stop-early cannot serve; drop one"
                )
            seen.add(name)
        yield record


def _group_by_question(captions: Iterable[Record]) -> Iterator[list[Record]]:
    """The captions of each question in their order, as soon as all K are there; those that miss some at the end."""
    waiting: dict[str, list[Record]] = {}
    for record in captions:
        name = str(record.get("id"))
        group = waiting.setdefault(name, [])
        group.append(record)
        if len(group) == record.get("caption_count"):
            yield sorted(waiting.pop(name), key=_caption_order)
    for group in waiting.values():
        yield sorted(group, key=_caption_order)


def _caption_order(record: Record) -> tuple[int, str]:
    """c2 before c10."""
    name = str(record.get("caption_id"))
    return len(name), name


def _plan_caption(
    record: Record,
    jobs: list[Job],
    thinking: ReasonConfig,
    output: RecordWriter,
    earlier: ResumeState,
    tally: EarlyStopStats,
) -> CaptionPlan:
    """A caption's jobs, and what of them is there already; a settled one is counted."""
    caption = str(record["caption_id"])
    if any([output.skip_finished(job.ids[ID_FIELD]) for job in jobs]):
        tally.add_caption(len(jobs), earlier.written[caption], len(earlier.cut[caption]), caption in earlier.given_up)
        tally.tokens += sum(earlier.written[caption]) + sum(earlier.cut[caption])
        earlier.held.forget_caption(caption)
        return CaptionPlan([], is_finished=True, shortest_correct=earlier.length_bound(caption, thinking.stop_alpha or 0.0))
    known = {number: earlier.held.get_record(caption, job.ids[ID_FIELD]) for number, job in enumerate(jobs)}
    return CaptionPlan(jobs, {number: trajectory for number, trajectory in known.items() if trajectory})


def _caption_jobs(record: Record, thinking: ReasonConfig) -> Sequence[Job | Record]:
    """The N jobs of a caption; instead of them, the failures of one that failed before or cannot be asked about."""
    if has_failed(record):
        return [record]
    try:
        name = need_text(record, "caption_id", MADE_BY)
    except RecordError as error:
        return [error_record(record, str(error), {})]
    try:
        messages = reasoning_request(record, thinking.prompt)
    except RecordError as error:
        return [error_record(record, str(error), _record_ids(name, number, thinking)) for number in range(thinking.n)]
    tagged = f"{name}/{thinking.tag}" if thinking.tag else name
    return [
        Job(
            record,
            _record_ids(name, n, thinking),
            Request(messages, thinking.sampling, sample_seed(thinking.seed, tagged, n)),
        )
        for n in range(thinking.n)
    ]


def _record_ids(caption: str, number: int, thinking: ReasonConfig) -> dict[str, Any]:
    return {"trajectory_id": trajectory_id(caption, number, thinking.tag), "trajectory_count": thinking.n}


def reasoning_request(record: Record, prompt: str) -> list[dict[str, Any]]:
    """The chat x̂_q: the prompt with `{question}` and `{caption}` filled in. Raises RecordError."""
    values = {"question": question_text(record), "caption": need_text(record, "caption", MADE_BY, empty=True)}
    return [{"role": "user", "content": fill_template(prompt, values)}]
