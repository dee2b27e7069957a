"""Drops training items that overlap a benchmark: `sophia decontaminate FILE --against BENCH.jsonl`.

As in the paper (method.md), items overlap by words of the question, and a language model may check these pairs
(`--judge`). We also compare images. Every pair is reported; the other records are written unchanged.
"""

from collections.abc import Iterator
from pathlib import Path

from sophia_cli.decontamination.benchmark_index import REQUIRED_FIELDS, STEP, BenchmarkIndex, OverlapRules
from sophia_cli.decontamination.report import DropCounts, OverlapReport
from sophia_cli.errors import UsageError
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.jsonl import read_records
from sophia_cli.io.paths import check_side_files
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.judge.same_problem import apply_same_problem_judge, make_same_problem_judge
from sophia_cli.records import Record, error_record
from sophia_cli.runtime.progress import log_line
from sophia_cli.steps._common import StepOptions, plain_settings
from sophia_cli.steps._runner import run_step


def run(
    options: StepOptions,
    files: list[str],
    against: list[str],
    rules: OverlapRules,
    report: Path | None,
    judge_model: str | None,
    backend_options: BackendOptions,
) -> int:
    """`sophia decontaminate`: reads records, writes those that overlap no benchmark. Returns the exit code."""
    if rules.match not in REQUIRED_FIELDS:
        raise UsageError(f"--match {rules.match}: choose from {', '.join(REQUIRED_FIELDS)}")
    if "-" in files and "-" in against:
        raise UsageError("--against -: stdin already holds the records; give the benchmark as a file")
    _check_report_file(report, options, [*files, *against])
    judge, judged_by = (
        (None, {}) if judge_model is None else make_same_problem_judge(judge_model, options.seed, backend_options)
    )
    benchmark = BenchmarkIndex(against, rules)
    if options.dry_run:
        against_items = f"{len(benchmark.items)} items of {', '.join(against)}"
        log_line(f"{STEP}: {plain_settings(vars(rules))}; against {against_items}; no record read")
        return 0
    tally = DropCounts()
    settings = {**vars(rules), "against": against, **judged_by}

    def produce(output: RecordWriter, counter: RecordCounter) -> Iterator[Record]:
        records = counter.count_records(options.parsed_shard.take(read_records(files), options.limit))
        checked = benchmark.check_records(records)
        with OverlapReport(report, benchmark) as overlap_report:
            for each in checked if judge is None else apply_same_problem_judge(checked, judge, benchmark):
                if each.fault:
                    yield error_record(each.record, each.fault, {})
                    continue
                pairs = each.overlaps(rules.match)
                overlap_report.report_record(each, pairs)
                tally.count_pairs(pairs)
                if not pairs:
                    yield each.record
        output.failed += benchmark.unreadable

    backend = judge.backend if judge else None
    code = run_step(
        STEP,
        "id",
        options,
        settings,
        produce,
        inputs=[*files, *against],
        rewrite=True,
        backend=backend,
        report=tally.to_manifest,
    )
    log_line(tally.summary_line(rules), options.quiet)
    return code


def _check_report_file(report: Path | None, options: StepOptions, inputs: list[str]) -> None:
    """Checks the file of `--report`.

    Raises:
        UsageError: it would overwrite an input or the output.
    """
    check_side_files([report], inputs, (options.out, options.tee))
    if report and any(Path(source).is_dir() and Path(source).resolve() in report.resolve().parents for source in inputs):
        raise UsageError(f"--report {report}: is inside a folder that is read; choose another file")
