"""`sophia eval`: asks the model held-out questions, grades the answers, and reports the accuracy.

Each question is asked n times. The answers are graded by the rules, and by a judge where `--judge` says so.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from sophia_cli.errors import SOME_FAILED, RecordError, UsageError
from sophia_cli.evaluation import audit, paper_results, report
from sophia_cli.evaluation.audit import AuditSample
from sophia_cli.evaluation.benchmark_items import EvalBenchmark
from sophia_cli.evaluation.metrics import BenchmarkMetrics, run_figures
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.inference.sampler import sample_records, show_plan
from sophia_cli.inference.types import Backend, Completion, Job, Request, SamplingParams
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.jsonl import write_json
from sophia_cli.io.paths import check_side_files, input_names
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.judge.answer_judge import AnswerJudge, apply_judge, is_multi_part, make_judge
from sophia_cli.prompts import chosen_prompt, question_text
from sophia_cli.prompts.image_marks import place_images
from sophia_cli.records import (
    JUDGE_FIELDS,
    Record,
    error_record,
    has_failed,
    image_list,
    record_name,
    sample_id,
    sample_seed,
    where_of,
)
from sophia_cli.runtime.progress import log_line, stderr_console
from sophia_cli.steps._common import StepOptions
from sophia_cli.steps._runner import run_step
from sophia_cli.verifier.types import VerifyFunction

STEP, ID_FIELD = "eval", "sample_id"
DEFAULT_MAX_TOKENS = 16384
"""The paper's longest answer at evaluation, in tokens."""


@dataclass(frozen=True)
class PromptConfig:
    """How questions are asked: the system prompt, n samples each, the sampling; a hint that replaces the benchmark's own."""

    system: str
    n: int
    sampling: SamplingParams
    seed: int
    hint: str | None = None


@dataclass(frozen=True)
class JudgeOptions:
    """The judge (`--judge`; None: rules only), where it runs, and whether it judges everything."""

    model: str | None
    everything: bool
    backend_options: BackendOptions

    def build_judge(self, seed: int) -> tuple[AnswerJudge | None, dict[str, Any]]:
        """Returns the judge, and the settings that identify its records.

        Raises:
            UsageError: an option does not fit.
        """
        if self.model is None:
            if self.everything:
                raise UsageError("--judge-all needs a judge; name one with --judge MODEL")
            return None, {}
        judge, settings = make_judge(self.model, self.everything, seed, self.backend_options)
        return judge, settings | {"judge_extract_prompt": judge.extract_prompt}


@dataclass(frozen=True)
class AuditOptions:
    """The auditor (`--audit`; None: no audit), where it runs, the number of answers, and the CSV file for a person."""

    model: str | None
    backend_options: BackendOptions
    size: int
    labels_csv: Path | None

    def build_auditor(self, seed: int) -> AnswerJudge | None:
        """Returns the judge of the audit.

        Raises:
            UsageError: an option does not fit.
        """
        if self.model is None:
            if self.labels_csv:
                raise UsageError("--labels-csv belongs to an audit; name the auditor with --audit MODEL")
            return None
        return make_judge(self.model, True, seed, self.backend_options, prompt="audit")[0]


@dataclass(frozen=True)
class ReportOptions:
    """Where the figures go: a JSON file, a Markdown file, more categories, the paper's results."""

    summary: Path | None = None
    model_card: Path | None = None
    by: tuple[str, ...] = ()
    paper: bool = False


