"""Same problem?"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sophia_cli.decontamination.benchmark_index import STEP, Benchmark, Checked
from sophia_cli.decontamination.overlap import Near
from sophia_cli.inference.backend_options import BackendOptions, LazyBackend
from sophia_cli.inference.sampler import complete_in_order
from sophia_cli.inference.types import Completion, Failure, Job, Request, SamplingParams
from sophia_cli.judge.prompts_and_parsing import last_word
from sophia_cli.prompts import fill, load_prompt
from sophia_cli.records import Record, record_name, sample_seed
from sophia_cli.runtime.progress import log_line

LONGEST = 4096
"""Tokens that a judge may think and answer in."""


SHOWN = 4000
"""Characters of a question that a judge is shown."""


MOST_ASKED = 8
"""Overlaps of one item that a judge is asked about."""


@dataclass(frozen=True)
class Judge:
    """Who is asked whether two questions are one problem."""

    backend: LazyBackend
    prompt: str
    sampling: SamplingParams
    seed: int


def _judge(name: str, seed: int, place: BackendOptions) -> tuple[Judge, dict[str, Any]]:
    """The judge, and what of it makes the records what they are."""
    model = place.resolve_model(name)
    prompt = load_prompt("same_problem", model.prompts)
    sampling = SamplingParams(temperature=0.0).with_defaults(model, "judge", LONGEST)
    settings = {"judge": model.identity, "judge_prompt": prompt, "judge_sampling": sampling.manifest_settings()}
    return Judge(place.make_backend(model), prompt, sampling, seed), settings


def by_judge(checked: Iterable[Checked], judge: Judge, benchmark: Benchmark) -> Iterator[Checked]:
    """The same in order, with what the judge says to the greatest overlaps of words; the same question needs no judge.

    Where it fails an overlap stands: to drop too much is the safe side.
    """

    def asked() -> Iterator[tuple[Checked, Near | None]]:
        for each in checked:
            yield from ((each, near) for near in each.doubtful()[:MOST_ASKED])
            yield each, None

    def job(pair: tuple[Checked, Near | None]) -> Job | None:
        each, near = pair
        if near is None:
            return None
        _, other = benchmark.items[near.number]
        text = fill(judge.prompt, {"question": _shown(each.record), "other": _shown(other)})
        request = Request([{"role": "user", "content": text}], judge.sampling, sample_seed(judge.seed, text, 0))
        return Job(each.record, {}, request)

    def finish(pair: tuple[Checked, Near | None], outcome: Completion | Failure | None) -> tuple[Checked, Near | None]:
        each, near = pair
        if isinstance(outcome, Failure):
            log_line(f"{STEP}: {record_name(each.record)}: the judge failed ({outcome.error}); its overlap stands")
        if near is not None and isinstance(outcome, Completion):
            each.verdicts[near.number] = {"same": "same", "different": "different"}.get(last_word(outcome.text), "unsure")
        return pair

    for each, near in complete_in_order(asked(), job, judge.backend, finish):
        if near is None:
            each.settle()
            yield each


def _shown(item: Record) -> str:
    """The beginning of a question with its options, without what could close the marks it stands in."""
    choices = item.get("choices")
    options = "\n".join(map(str, choices)) if isinstance(choices, list) else ""
    return re.sub(r"</?(?:first|second)>", "", f"{item.get('question') or ''}\n{options}".strip()[:SHOWN])
