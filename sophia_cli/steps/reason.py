"""Step 2, off-policy: a text-only reasoner thinks over a caption as if it saw the image (method.md, step 2).

For each caption it samples N trajectories, y ~ π̄(· | x̂_q), where x̂_q is the prompt filled with the question and the
caption.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.inference.early_stop import CaptionPlan, EarlyStopSampler, EarlyStopStats, QuestionGroup, max_failures
from sophia_cli.inference.early_stop_resume import EarlierCaption, read_earlier_captions
from sophia_cli.inference.sampler import sample_records, show_plan
from sophia_cli.inference.types import Backend, Completion, Job, Request, SamplingParams
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.jsonl import read_records
from sophia_cli.io.paths import input_names
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.prompts import chosen_prompt, fill_template, question_text
from sophia_cli.prompts.image_marks import without_marks
from sophia_cli.records import Record, error_record, has_failed, image_list, need_text, sample_seed, trajectory_id, where_of
from sophia_cli.steps._common import StepOptions
from sophia_cli.steps._runner import run_step

STEP, ID_FIELD = "reason", "trajectory_id"
DEFAULT_MAX_TOKENS = 32768
"""The paper's longest trajectory, in tokens."""
LOGPROB_DECIMALS = 6
"""Decimals that do not depend on the batch in which a trajectory was sampled; sums differ beyond them."""
PROMPT_FIELDS = ("question", "caption")
MADE_BY = "`sophia caption` writes it"


@dataclass(frozen=True)
class ReasonConfig:
    """How the trajectories of a caption are sampled.

    Attributes:
        n: N.
        prompt: The prompt template.
        sampling: The sampling parameters.
        seed: The run's seed.
        tag: Goes into the ids.
        stop_alpha: α of early stop; None samples all trajectories.
        bound_length: Early stop also bounds the lengths.
    """

    n: int
    prompt: str
    sampling: SamplingParams
    seed: int
    tag: str | None = None
    stop_alpha: float | None = None
    bound_length: bool = False