def run(
    options: StepOptions,
    model: str,
    asked: list[EvalBenchmark],
    n: int,
    sampling: SamplingParams,
    prompt: Path | None,
    hint: str | None,
    judging: JudgeOptions,
    auditing: AuditOptions,
    reporting: ReportOptions,
    backend_options: BackendOptions,
) -> int:
    """`sophia eval`: asks, grades, writes records, and prints the accuracy to stderr. Returns the exit code."""
    chosen = backend_options.resolve_model(model)
    backend = backend_options.make_backend(chosen)
    system = chosen_prompt(prompt, "slow_thinking", chosen.prompt_style)
    asking = PromptConfig(system, n, sampling.with_defaults(chosen, STEP, DEFAULT_MAX_TOKENS), options.seed, hint)
    items = options.parsed_shard.take(chain.from_iterable(benchmark.read_items() for benchmark in asked), options.limit)
    if options.dry_run:
        return show_plan(STEP, _make_jobs(items, asking, RecordWriter(ID_FIELD, None)), chosen, asking.sampling, {"n": n})
    sources, sheet = input_names(*(benchmark.source for benchmark in asked), prompt), auditing.labels_csv
    beside = (reporting.summary, reporting.model_card, sheet, sheet and audit.judge_labels_file(sheet))
    check_side_files(beside, sources, (options.out, options.tee))
    if sheet and not options.force:
        audit.check_not_labeled(sheet)
    judge, judged_by = judging.build_judge(options.seed)
    auditor, drawn = auditing.build_auditor(options.seed), AuditSample(auditing.size, options.seed)
    judged = frozenset(benchmark.name for benchmark in asked if benchmark.is_llm_judged or judging.everything)
    if judge is None and judged:
        log_line(
            f"eval: in the paper a model judged {', '.join(sorted(judged))}; here the rules do (use --judge MODEL)",
            options.quiet,
        )
    settings = {**chosen.identity, **backend_options.manifest_settings(), **_identity_settings(asked, asking), **judged_by}
    from sophia_cli.verifier import verify

    tallies = {benchmark.name: BenchmarkMetrics((*benchmark.category_fields, *reporting.by)) for benchmark in asked}

    def asks(record: Record) -> bool:
        """The judge is asked about what rules left open, and where the paper asked one; what was cut off holds no answer."""
        return record["reward"] is None or (record["benchmark"] in judged and record["verdict"] != "truncated")

    def produce(output: RecordWriter, counter: RecordCounter) -> Iterator[Record]:
        records = sample_answers(counter.count_records(items), backend, verify, asking, output)
        return records if judge is None else apply_judge(records, judge, asks, verify)

    def observe(record: Record) -> None:
        tallies[record["benchmark"]].add_record(record)
        if auditor:
            drawn.add_record(record)

    with judge.backend if judge else contextlib.nullcontext():
        code = run_step(
            STEP,
            ID_FIELD,
            options,
            settings,
            produce,
            total=options.expected_records(_question_count(asked), n),
            tokens_field="response_tokens",
            on_record=observe,
            backend=backend,
            inputs=sources,
        )
    figures: dict[str, Any] = {**run_figures(model, tallies), "settings": {**settings, "seed": options.seed}}
    _print_report(figures, reporting, options.quiet)
    if auditor is None:
        return code
    figures["audit"], failures = _run_audit(auditor, drawn.drawn_records, auditing.labels_csv)
    if not options.quiet:
        console = stderr_console()
        console.print(report.audit_table(figures, console.width))
    _write_report(figures, reporting)
    return code or (SOME_FAILED if failures else 0)


def _identity_settings(asked: list[EvalBenchmark], asking: PromptConfig) -> dict[str, Any]:
    """Returns the settings of the questions and prompts that identify the records."""
    data = ",".join(benchmark.source or benchmark.name for benchmark in asked)
    found = {"data": data, "system": asking.system, "n": asking.n, **asking.sampling.manifest_settings()}
    if asking.hint is not None:
        found["hint"] = asking.hint
    if any(benchmark.prefixed for benchmark in asked):
        found["benchmarks"] = [benchmark.name for benchmark in asked]
    return found


def _question_count(asked: list[EvalBenchmark]) -> int | None:
    """Returns the number of all questions, if known beforehand."""
    counts = [benchmark.count_questions() for benchmark in asked]
    return None if None in counts else sum(count for count in counts if count is not None)


