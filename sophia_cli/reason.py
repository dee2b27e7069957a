"""Step 2, off-policy: a text-only reasoner thinks over a description as if it saw the image (method.md, step 2).

For each caption N trajectories, y ~ π̄(· | x̂_q), where x̂_q is the prompt filled with the question and the caption.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sophia_cli import registry
from sophia_cli.errors import RecordError, UsageError
from sophia_cli.frame import Common, Counter, run_step
from sophia_cli.output import Output
from sophia_cli.place import Place
from sophia_cli.prompts import chosen_prompt, fill, question_text
from sophia_cli.records import Record, failed, has_failed, need_text, sample_seed, trajectory_id, where_of
from sophia_cli.sampling import Backend, Completion, Job, Request, Sampling, sample, show_plan
from sophia_cli.streams import read_records
from sophia_cli.verifiers._verdict import Verify
from sophia_cli.waves import Plan, Tally, Waves, allowed_failures

STEP, KEY = "reason", "trajectory_id"
LONGEST = 32768
"""The paper's longest trajectory, in tokens."""
BLANKS = ("question", "caption")
MADE_BY = "`sophia caption` writes it"


@dataclass(frozen=True)
class Thinking:
    """What makes the trajectories of a caption: how many, how they are asked for and drawn, and the tag in their ids.

    stop_alpha: the α of early stop (waves.py); None samples all of them.
    """

    n: int
    prompt: str
    sampling: Sampling
    seed: int
    tag: str | None = None
    stop_alpha: float | None = None


def run(
    common: Common,
    files: list[str],
    llm: str,
    n: int,
    sampling: Sampling,
    prompt_file: Path | None,
    tag: str | None,
    stop_alpha: float | None,
    place: Place,
) -> int:
    """`sophia reason`: reads captions, samples with the reasoner, writes records. Returns the exit code."""
    chosen = place.resolve(llm)
    backend = place.backend(chosen)
    sampling = sampling.with_defaults(chosen, STEP, LONGEST)
    if tag is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", tag):
        raise UsageError(f"--tag {tag}: use letters, digits, - and _, as in r1")
    prompt = chosen_prompt(prompt_file, STEP, chosen.prompts, BLANKS)
    thinking = Thinking(n, prompt, sampling, common.seed, tag, stop_alpha)
    if stop_alpha is not None:
        allowed_failures(stop_alpha, n)
    records = common.part.take(read_records(files), common.limit)
    if common.dry_run:
        return show_plan(STEP, _jobs(records, thinking, Output(KEY, None)), chosen, sampling, {"N": n})
    settings = {**chosen.identity, "prompt": prompt, "n": n, "tag": tag, "stop_alpha": stop_alpha, **sampling.settings()}
    tally, earlier = Tally(), Earlier()

    def produce(output: Output, counter: Counter) -> Iterator[Record]:
        rewards = earlier.taken()
        return reason(counter.over(records), backend, llm, thinking, output, tally, rewards)

    return run_step(
        STEP,
        KEY,
        common,
        settings,
        produce,
        tokens_field="trajectory_tokens",
        observe=earlier.note if stop_alpha is not None else lambda record: None,
        backend=backend,
        report=lambda: {} if stop_alpha is None else {"early_stop": tally.figures()},
    )


def reason(
    captions: Iterable[Record],
    backend: Backend,
    model: str,
    thinking: Thinking,
    output: Output,
    tally: Tally,
    earlier: dict[str, float | None],
) -> Iterator[Record]:
    """N records a caption, each with one trajectory; fewer with early stop. Records that failed before are passed on.

    earlier: the rewards of the trajectories that an earlier run has written, for early stop. tally: what it spared.
    """

    def finish(job: Job, completion: Completion) -> Record:
        fields = {
            **job.ids,
            "trajectory": completion.text,
            "reason_model": model,
            "trajectory_tokens": completion.tokens,
            "finish_reason": completion.finish,
        }
        return Record({**job.record, **fields}, where_of(job.record))

    if thinking.stop_alpha is None:
        return sample(_jobs(captions, thinking, output), backend, finish)
    waves = Waves(thinking.stop_alpha, thinking.n, reward_of, finish, tally)
    return waves.stream(_plans(captions, thinking, output, earlier), backend)


def reward_of(record: Record) -> float | None:
    """R(y) of a trajectory, by the rules of `grade` and its limit of time. Raises RecordError."""
    verify: Verify = registry.find("verifiers", "rules").verify
    return verify(record["trajectory"], record, truncated=record["finish_reason"] == "length").reward


@dataclass
class Earlier:
    """The rewards of the trajectories that an earlier run has written; what this run writes is none of its business."""

    rewards: dict[str, float | None] = field(default_factory=dict)
    begun: bool = False

    def note(self, record: Record) -> None:
        """Grades a record that is kept."""
        if not self.begun:
            try:
                self.rewards[record[KEY]] = reward_of(record)
            except RecordError:
                self.rewards[record[KEY]] = None

    def taken(self) -> dict[str, float | None]:
        """What has been noted; nothing is noted from now on."""
        self.begun = True
        return self.rewards


def _jobs(captions: Iterable[Record], thinking: Thinking, output: Output) -> Iterator[Job | Record]:
    """The jobs of all captions that are not done yet, and the records of those that cannot be asked about."""
    for record in captions:
        for job in _all_of(record, thinking):
            if isinstance(job, Record) or not output.take_done(job.ids[KEY]):
                yield job


def _plans(
    captions: Iterable[Record], thinking: Thinking, output: Output, earlier: dict[str, float | None]
) -> Iterator[Plan | Record]:
    """The same, caption by caption, with the rewards of what is done."""
    for record in captions:
        whole = _all_of(record, thinking)
        jobs = [job for job in whole if isinstance(job, Job)]
        yield from (failure for failure in whole if isinstance(failure, Record))
        if jobs:
            names = {number: job.ids[KEY] for number, job in enumerate(jobs)}
            done = {number: earlier.get(name) for number, name in names.items() if output.take_done(name)}
            yield Plan(jobs, done)


def _all_of(record: Record, thinking: Thinking) -> Sequence[Job | Record]:
    """The N jobs of a caption; instead of them, the failures of one that failed before or cannot be asked about."""
    if has_failed(record):
        return [record]
    try:
        name = need_text(record, "caption_id", MADE_BY)
    except RecordError as error:
        return [failed(record, str(error), {})]
    try:
        messages = reasoning_request(record, thinking.prompt)
    except RecordError as error:
        return [failed(record, str(error), _ids(name, number, thinking)) for number in range(thinking.n)]
    tagged = f"{name}/{thinking.tag}" if thinking.tag else name
    return [
        Job(record, _ids(name, n, thinking), Request(messages, thinking.sampling, sample_seed(thinking.seed, tagged, n)))
        for n in range(thinking.n)
    ]


def _ids(caption: str, number: int, thinking: Thinking) -> dict[str, Any]:
    return {"trajectory_id": trajectory_id(caption, number, thinking.tag), "trajectory_count": thinking.n}


def reasoning_request(record: Record, prompt: str) -> list[dict[str, Any]]:
    """The chat x̂_q: the prompt with `{question}` and `{caption}` filled in. Raises RecordError."""
    values = {"question": question_text(record), "caption": need_text(record, "caption", MADE_BY, empty=True)}
    return [{"role": "user", "content": fill(prompt, values)}]
