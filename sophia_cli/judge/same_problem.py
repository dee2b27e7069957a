"""A model that says whether two questions are the same problem, for `decontaminate --judge`."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sophia_cli.decontamination.benchmark_index import STEP, BenchmarkIndex, CheckedRecord
from sophia_cli.decontamination.overlap import Overlap
from sophia_cli.errors import RecordError
from sophia_cli.inference.backend_options import BackendOptions, LazyBackend
from sophia_cli.inference.sampler import complete_in_order
from sophia_cli.inference.types import Completion, Failure, Job, Request, SamplingParams
from sophia_cli.judge.prompts_and_parsing import verdict_word
from sophia_cli.prompts import fill_template, load_prompt
from sophia_cli.records import Record, choices_of, record_name, sample_seed
from sophia_cli.runtime.progress import log_line

MAX_JUDGE_TOKENS = 4096
"""Tokens for the judge's thinking and answer."""


MAX_SHOWN_CHARS = 4000
"""Characters of a question that the judge sees."""


MAX_ASKED = 8
"""Overlaps of one item that the judge is asked about."""


@dataclass(frozen=True)
class SameProblemJudge:
    """The judge: its backend, prompt, sampling and seed."""

    backend: LazyBackend
    prompt: str
    sampling: SamplingParams
    seed: int


def make_same_problem_judge(
    name: str, seed: int, backend_options: BackendOptions
) -> tuple[SameProblemJudge, dict[str, Any]]:
    """Returns the judge, and the settings that identify its records."""
    model = backend_options.resolve_model(name)
    prompt = load_prompt("same_problem", model.prompt_style)
    sampling = SamplingParams(temperature=0.0).with_defaults(model, "judge", MAX_JUDGE_TOKENS)
    settings = {"judge": model.identity, "judge_prompt": prompt, "judge_sampling": sampling.manifest_settings()}
    return SameProblemJudge(backend_options.make_backend(model), prompt, sampling, seed), settings


def apply_same_problem_judge(
    checked: Iterable[CheckedRecord], judge: SameProblemJudge, benchmark: BenchmarkIndex
) -> Iterator[CheckedRecord]:
    """Yields the records in order with the judge's verdict on their largest text overlaps. Identical questions need no
    judge.

    If the judge fails, the overlap stays: dropping too much is the safe side.
    """

    def asked() -> Iterator[tuple[CheckedRecord, Overlap | None]]:
        for each in checked:
            yield from ((each, near) for near in each.uncertain()[:MAX_ASKED])
            yield each, None

    def job(pair: tuple[CheckedRecord, Overlap | None]) -> Job | None:
        each, near = pair
        if near is None:
            return None
        _, other = benchmark.items[near.number]
        text = fill_template(judge.prompt, {"question": _shown_question(each.record), "other": _shown_question(other)})
        request = Request([{"role": "user", "content": text}], judge.sampling, sample_seed(judge.seed, text, 0))
        return Job(each.record, {}, request)

    def finish(
        pair: tuple[CheckedRecord, Overlap | None], outcome: Completion | Failure | None
    ) -> tuple[CheckedRecord, Overlap | None]:
        each, near = pair
        if isinstance(outcome, Failure):
            log_line(f"{STEP}: {record_name(each.record)}: the judge failed ({outcome.error}); the overlap stays")
        if near is not None and isinstance(outcome, Completion):
            each.verdicts[near.number] = {"same": "same", "different": "different"}.get(verdict_word(outcome.text), "unsure")
        return pair

    for each, near in complete_in_order(asked(), job, judge.backend, finish):
        if near is None:
            each.extend_verdicts()
            yield each


def _shown_question(item: Record) -> str:
    """Returns the beginning of a question with its options, without anything that could close its delimiters."""
    try:
        options = "\n".join(choices_of(item))
    except RecordError:  # the steps that ask the question name it
        options = ""
    return re.sub(r"</?(?:first|second)>", "", f"{item.get('question') or ''}\n{options}".strip()[:MAX_SHOWN_CHARS])
