"""Checks of the files that a step writes, before anything is opened for writing."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from sophia_cli.errors import UsageError
from sophia_cli.io.manifest import MANIFEST_SUFFIX

DRAFT_SUFFIX = ".tmp"
"""The suffix of what is written beside an output until it is complete."""
IMAGE_STARTS = {
    b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp", b"II*\0": "tiff",
    b"MM\0*": "tiff", b"\0\0\0\x0cjP": "jp2", b"<svg": "svg",
}  # fmt: skip
"""The first bytes of image files, and their formats."""


def input_names(*names: str | Path | None) -> list[str]:
    """Returns what a step reads, as names, without those that were not given."""
    return [str(name) for name in names if name]


def check_output_file(file: Path | None, inputs: Sequence[str]) -> None:
    """Checks that a file can be an output.

    Files are compared by device and inode, so links and `- < FILE` are found.

    Raises:
        UsageError: it is a folder, `-`, an image, or one of the input files, or one of them is its draft.
    """
    if file is None:
        return
    if str(file) == "-" or file.is_dir():
        raise UsageError(f"{file}: cannot be written to; give a file name, or omit -o for stdout")
    for suffix in ("", MANIFEST_SUFFIX, DRAFT_SUFFIX):
        written = file.with_name(file.name + suffix)
        if written.is_file() and (read := _same_input(written.stat(), inputs)):
            name = "" if str(written) == read else f" ({'stdin' if read == '-' else read})"
            raise UsageError(f"{written}: is both an input{name} and the output; write to another file")
    if file.is_file() and _is_image(file):  # the rows of a source may name it
        raise UsageError(f"{file}: is an image; write to another file")


def check_records_file(file: Path | None, inputs: Sequence[str]) -> None:
    """Checks that a file can hold the records of a step, which a later run reads to resume.

    Raises:
        UsageError: it is a device or a pipe, or `check_output_file` refuses it.
    """
    is_special = file and (str(file).startswith(("/dev/", "/proc/")) or (file.exists() and not file.is_file()))
    if file and is_special and not file.is_dir():
        raise UsageError(f"{file}: is a device or a pipe; give a file name, or omit -o for stdout")
    check_output_file(file, inputs)


def check_output_folder(folder: Path, inputs: Sequence[str]) -> None:
    """Checks that a folder which will be replaced contains no input.

    Raises:
        UsageError: it contains one.
    """
    replaced = folder.resolve()
    for name in inputs:
        if folder.exists() and Path(name).exists() and Path(name).resolve().is_relative_to(replaced):
            raise UsageError(f"{folder}: contains an input ({name}); write to another folder with -o")


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
    """Returns the input that is this file, or has it in its folder, if any."""
    for name in inputs:
        if name == "-":
            found = iter([os.fstat(0)])
        else:
            path = Path(name.removeprefix("hf:").partition("@")[0]) if name.startswith("hf:") else Path(name)
            files = _files_within(path) if path.is_dir() else iter([path])
            found = (file.stat() for file in files if file.exists())
        if any(stat.S_ISREG(read.st_mode) and os.path.samestat(read, written) for read in found):
            return name
    return None


def _files_within(folder: Path) -> Iterator[Path]:
    """Yields the files of a folder; links to folders are followed once."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (Path(parent, name) for name in files)


def _is_image(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(12).startswith(tuple(IMAGE_STARTS))


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