def run(
    options: StepOptions,
    files: list[str],
    llm: str,
    n: int,
    sampling: SamplingParams,
    prompt_file: Path | None,
    tag: str | None,
    stop_alpha: float | None,
    bound_length: bool,
    backend_options: BackendOptions,
) -> int:
    """`sophia reason`: reads captions, samples with the reasoner, writes records. Returns the exit code."""
    chosen = backend_options.resolve_model(llm)
    backend = backend_options.make_backend(chosen)
    sampling = sampling.with_defaults(chosen, STEP, DEFAULT_MAX_TOKENS)
    if tag is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", tag):
        raise UsageError(f"--tag {tag}: use letters, digits, - and _, for example r1")
    prompt = chosen_prompt(prompt_file, STEP, chosen.prompt_style, PROMPT_FIELDS)
    thinking = ReasonConfig(n, prompt, sampling, options.seed, tag, stop_alpha, bound_length)
    if stop_alpha is not None:
        max_failures(stop_alpha, n)
    if bound_length and stop_alpha is None:
        raise UsageError("--bound-length works with --stop-early; give both")
    if bound_length and options.parsed_shard.count > 1:
        raise UsageError("--bound-length needs all captions of a question together; give --shard to `caption` instead")
    records = options.parsed_shard.take(read_records(files), options.limit)
    if options.dry_run:
        return show_plan(STEP, _make_jobs(records, thinking, RecordWriter(ID_FIELD, None)), chosen, sampling, {"N": n})
    stop = {"stop_alpha": stop_alpha, "bound_length": bound_length}
    settings = {
        **chosen.identity,
        **backend_options.manifest_settings(),
        "prompt": prompt,
        "n": n,
        "tag": tag,
        **stop,
        **sampling.manifest_settings(),
    }
    tally = EarlyStopStats()

    def produce(output: RecordWriter, counter: RecordCounter) -> Iterator[Record]:
        return sample_trajectories(counter.count_records(records), backend, llm, thinking, output, tally)

    return run_step(
        STEP,
        ID_FIELD,
        options,
        settings,
        produce,
        inputs=input_names(*files, prompt_file),
        tokens_field="trajectory_tokens",
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
) -> Iterator[Record]:
    """Yields N records per caption, each with one trajectory; fewer with early stop. Earlier failures pass through.

    Args:
        captions: The captions.
        backend: Where the reasoner runs.
        model: The name of the reasoner.
        thinking: How to sample.
        output: Knows which records are finished.
        tally: Counts what early stop saves.
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
    earlier = read_earlier_captions(output.file, thinking.n, rule_reward, thinking.bound_length)
    early_stop = EarlyStopSampler(thinking.stop_alpha, thinking.n, thinking.bound_length, rule_reward, finish, tally)
    return early_stop.stream(_question_groups(captions, thinking, earlier), backend)


def rule_reward(record: Record) -> float | None:
    """Returns R(y) of a trajectory by the rules of `grade` and their time limit.

    Raises:
        RecordError: the trajectory cannot be graded.
    """
    from sophia_cli.verifier import verify

    return verify(record["trajectory"], record, truncated=record["finish_reason"] == "length").reward


def _make_jobs(captions: Iterable[Record], thinking: ReasonConfig, output: RecordWriter) -> Iterator[Job | Record]:
    """Yields the jobs of all captions that are not finished, and the records of those that cannot be sampled."""
    for record in captions:
        for job in _caption_jobs(record, thinking):
            if isinstance(job, Record) or not output.skip_finished(job.ids[ID_FIELD]):
                yield job


def _question_groups(
    captions: Iterable[Record], thinking: ReasonConfig, earlier: dict[str, EarlierCaption]
) -> Iterator[QuestionGroup | Record]:
    """Yields the same for early stop: by question with a bound on lengths, else by caption."""
    each = _check_unique(captions)
    for group in _group_by_question(each) if thinking.bound_length else ([record] for record in each):
        plans = []
        for record in group:
            whole = _caption_jobs(record, thinking)
            jobs = [job for job in whole if isinstance(job, Job)]
            yield from (failure for failure in whole if isinstance(failure, Record))
            if jobs:
                plans.append(CaptionPlan(jobs, earlier.get(str(record["caption_id"]), EarlierCaption())))
        if plans:
            yield QuestionGroup(plans)


def _check_unique(captions: Iterable[Record]) -> Iterator[Record]:
    """Yields the captions.

    Raises:
        InputError: a caption occurs twice; its trajectories would count twice.
    """
    seen: set[str] = set()
    for record in captions:
        name = record.get("caption_id")
        if isinstance(name, str) and not has_failed(record):
            if name in seen:
                raise InputError(
                    f"{where_of(record)}: caption_id {name!r} occurs twice; --stop-early needs each caption once, delete one"
                )
            seen.add(name)
        yield record


def _group_by_question(captions: Iterable[Record]) -> Iterator[list[Record]]:
    """Yields the captions of each question in order, as soon as all K exist; incomplete questions at the end."""
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
    """Sorts c2 before c10."""
    name = str(record.get("caption_id"))
    return len(name), name


def _caption_jobs(record: Record, thinking: ReasonConfig) -> Sequence[Job | Record]:
    """Returns the N jobs of a caption; failures instead for a caption that failed before or cannot be sampled."""
    if has_failed(record):
        return [record]
    if ID_FIELD in record and thinking.tag is None:
        raise InputError(
            f"{where_of(record)}: field `{ID_FIELD}` is written by this step; give the captions, not trajectories"
        )
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
    """Returns the chat x̂_q: the prompt with `{question}` and `{caption}` filled in.

    Raises:
        RecordError: a field is missing.
    """
    question = without_marks(question_text(record), len(image_list(record)))
    values = {"question": question, "caption": need_text(record, "caption", MADE_BY, empty=True)}
    return [{"role": "user", "content": fill_template(prompt, values)}]
