"""Writes trajectories in the formats of other trainers: `sophia export FILE --to
trl|trl-preference|llamafactory|swift|verl|…`.

It writes the records with a weight or, before propagation, those that Eq. 6 keeps; for preference data, pairs of
graded trajectories. The caption is not part of the prompt (Eq. 7). Each format is one file of `exporters/`.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sophia_cli.errors import SOME_FAILED, InputError, RecordError, SophiaError, UsageError
from sophia_cli.exporters._records import STEP, ExampleSource, ExportRequest, ReadOptions
from sophia_cli.exporters._writers import TableRows, remove_path, write_draft
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.manifest import MANIFEST_SUFFIX, Manifest
from sophia_cli.io.parquet import check_unicode
from sophia_cli.io.paths import check_output_file, check_output_folder
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.io.rereadable import copy_pipes
from sophia_cli.records import Record, error_record
from sophia_cli.runtime.progress import Progress, log_line
from sophia_cli.steps._common import StepOptions, plain_settings
from sophia_cli.steps._runner import run_step

IMAGE_MODES = ("path", "embed")


def run(options: StepOptions, files: list[str], asked: ExportRequest) -> int:
    """`sophia export`: reads records, writes what other trainers read. Returns the exit code."""
    exporter = asked.exporter
    if asked.images is not None and asked.images not in IMAGE_MODES:
        raise UsageError(f"--images {asked.images}: choose from {', '.join(IMAGE_MODES)}")
    if asked.images == "path" and not getattr(exporter, "ALLOWS_PATHS", True):
        raise UsageError(f"--to {asked.to}: its readers need the images inside the file; omit --images path")
    if asked.to == "openai-batch" and asked.model is None:
        raise UsageError("--to openai-batch: name the model with --model, as the provider does")
    if exporter.OUTPUT_KIND != "lines" and options.out is None:
        raise UsageError(f"--to {asked.to}: give an output with -o; this format is not a stream of lines")
    if exporter.OUTPUT_KIND != "lines":
        _check_destination(options, files)
    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        make = ExampleSource(
            copy_pipes(files, folder), asked, ReadOptions(options.parsed_shard, options.limit, options.seed, options.quiet)
        )
        if options.dry_run:
            return _show_plan(make, exporter)
        if exporter.OUTPUT_KIND == "lines":
            return _export_lines(make, options, asked, files)
        return _export_whole(make, options, asked, Path(folder))


def _export_lines(make: ExampleSource, options: StepOptions, asked: ExportRequest, files: list[str]) -> int:
    """Writes JSONL to stdout or a file."""

    def produce(output: RecordWriter, counter: RecordCounter) -> Iterator[Record]:
        for record, partner in make.kept_records(counter):
            try:
                yield Record(check_unicode(asked.exporter.row_fields(make.make_example(record, partner, table=False))))
            except RecordError as error:
                output.log_failure(error_record(record, str(error), {}))
        output.failed += make.log_failures()
        if not output.written:
            remedy = "check --alpha, or run `sophia stats`"
            if asked.to == "trl-preference":
                remedy = "an item needs both a correct and a wrong trajectory; `sophia stats` counts them"
            log_line(f"export: nothing was exported; {remedy}", options.quiet)

    return run_step(STEP, "id", options, _identity_settings(asked), produce, inputs=files, rewrite=True)


def _identity_settings(asked: ExportRequest) -> dict[str, Any]:
    return {
        "to": asked.to,
        "embed": asked.embed,
        "model": asked.model,
        "alpha": asked.alpha,
        "keep": asked.keep,
        "pairs": asked.pairs,
    }


def _show_plan(make: ExampleSource, exporter: ModuleType) -> int:
    first = next(make.kept_records(RecordCounter()), None)
    if first is None:
        log_line("export: there is nothing to export")
        return 0
    fields = exporter.row_fields(
        make.make_example(*first, table=exporter.OUTPUT_KIND in ("table", "hub"), reads_images=False)
    )
    asked, row = plain_settings(vars(make.request)), json.dumps(fields, indent=1, ensure_ascii=False)
    log_line(f"export: {asked}\n--- the first row, without its images\n{row}")
    return 0


def _export_whole(make: ExampleSource, options: StepOptions, asked: ExportRequest, folder: Path) -> int:
    """Writes a file or folder atomically: into a draft that replaces the destination at the end."""
    exporter, out = asked.exporter, options.out or Path()
    if options.tee:
        raise UsageError(f"--to {asked.to}: this format is not a stream of lines; use -o instead of --tee")
    manifest = Manifest(out, STEP, _identity_settings(asked) | {"seed": options.seed, "shard": str(options.parsed_shard)})
    counter, rows = RecordCounter(), TableRows(make, exporter.OUTPUT_KIND in ("table", "hub"), folder / "kept.jsonl")
    with Progress(STEP, quiet=options.quiet).display() as progress:
        rows.spool_records(counter)
        if not rows.count:
            raise InputError("nothing to export: no record is kept; check --alpha, or run `sophia stats`")
        if out.is_dir():
            rows.check_images_outside(out)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
                draft = Path(beside) / "draft"
                write_draft(exporter, rows, progress, draft)
                remove_path(out)
                os.replace(draft, out)
        except OSError as error:
            raise SophiaError(
                f"{out}: cannot be written ({error.strerror or error}); free disk space or choose another output with -o"
            ) from None
    bad = progress.failed + make.log_failures()
    manifest.save(finished=True, counts={"in": counter.count, "out": progress.done - progress.failed, "failed": bad})
    return SOME_FAILED if bad else 0


def _check_destination(options: StepOptions, files: list[str]) -> None:
    """Checks that the destination may be written.

    Raises:
        UsageError: something exists there that must not be replaced: an input, or what no export has made.
    """
    out = options.out or Path()
    if str(out) == "-" or not out.name or (out.exists() and not out.is_file() and not out.is_dir()):
        raise UsageError(f"{out}: cannot be a file or folder to write; name one with -o")
    if not out.exists():
        return
    if not options.force:
        raise UsageError(f"{out} exists; choose another output with -o, or --force to replace it")
    if out.is_dir():
        check_output_folder(out, files)
    if out.is_file():
        check_output_file(out, files)
    elif not out.with_name(out.name + MANIFEST_SUFFIX).exists():
        raise UsageError(
            f"{out}: is not a folder of `sophia export` ({out.name}{MANIFEST_SUFFIX} is not beside it); choose another"
        )