def _run_audit(auditor: AnswerJudge, records: list[Record], sheet: Path | None) -> tuple[dict[str, Any], int]:
    """Returns the shares of faults that the auditor finds in the sampled answers, and how often it failed.

    A CSV file with the same answers is written for a person, if requested.
    """
    with auditor.backend:
        said = list(audit.audit_records(records, auditor))
    lost = [each for each in said if has_failed(each)]
    for each in lost:
        log_line(f"eval: {record_name(each)} is not audited: {each['error']}")
    labels = {str(each["sample_id"]): {fault: each.get(fault) for fault in audit.FAULTS} for each in said}
    if sheet:
        audit.write_labels_csv(sheet, records, labels)
        log_line(f"eval: {len(records)} answers are in {sheet}: fill in yes or no, then run `sophia agreement {sheet}`")
    return {"judge": auditor.name, **audit.fault_shares(labels.values())}, len(lost)


def _print_report(figures: dict[str, Any], reporting: ReportOptions, quiet: bool) -> None:
    if not quiet:
        console = stderr_console()
        for table in report.report_tables(figures, console.width):
            console.print(table)
        if reporting.paper:
            console.print(paper_results.comparison_table(figures, console.width))
    _write_report(figures, reporting)


def _write_report(figures: dict[str, Any], reporting: ReportOptions) -> None:
    if reporting.summary:
        write_json(reporting.summary, {**figures, "paper": paper_results.PAPER_MEANS} if reporting.paper else figures)
    if reporting.model_card:
        report.write_model_card(
            reporting.model_card, figures, paper_results.comparison_rows(figures) if reporting.paper else []
        )


def sample_answers(
    items: Iterable[Record], backend: Backend, verify: VerifyFunction, asking: PromptConfig, output: RecordWriter
) -> Iterator[Record]:
    """Yields n records per question, each with one answer and the rules' verdict."""

    def finish(job: Job, completion: Completion) -> Record:
        verdict = verify(completion.text, job.record, truncated=completion.finish_reason == "length")
        # Rules compare only the whole. Counting only what they find right would make every graded answer right.
        if is_multi_part(job.record) and verdict.verdict in ("correct", "wrong"):
            verdict = replace(verdict, verdict="ungradable", verified_by="several parts")
        fields: dict[str, Any] = {
            **job.ids,
            "response": completion.text,
            "response_tokens": completion.tokens,
            "finish_reason": completion.finish_reason,
            "extracted": verdict.extracted,
            "verdict": verdict.verdict,
            "verified_by": verdict.verified_by,
            "reward": verdict.reward,
        }
        asked = {name: value for name, value in job.record.items() if name not in JUDGE_FIELDS}  # of an earlier run
        return Record({**asked, **fields}, where_of(job.record))

    return sample_records(_make_jobs(items, asking, output), backend, finish, keeps_empty=True)


def _make_jobs(items: Iterable[Record], asking: PromptConfig, output: RecordWriter) -> Iterator[Job | Record]:
    for item in items:
        ids = [{"sample_id": sample_id(item["id"], number)} for number in range(asking.n)]
        try:
            if has_failed(item):
                raise RecordError(item["error"])
            messages = answer_request(item, asking.system, asking.hint)
        except RecordError as error:
            yield from (error_record(item, str(error), own) for own in ids)
            continue
        for number, own in enumerate(ids):
            if not output.skip_finished(own["sample_id"]):
                yield Job(item, own, Request(messages, asking.sampling, sample_seed(asking.seed, item["id"], number)))


def answer_request(item: Record, system: str, hint: str | None = None) -> list[dict[str, Any]]:
    """Returns the chat that asks the question, with its images where their marks are.

    Args:
        item: The item.
        system: The system prompt.
        hint: Replaces the item's own.

    Raises:
        RecordError: the question or the gold answer is missing.
    """
    text = question_text(item if hint is None else {**item, "hint": hint})
    if item.get("answer") is None:
        raise RecordError(f"{where_of(item)}: field `answer` is missing; give the gold answer in the source")
    content = place_images(text, image_list(item), where_of(item))
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]
