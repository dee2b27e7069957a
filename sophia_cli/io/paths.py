"""Checks of the files that a step writes, before anything is opened for writing."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from sophia_cli.errors import UsageError
from sophia_cli.io.manifest import MANIFEST_SUFFIX

DATA_FILES = ("metadata.*", "*.parquet", "*.arrow", "*.json", "*.zip")
"""What a source reads in a folder, beside the images."""


def input_names(*names: str | Path | None) -> list[str]:
    """Returns what a step reads, as names, without those that were not given."""
    return [str(name) for name in names if name]


def check_output_file(file: Path | None, inputs: Sequence[str]) -> None:
    """Checks that a file can be an output.

    Files are compared by device and inode, so links and `- < FILE` are found.

    Raises:
        UsageError: it is a folder, `-`, or one of the input files.
    """
    if file is None:
        return
    if str(file) == "-" or file.is_dir():
        raise UsageError(f"{file}: cannot be written to; give a file name, or omit -o for stdout")
    for written in (file, file.with_name(file.name + MANIFEST_SUFFIX)):
        if written.exists() and (read := _same_input(written.stat(), inputs)):
            name = "" if str(written) == read else f" ({'stdin' if read == '-' else read})"
            raise UsageError(f"{written}: is both an input{name} and the output; write to another file")


def check_stdout(inputs: Sequence[str]) -> None:
    """Checks that stdout is not one of the input files: `step FILE >> FILE`. After `> FILE` the shell has emptied it.

    Raises:
        UsageError: it is.
    """
    try:
        status = os.fstat(1)
    except OSError:  # closed; the first write fails
        return
    if stat.S_ISREG(status.st_mode) and (read := _same_input(status, inputs)):
        raise UsageError(f"{read}: is both an input and stdout; write to another file")


def _same_input(written: os.stat_result, inputs: Sequence[str]) -> str | None:
    """Returns the input that is this file, if any."""
    for name in inputs:
        if name == "-":
            found = [os.fstat(0)]
        else:
            path = Path(name)
            files = [file for pattern in DATA_FILES for file in path.rglob(pattern)] if path.is_dir() else [path]
            found = [file.stat() for file in files if file.exists()]
        if any(stat.S_ISREG(read.st_mode) and os.path.samestat(read, written) for read in found):
            return name
    return None


def check_side_files(files: Sequence[Path | None], inputs: list[str], outputs: Sequence[Path | None] = ()) -> None:
    """Checks the files that a step writes beside its records.

    They are checked before any work, because a report that cannot be written at the end would be lost.

    Args:
        files: The side files.
        inputs: The files that are read.
        outputs: The files of records; their manifests are protected too.

    Raises:
        UsageError: a file is an input, is written twice, or cannot be written.
    """
    records = {path.resolve() for out in outputs if out for path in (out, out.with_name(out.name + MANIFEST_SUFFIX))}
    taken = set(records)
    for file in filter(None, files):
        check_output_file(file, inputs)
        if file.resolve() in taken:
            where = "; the records go there" if file.resolve() in records else ""
            raise UsageError(f"{file}: would be written twice{where}; choose another file")
        taken.add(file.resolve())
        if file.exists() and not file.is_file():  # a device or a pipe: opening it may wait for a reader
            continue
        fresh = not file.exists()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("ab").close()
            if fresh:
                file.unlink()
        except OSError as error:
            raise UsageError(f"{file}: cannot be written ({error.strerror}); choose another file") from None
