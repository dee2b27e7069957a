"""Paths."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sophia_cli.errors import UsageError
from sophia_cli.io.manifest import MANIFEST_SUFFIX

if TYPE_CHECKING:  # most steps run no model
    pass


def check_output_file(file: Path | None, inputs: list[str]) -> None:
    """Raises UsageError when the file to write is a folder, `-`, or one of the files to read."""
    if file is None:
        return
    if str(file) == "-" or file.is_dir():
        raise UsageError(f"{file}: not a file to write to; name one, or leave -o out for stdout")
    if file.exists() and any(Path(path).exists() and os.path.samefile(path, file) for path in inputs):
        raise UsageError(f"{file}: is read and written at once; write to another file")


def check_side_files(files: Sequence[Path | None], inputs: list[str], outputs: Sequence[Path | None] = ()) -> None:
    """Raises UsageError for a file beside the records that is an input, is written twice, or cannot be written.

    Before anything is done: what is told in the end must not fail then. outputs: the files of records, with manifests.
    """
    records = {path.resolve() for out in outputs if out for path in (out, out.with_name(out.name + MANIFEST_SUFFIX))}
    taken = set(records)
    for file in filter(None, files):
        check_output_file(file, inputs)
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
