"""Runs a step: opens the output, resumes it, shows progress, writes what the step yields, and returns the exit code."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sophia_cli.errors import SOME_FAILED, UsageError
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.manifest import Manifest
from sophia_cli.io.paths import check_records_file, check_stdout
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.io.stdio import claim_stdout
from sophia_cli.records import Record, has_failed, record_name
from sophia_cli.runtime.progress import Progress, log_line, set_quiet
from sophia_cli.steps._common import StepOptions

if TYPE_CHECKING:  # most steps run no model
    from sophia_cli.inference.backend_options import LazyBackend


def run_step(
    step: str,
    id_field: str,
    options: StepOptions,
    settings: dict[str, Any],
    produce: Callable[[RecordWriter, RecordCounter], Iterator[Record] | Iterator[Record | bytes]],
    inputs: list[str],
    total: int | None = None,
    keeps_order: bool = False,
    rewrite: bool = False,
    tokens_field: str | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
    backend: "LazyBackend | None" = None,
    report: Callable[[], dict[str, Any]] = dict,
) -> int:
    """Runs `produce` to its end and writes what it yields: records, and raw lines.

    Args:
        step: The name of the step.
        id_field: The field that identifies a record of this step.
        options: The options of every step.
        settings: What makes the records what they are. A file started with other settings is refused.
        produce: Called with the writer and the counter of input records.
        inputs: The files read, a prompt file included; no output may be one of them.
        total: Number of records expected, for the progress bar.
        keeps_order: The step keeps the order of its input.
        rewrite: Write the file again from the first record on, instead of resuming it. Until that record exists, the old
            file stays.
        tokens_field: The field that holds the number of tokens of a sample.
        on_record: Called with every record, including those of an earlier run.
        backend: Shows its status in the progress line; closed however the step ends.
        report: Returns more fields for the manifest.

    Returns:
        0, or 3 when some records carry `error`.
    """
    if options.out and options.tee:
        raise UsageError("-o and --tee both name the output file; give only one of them")
    part = options.parsed_shard
    file = options.out or options.tee
    check_records_file(file, inputs)
    if not options.out:
        check_stdout(inputs)
    identity = {**settings, "seed": options.seed, "shard": str(part), **({"inputs": inputs} if rewrite else {})}
    manifest = Manifest(file, step, identity) if file else None
    stdout = claim_stdout()
    if options.quiet:
        set_quiet()
    progress = Progress(step, total, options.quiet)
    if backend:
        progress.status = backend.status
    output = RecordWriter(
        id_field,
        None if options.out else stdout,
        file,
        manifest,
        options.force,
        keeps_order,
        rewrite,
        tokens_field,
        on_record,
    )
    counter, finished = RecordCounter(), False
    kept = output.written
    if kept:
        log_line(f"{step}: {file} holds {kept} finished records; resuming", options.quiet)
        progress.total = total and max(total - kept, 0)
    with backend or contextlib.nullcontext():
        try:
            with progress.display():
                for record in produce(output, counter):
                    if isinstance(record, bytes):
                        output.write_raw(record)
                        progress.count_record(0, False)
                        continue
                    output.write(record)
                    if has_failed(record):
                        log_line(f"{step}: {record_name(record)} failed: {record['error']}")
                    progress.count_record(output.token_count(record), has_failed(record))
            finished = True
        finally:
            try:
                output.close(finished, counter.count, report())
            finally:
                output.unlock()
    if kept and output.written == kept:
        log_line(f"{step}: nothing is left to do, {file} is complete", options.quiet)
    return SOME_FAILED if output.failed else 0
