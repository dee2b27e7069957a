"""Checks of the files that a step writes, before anything is opened for writing."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sophia_cli.errors import UsageError
from sophia_cli.io.manifest import MANIFEST_SUFFIX

if TYPE_CHECKING:  # most steps run no model
    pass


def check_output_file(file: Path | None, inputs: list[str]) -> None:
    """Checks that a file can be an output.

    Raises:
        UsageError: it is a folder, `-`, or one of the input files.
    """
    if file is None:
        return
    if str(file) == "-" or file.is_dir():
        raise UsageError(f"{file}: cannot be written to; give a file name, or omit -o for stdout")
    if file.exists() and any(Path(path).exists() and os.path.samefile(path, file) for path in inputs):
        raise UsageError(f"{file}: is both an input and the output; write to another file")


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
        fresh = not file.exists()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("ab").close()
            if fresh:
                file.unlink()
        except OSError as error:
            raise UsageError(f"{file}: cannot be written ({error.strerror}); choose another file") from None
