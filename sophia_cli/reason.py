"""Step 2, off-policy: a text-only reasoner thinks over a description as if it saw the image (method.md, step 2).

For each caption N trajectories, y ~ π̄(· | x̂_q), where x̂_q is the prompt filled with the question and the caption.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sophia_cli.errors import RecordError, UsageError
from sophia_cli.frame import Common, Counter, run_step
from sophia_cli.output import Output
from sophia_cli.prompts import chosen_prompt, fill, question_text
from sophia_cli.records import Record, failed, has_failed, need_text, sample_seed, trajectory_id, where_of
from sophia_cli.sampling import Backend, Completion, Job, Place, Request, Sampling, sample, show_plan
from sophia_cli.streams import read_records

STEP, KEY = "reason", "trajectory_id"
LONGEST = 32768
"""The paper's longest trajectory, in tokens."""
BLANKS = ("question", "caption")
MADE_BY = "`sophia caption` writes it"


@dataclass(frozen=True)
class Thinking:
    """What makes the trajectories of a caption: how many, how they are asked for and drawn, and the tag in their ids."""

    n: int
    prompt: str
    sampling: Sampling
    seed: int
    tag: str | None = None


def run(
    common: Common,
    files: list[str],
    llm: str,
    n: int,
    sampling: Sampling,
    prompt_file: Path | None,
    tag: str | None,
    place: Place,
) -> int:
    """`sophia reason`: reads captions, samples with the reasoner, writes records. Returns the exit code."""
    chosen = place.resolve(llm)
    backend = place.backend(chosen)
    sampling = sampling.with_defaults(chosen, STEP, LONGEST)
    if tag is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", tag):
        raise UsageError(f"--tag {tag}: use letters, digits, - and _, as in r1")
    thinking = Thinking(n, chosen_prompt(prompt_file, STEP, chosen.prompts, BLANKS), sampling, common.seed, tag)
    records = common.part.take(read_records(files), common.limit)
    if common.dry_run:
        return show_plan(STEP, _jobs(records, thinking, Output(KEY, None)), chosen, sampling, {"N": n})
    settings = {**chosen.identity, "prompt": thinking.prompt, "n": n, "tag": tag, **sampling.settings()}

    def produce(output: Output, counter: Counter) -> Iterator[Record]:
        return reason(counter.over(records), backend, llm, thinking, output)

    return run_step(STEP, KEY, common, settings, produce, tokens_field="trajectory_tokens", status=backend.status)


def reason(captions: Iterable[Record], backend: Backend, model: str, thinking: Thinking, output: Output) -> Iterator[Record]:
    """N records a caption, each with one trajectory; records that failed before are passed on."""

    def finish(job: Job, completion: Completion) -> Record:
        fields = {
            **job.ids,
            "trajectory": completion.text,
            "reason_model": model,
            "trajectory_tokens": completion.tokens,
            "finish_reason": completion.finish,
        }
        return Record({**job.record, **fields}, where_of(job.record))

    return sample(_jobs(captions, thinking, output), backend, finish)


def _jobs(captions: Iterable[Record], thinking: Thinking, output: Output) -> Iterator[Job | Record]:
    for record in captions:
        if has_failed(record):
            yield record
            continue
        try:
            name = need_text(record, "caption_id", MADE_BY)
        except RecordError as error:
            yield failed(record, str(error), {})
            continue
        try:
            messages = reasoning_request(record, thinking.prompt)
        except RecordError as error:
            yield from (failed(record, str(error), _ids(name, number, thinking)) for number in range(thinking.n))
            continue
        for number in range(thinking.n):
            ids = _ids(name, number, thinking)
            if not output.take_done(ids["trajectory_id"]):
                seed = sample_seed(thinking.seed, f"{name}/{thinking.tag}" if thinking.tag else name, number)
                yield Job(record, ids, Request(messages, thinking.sampling, seed))


def _ids(caption: str, number: int, thinking: Thinking) -> dict[str, Any]:
    return {"trajectory_id": trajectory_id(caption, number, thinking.tag), "trajectory_count": thinking.n}


def reasoning_request(record: Record, prompt: str) -> list[dict[str, Any]]:
    """The chat x̂_q: the prompt with `{question}` and `{caption}` filled in. Raises RecordError."""
    values = {"question": question_text(record), "caption": need_text(record, "caption", MADE_BY, empty=True)}
    return [{"role": "user", "content": fill(prompt, values)}]
