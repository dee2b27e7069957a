"""Step 6: what a model answers to held-out questions, and how often it is right, with a 95% interval.

As the paper evaluates: the slow-thinking system prompt always, temperature 1.0, top-p 0.8; n samples a question.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sophia_cli import registry
from sophia_cli.errors import RecordError, UsageError
from sophia_cli.frame import Common, Counter, run_step
from sophia_cli.output import Output
from sophia_cli.place import Place
from sophia_cli.progress import console
from sophia_cli.prompts import load_prompt, question_text
from sophia_cli.records import (
    THINK_CLOSE,
    THINK_OPEN,
    Record,
    failed,
    has_failed,
    image_list,
    sample_id,
    sample_seed,
    where_of,
)
from sophia_cli.sampling import Backend, Completion, Job, Request, Sampling, sample, show_plan
from sophia_cli.sources import count_items, read_items
from sophia_cli.streams import write_json
from sophia_cli.verifiers._verdict import Verify

STEP, KEY = "eval", "sample_id"
LONGEST = 16384
"""The paper's longest answer at evaluation, in tokens."""
Z95 = 1.959964


def run(common: Common, model: str, source: str, n: int, sampling: Sampling, summary_file: Path | None, place: Place) -> int:
    """`sophia eval`: asks, judges, writes records, and prints the accuracy on stderr. Returns the exit code."""
    chosen = place.resolve(model)
    backend = place.backend(chosen)
    sampling = sampling.with_defaults(chosen, STEP, LONGEST)
    system = load_prompt("slow_thinking", chosen.prompts)
    benchmark = Path(source).name if Path(source).exists() else source
    items = common.part.take(read_items(source), common.limit)
    if common.dry_run:
        return show_plan(
            STEP,
            _jobs(items, system, n, sampling, common.seed, benchmark, Output(KEY, None)),
            chosen,
            sampling,
            {"n": n},
        )
    if summary_file and summary_file in (common.out, common.tee):
        raise UsageError(f"--summary {summary_file}: the records go there; choose another file")
    settings = {**chosen.identity, "data": source, "system": system, "n": n, **sampling.settings()}
    verify: Verify = registry.find("verifiers", "rules").verify
    summary = Summary()

    def produce(output: Output, counter: Counter) -> Iterator[Record]:
        return evaluate(counter.over(items), backend, verify, system, n, sampling, common.seed, benchmark, output)

    total = common.expected(count_items(source), n)
    code = run_step(
        STEP,
        KEY,
        common,
        settings,
        produce,
        total,
        tokens_field="response_tokens",
        observe=summary.add,
        backend=backend,
    )
    figures = {"model": model, "benchmark": benchmark, **summary.figures(), "settings": {**settings, "seed": common.seed}}
    if not common.quiet:
        show(figures)
    if summary_file:
        write_json(summary_file, figures)
    return code


def evaluate(
    items: Iterable[Record],
    backend: Backend,
    verify: Verify,
    system: str,
    n: int,
    sampling: Sampling,
    seed: int,
    benchmark: str,
    output: Output,
) -> Iterator[Record]:
    """n records a question, each with one answer and its verdict."""

    def finish(job: Job, completion: Completion) -> Record:
        verdict = verify(completion.text, job.record, truncated=completion.finish == "length")
        fields: dict[str, Any] = {
            **job.ids,
            "response": completion.text,
            "response_tokens": completion.tokens,
            "finish_reason": completion.finish,
            "extracted": verdict.extracted,
            "verdict": verdict.verdict,
            "verified_by": verdict.verified_by,
            "reward": verdict.reward,
        }
        return Record({**job.record, **fields}, where_of(job.record))

    return sample(_jobs(items, system, n, sampling, seed, benchmark, output), backend, finish)


def _jobs(
    items: Iterable[Record], system: str, n: int, sampling: Sampling, seed: int, benchmark: str, output: Output
) -> Iterator[Job | Record]:
    for item in items:
        ids = [{"sample_id": sample_id(item["id"], number), "benchmark": benchmark} for number in range(n)]
        try:
            if has_failed(item):
                raise RecordError(item["error"])
            messages = answer_request(item, system)
        except RecordError as error:
            yield from (failed(item, str(error), own) for own in ids)
            continue
        for number, own in enumerate(ids):
            if not output.take_done(own["sample_id"]):
                yield Job(item, own, Request(messages, sampling, sample_seed(seed, item["id"], number)))


