"""Trajectories as others read them: `sophia export FILE --to trl|trl-preference|llamafactory|swift|verl|…`.

What goes out: the records with a weight, or, where nobody propagated, those that Eq. 6 keeps; for preference data, pairs of
graded ones. The caption is not part of what is asked (Eq. 7). An exporter is one file of `exporters/`.
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
from sophia_cli.io.paths import check_output_file
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.io.rereadable import copy_pipes
from sophia_cli.records import Record, error_record
from sophia_cli.runtime.progress import Progress, log_line
from sophia_cli.steps._common import StepOptions
from sophia_cli.steps._runner import run_step

IMAGE_MODES = ("path", "embed")


def run(common: StepOptions, files: list[str], asked: ExportRequest) -> int:
    """`sophia export`: reads records, writes what others read. Returns the exit code."""
    exporter = asked.exporter
    if asked.images is not None and asked.images not in IMAGE_MODES:
        raise UsageError(f"--images {asked.images}: choose from {', '.join(IMAGE_MODES)}")
    if asked.images == "path" and not getattr(exporter, "ALLOWS_PATHS", True):
        raise UsageError(f"--to {asked.to}: its readers open images out of the file alone; leave --images path out")
    if asked.to == "openai-batch" and asked.model is None:
        raise UsageError("--to openai-batch: name who is asked with --model, as the provider does")
    if exporter.OUTPUT_KIND != "lines" and common.out is None:
        raise UsageError(f"--to {asked.to}: say where to with -o; it is no stream of lines")
    if exporter.OUTPUT_KIND != "lines":
        _check_destination(common, files)
    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        make = ExampleSource(
            copy_pipes(files, folder), asked, ReadOptions(common.parsed_shard, common.limit, common.seed, common.quiet)
        )
        if common.dry_run:
            return _show_plan(make, exporter)
        if exporter.OUTPUT_KIND == "lines":
            return _export_lines(make, common, asked, files)
        return _export_whole(make, common, asked, Path(folder))


def _export_lines(make: ExampleSource, common: StepOptions, asked: ExportRequest, files: list[str]) -> int:
    """JSONL, to stdout or a file."""

    def produce(output: RecordWriter, counter: RecordCounter) -> Iterator[Record]:
        for record, fellow in make.kept_records(counter):
            try:
                yield Record(check_unicode(asked.exporter.row_fields(make.make_example(record, fellow, table=False))))
            except RecordError as error:
                output.log_failure(error_record(record, str(error), {}))
        output.failed += make.log_failures()
        if not output.written:
            log_line("export: nothing went out; look at --alpha, or at what `sophia stats` says", common.quiet)

    return run_step(STEP, "id", common, _identity_settings(asked), produce, inputs=files, anew=True)


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
        log_line("export: nothing goes out")
        return 0
    fields = exporter.row_fields(make.make_example(*first, table=exporter.OUTPUT_KIND in ("table", "hub"), look=False))
    log_line(
        f"export: {make.request}\n--- the first row, without its images\n{json.dumps(fields, indent=1, ensure_ascii=False)}"
    )
    return 0


def _export_whole(make: ExampleSource, common: StepOptions, asked: ExportRequest, folder: Path) -> int:
    """A file or folder that is made whole or not at all, in a draft that takes its place in the end."""
    exporter, out = asked.exporter, common.out or Path()
    if common.tee:
        raise UsageError(f"--to {asked.to}: is no stream of lines; give -o, not --tee")
    manifest = Manifest(out, STEP, _identity_settings(asked) | {"seed": common.seed, "shard": str(common.parsed_shard)})
    counter, rows = RecordCounter(), TableRows(make, exporter.OUTPUT_KIND in ("table", "hub"), folder / "kept.jsonl")
    with Progress(STEP, quiet=common.quiet).display() as progress:
        rows.spool_records(counter)
        if not rows.count:
            raise InputError("nothing to export: no record is kept; look at --alpha, or at what `sophia stats` says")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
                draft = Path(beside) / "draft"
                write_draft(exporter, rows, progress, draft)
                remove_path(out)
                os.replace(draft, out)
        except OSError as error:
            raise SophiaError(f"{out}: cannot be written ({error.strerror or error}); make room or choose another") from None
    bad = progress.failed + make.log_failures()
    manifest.save(finished=True, counts={"in": counter.count, "out": progress.done - progress.failed, "failed": bad})
    return SOME_FAILED if bad else 0


def _check_destination(common: StepOptions, files: list[str]) -> None:
    """Raises UsageError where something stands that is not to be replaced: an input, or what no export has made."""
    out = common.out or Path()
    if str(out) == "-" or not out.name or (out.exists() and not out.is_file() and not out.is_dir()):
        raise UsageError(f"{out}: no place for a file or a folder; name one with -o")
    if not out.exists():
        return
    if not common.force:
        raise UsageError(f"{out} exists; choose another place with -o, or --force to replace it")
    if out.is_file():
        check_output_file(out, files)
    elif not out.with_name(out.name + MANIFEST_SUFFIX).exists():
        raise UsageError(
            f"{out}: no folder that `sophia export` made ({out.name}{MANIFEST_SUFFIX} is not beside it); choose another"
        )
