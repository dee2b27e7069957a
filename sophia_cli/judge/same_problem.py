"""Same problem?"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sophia_cli.decontamination.benchmark_index import STEP, BenchmarkIndex, CheckedRecord
from sophia_cli.decontamination.overlap import Overlap
from sophia_cli.inference.backend_options import BackendOptions, LazyBackend
from sophia_cli.inference.sampler import complete_in_order
from sophia_cli.inference.types import Completion, Failure, Job, Request, SamplingParams
from sophia_cli.judge.prompts_and_parsing import verdict_word
from sophia_cli.prompts import fill_template, load_prompt
from sophia_cli.records import Record, record_name, sample_seed
from sophia_cli.runtime.progress import log_line

MAX_JUDGE_TOKENS = 4096
"""Tokens that a judge may think and answer in."""


MAX_SHOWN_CHARS = 4000
"""Characters of a question that a judge is shown."""


MAX_ASKED = 8
"""Overlaps of one item that a judge is asked about."""


@dataclass(frozen=True)
class SameProblemJudge:
    """Who is asked whether two questions are one problem."""

    backend: LazyBackend
    prompt: str
    sampling: SamplingParams
    seed: int


def make_same_problem_judge(name: str, seed: int, place: BackendOptions) -> tuple[SameProblemJudge, dict[str, Any]]:
    """The judge, and what of it makes the records what they are."""
    model = place.resolve_model(name)
    prompt = load_prompt("same_problem", model.prompt_style)
    sampling = SamplingParams(temperature=0.0).with_defaults(model, "judge", MAX_JUDGE_TOKENS)
    settings = {"judge": model.identity, "judge_prompt": prompt, "judge_sampling": sampling.manifest_settings()}
    return SameProblemJudge(place.make_backend(model), prompt, sampling, seed), settings


def apply_same_problem_judge(
    checked: Iterable[CheckedRecord], judge: SameProblemJudge, benchmark: BenchmarkIndex
) -> Iterator[CheckedRecord]:
    """The same in order, with what the judge says to the greatest overlaps of words; the same question needs no judge.

    Where it fails an overlap stands: to drop too much is the safe side.
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
            log_line(f"{STEP}: {record_name(each.record)}: the judge failed ({outcome.error}); its overlap stands")
        if near is not None and isinstance(outcome, Completion):
            each.verdicts[near.number] = {"same": "same", "different": "different"}.get(verdict_word(outcome.text), "unsure")
        return pair

    for each, near in complete_in_order(asked(), job, judge.backend, finish):
        if near is None:
            each.extend_verdicts()
            yield each


def _shown_question(item: Record) -> str:
    """The beginning of a question with its options, without what could close the marks it stands in."""
    choices = item.get("choices")
    options = "\n".join(map(str, choices)) if isinstance(choices, list) else ""
    return re.sub(r"</?(?:first|second)>", "", f"{item.get('question') or ''}\n{options}".strip()[:MAX_SHOWN_CHARS])