def answer_request(item: Record, system: str) -> list[dict[str, Any]]:
    """The chat that asks the question. Raises RecordError when question or gold answer is missing."""
    text = question_text(item)
    if item.get("answer") is None:
        raise RecordError(f"{where_of(item)}: field `answer` is missing; give the gold answer in the source")
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in image_list(item)]
    content.append({"type": "text", "text": text})
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


@dataclass
class Summary:
    """Counts the verdicts of an evaluation by question."""

    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    verdicts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tokens: int = 0
    thinking: int = 0
    failed: int = 0

    def add(self, record: Record) -> None:
        """Takes one record of `evaluate`."""
        if has_failed(record):
            self.failed += 1
            return
        self.verdicts[record["verdict"]] += 1
        self.tokens += record["response_tokens"]
        self.thinking += record["response"].lstrip().startswith(THINK_OPEN) and THINK_CLOSE in record["response"]
        if record["reward"] is not None:
            self.scores[record["id"]].append(float(record["reward"]))

    def figures(self) -> dict[str, Any]:
        """Accuracy and its 95% interval over graded samples, shares of the rest. Null where nothing was graded.

        accuracy: mean over samples, unreadable answers wrong. ci95: mean ± 1.96 standard errors clustered by question
        (Miller, arXiv 2411.00640, with C/(C−1)), cut to [0, 1]. n: graded samples. unreadable: share without a final
        answer. thinking: share that thinks in the tags.
        """
        samples = sum(self.verdicts.values())
        graded = [score for scores in self.scores.values() for score in scores]
        mean = sum(graded) / len(graded) if graded else None
        return {
            "accuracy": mean,
            "ci95": _interval(mean, list(self.scores.values())) if mean is not None else None,
            "n": len(graded),
            "questions": len(self.scores),
            "unreadable": (self.verdicts["no_answer"] + self.verdicts["truncated"]) / samples if samples else None,
            "thinking": self.thinking / samples if samples else None,
            "mean_tokens": self.tokens / samples if samples else None,
            "failed": self.failed,
            "verdicts": dict(sorted(self.verdicts.items())),
        }


def _interval(mean: float, clusters: list[list[float]]) -> list[float]:
    """The 95% interval; Wilson's over the questions where all agree, since no spread does not mean no doubt."""
    count, samples = len(clusters), sum(map(len, clusters))
    squares = sum(sum(score - mean for score in cluster) ** 2 for cluster in clusters)
    if squares == 0 or count < 2:
        centre, width = (mean + Z95**2 / (2 * count)), Z95 * math.sqrt(mean * (1 - mean) / count + (Z95 / (2 * count)) ** 2)
        low, high = ((centre + sign * width) / (1 + Z95**2 / count) for sign in (-1, 1))
    else:
        margin = Z95 * math.sqrt(count / (count - 1) * squares) / samples
        low, high = mean - margin, mean + margin
    return [max(0.0, low), min(1.0, high)]


def show(figures: dict[str, Any]) -> None:
    """The summary as a table on stderr."""
    from rich.table import Table

    table = Table(title=f"{figures['model']} on {figures['benchmark']}")
    for heading in ("accuracy", "95% interval", "graded", "unreadable", "thinks", "tokens", "failed"):
        table.add_column(heading, justify="right")
    if figures["accuracy"] is None:
        table.add_row("–", "–", "0", "–", "–", "–", str(figures["failed"]))
    else:
        low, high = figures["ci95"]
        shares = [f"{100 * figures[name]:.1f}%" for name in ("unreadable", "thinking")]
        cells = [f"{100 * figures['accuracy']:.1f}%", f"{100 * low:.1f}–{100 * high:.1f}%", str(figures["n"]), *shares]
        table.add_row(*cells, f"{figures['mean_tokens']:.0f}", str(figures["failed"]))
    console().print(table)
