"""The frame around every command: stdout kept for records, one line for an error, the exit code.

Exit codes (contract.md): 0 all done; 1 failed; 2 wrong usage or unreadable input; 3 finished, but some records carry
`error`; 130 interrupted. A closed pipe ends quietly with 0.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sophia_cli.errors import SOME_FAILED, UsageError
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.manifest import Manifest
from sophia_cli.io.paths import check_output_file
from sophia_cli.io.record_writer import RecordWriter, ResumeFilter
from sophia_cli.io.stdio import claim_stdout
from sophia_cli.records import Record, has_failed, record_name
from sophia_cli.runtime.progress import Progress, log_line, set_quiet
from sophia_cli.steps._common import StepOptions

if TYPE_CHECKING:  # most steps run no model
    from sophia_cli.inference.backend_options import LazyBackend


def run_step(
    step: str,
    key: str,
    common: StepOptions,
    settings: dict[str, Any],
    produce: Callable[[RecordWriter, RecordCounter], Iterator[Record] | Iterator[Record | bytes]],
    total: int | None = None,
    inputs: list[str] | None = None,
    ordered: bool = False,
    anew: bool = False,
    tokens_field: str | None = None,
    observe: Callable[[Record], None] = lambda record: None,
    backend: "LazyBackend | None" = None,
    review: ResumeFilter | None = None,
    report: Callable[[], dict[str, Any]] = dict,
) -> int:
    """Runs `produce` to its end and writes what it yields: records, and lines that go out as they are.

    The exit code is 0, or 3 when some records carry `error`.

    settings: what makes the records what they are; a file begun with others is refused. inputs: the files read, none of
    which may be the file written. anew: a file begun with the same settings and inputs is not continued but written again,
    from the first record on; until that is there, what stands there stays.
    review: may take back records of a file that is continued.
    backend: says in the progress line how it fares, and is closed however the step ends. report: what else the manifest is
    to say in the end.
    """
    if common.out and common.tee:
        raise UsageError("-o and --tee are two ways to write one file; give one of them")
    part = common.parsed_shard
    file = common.out or common.tee
    check_output_file(file, inputs or [])
    identity = {**settings, "seed": common.seed, "shard": str(part), **({"inputs": inputs} if anew else {})}
    manifest = Manifest(file, step, identity) if file else None
    stdout = claim_stdout()
    if common.quiet:
        set_quiet()
    progress = Progress(step, total, common.quiet)
    if backend:
        progress.status = backend.status
    output = RecordWriter(
        key, None if common.out else stdout, file, manifest, common.force, ordered, anew, tokens_field, observe, review
    )
    counter, finished = RecordCounter(), False
    kept = output.written
    if kept:
        log_line(f"{step}: {file} holds {kept} finished records; going on", common.quiet)
        progress.total = total and total - kept
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
            output.close(finished, counter.count, report())
    return SOME_FAILED if output.failed else 0
