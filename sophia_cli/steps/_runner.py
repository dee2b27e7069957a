"""The frame around every command: stdout kept for records, one line for an error, the exit code.

Exit codes (contract.md): 0 all done; 1 failed; 2 wrong usage or unreadable input; 3 finished, but some records carry
`error`; 130 interrupted. A closed pipe ends quietly with 0.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.io.jsonl import Shard
from sophia_cli.io.record_writer import SUFFIX, Manifest, Output, Review
from sophia_cli.io.stdio import claim_stdout
from sophia_cli.records import Record, has_failed, name_of
from sophia_cli.runtime import signals
from sophia_cli.runtime.progress import Progress, hush, notice

if TYPE_CHECKING:  # most steps run no model
    from sophia_cli.inference.backend_options import Lazy

FAILED, SOME_FAILED, INTERRUPTED = 1, 3, 130


@dataclass(frozen=True)
class Common:
    """The options that every step has."""

    out: Path | None = None
    tee: Path | None = None
    seed: int = 0
    limit: int | None = None
    shard: str | None = None
    dry_run: bool = False
    quiet: bool = False
    debug: bool = False
    force: bool = False

    @property
    def part(self) -> Shard:
        return Shard.parse(self.shard)

    def expected(self, rows: int | None, each: int) -> int | None:
        """How many records a step will write for so many rows of its source, when that is known."""
        if rows is None:
            return None
        mine = len(range(self.part.index, rows, self.part.count))
        return each * (mine if self.limit is None else min(mine, self.limit))


def refuse_input_as_output(file: Path | None, inputs: list[str]) -> None:
    """Raises UsageError when the file to write is a folder, `-`, or one of the files to read."""
    if file is None:
        return
    if str(file) == "-" or file.is_dir():
        raise UsageError(f"{file}: not a file to write to; name one, or leave -o out for stdout")
    if file.exists() and any(Path(path).exists() and os.path.samefile(path, file) for path in inputs):
        raise UsageError(f"{file}: is read and written at once; write to another file")


def refuse_odd_side_files(files: Sequence[Path | None], inputs: list[str], outputs: Sequence[Path | None] = ()) -> None:
    """Raises UsageError for a file beside the records that is an input, is written twice, or cannot be written.

    Before anything is done: what is told in the end must not fail then. outputs: the files of records, with manifests.
    """
    records = {path.resolve() for out in outputs if out for path in (out, out.with_name(out.name + SUFFIX))}
    taken = set(records)
    for file in filter(None, files):
        refuse_input_as_output(file, inputs)
        if file.resolve() in taken:
            where = "; it is where the records go" if file.resolve() in records else ""
            raise UsageError(f"{file}: is to be written twice{where}; choose another file")
        taken.add(file.resolve())
        fresh = not file.exists()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("ab").close()
            if fresh:
                file.unlink()
        except OSError as error:
            raise UsageError(f"{file}: cannot be written ({error.strerror}); choose another file") from None


def run(work: Callable[[], int], debug: bool = False) -> NoReturn:
    """Runs a command to its exit code; every error becomes one line on stderr, a traceback only with `debug`."""
    signals.install()
    try:
        code = work()
    except KeyboardInterrupt:
        notice("interrupted; what was written stays, type the command again to go on")
        code = INTERRUPTED
    except BrokenPipeError:
        code = INTERRUPTED if signals.seen else 0
    except Exception as error:  # noqa: BLE001  (the last resort of every command)
        if debug:
            traceback.print_exc()
        code = error.exit_code if isinstance(error, SophiaError) else FAILED
        notice(f"sophia: {_one_line(error)}")
    leave(code)


def _one_line(error: Exception) -> str:
    if isinstance(error, SophiaError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]} (--debug shows where)"


def leave(code: int) -> NoReturn:
    """Ends the process at once: a reader thread that waits for stdin must not keep it, nor may a library's teardown."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)


@dataclass
class Counter:
    """Counts the records that a step takes in."""

    count: int = 0

    def over(self, rows: Iterator[Record]) -> Iterator[Record]:
        for row in rows:
            self.count += 1
            yield row


def run_step(
    step: str,
    key: str,
    common: Common,
    settings: dict[str, Any],
    produce: Callable[[Output, Counter], Iterator[Record] | Iterator[Record | bytes]],
    total: int | None = None,
    inputs: list[str] | None = None,
    ordered: bool = False,
    anew: bool = False,
    tokens_field: str | None = None,
    observe: Callable[[Record], None] = lambda record: None,
    backend: "Lazy | None" = None,
    review: Review | None = None,
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
    part = common.part
    file = common.out or common.tee
    refuse_input_as_output(file, inputs or [])
    identity = {**settings, "seed": common.seed, "shard": str(part), **({"inputs": inputs} if anew else {})}
    manifest = Manifest(file, step, identity) if file else None
    stdout = claim_stdout()
    if common.quiet:
        hush()
    progress = Progress(step, total, common.quiet)
    if backend:
        progress.note = backend.status
    output = Output(
        key, None if common.out else stdout, file, manifest, common.force, ordered, anew, tokens_field, observe, review
    )
    counter, finished = Counter(), False
    kept = output.written
    if kept:
        notice(f"{step}: {file} holds {kept} finished records; going on", common.quiet)
        progress.total = total and total - kept
    with backend or contextlib.nullcontext():
        try:
            with progress.shown():
                for record in produce(output, counter):
                    if isinstance(record, bytes):
                        output.pass_on(record)
                        progress.advance(0, False)
                        continue
                    output.write(record)
                    if has_failed(record):
                        notice(f"{step}: {name_of(record)} failed: {record['error']}")
                    progress.advance(output.tokens_of(record), has_failed(record))
            finished = True
        finally:
            output.close(finished, counter.count, report())
    return SOME_FAILED if output.failed else 0
