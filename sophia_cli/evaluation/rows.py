"""Where a benchmark's rows are: on the hub, in a copy of its repository, in files of its parts, or in one file."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sophia_cli.errors import InputError
from sophia_cli.progress import notice
from sophia_cli.records import Record
from sophia_cli.sources import read_rows
from sophia_cli.streams import loads

SUFFIXES = (".parquet", ".jsonl")
IMAGES = "images"
"""The folder that a row's images may lie in, when it names them alone."""


def parts_of(kind: ModuleType, name: str, place: str | None) -> list[str]:
    """The parts to read, each `config@split`, or a pattern of JSON files. Of one file, the part that it is named after.

    Says which parts a folder with a file for each does not hold.
    """
    if place is None:
        return list(kind.PARTS)
    if Path(place).is_file():
        named = [part for part in kind.PARTS if Path(place).stem in part.split("@")]
        return named[:1] or (list(kind.PARTS) if len(kind.PARTS) == 1 else [""])
    missing = [part for part in kind.PARTS if "@" in part and not _file_of(Path(place), part)]
    if 0 < len(missing) < len(kind.PARTS):
        held = f"{len(kind.PARTS) - len(missing)} of {len(kind.PARTS)}"
        notice(f"eval: {place} holds {held} parts of {name}; left out: {', '.join(missing)}")
        return [part for part in kind.PARTS if part not in missing]
    return list(kind.PARTS)


def rows_of(kind: ModuleType, place: str | None, part: str) -> Iterator[Record]:
    """The rows of a part, images as paths or data URIs. Raises UsageError, InputError."""
    if place is None:
        return read_rows(f"hf:{kind.HUB}:{part}") if "@" in part else _matching(kind, _downloaded(kind.HUB), part)
    folder = Path(place)
    if folder.is_file():
        return _beside(kind, _json_rows(folder), folder.parent)
    if "@" not in part:
        return _matching(kind, folder, part)
    file = _file_of(folder, part)
    return _beside(kind, _json_rows(file), folder) if file else read_rows(f"hf:{folder}:{part}")


def _file_of(folder: Path, part: str) -> Path | None:
    """The file of a part in a folder that has one for each."""
    config, _, split = part.partition("@")
    files = [folder / within / f"{split}{suffix}" for within in (config, "") for suffix in SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def _matching(kind: ModuleType, folder: Path, pattern: str) -> Iterator[Record]:
    """The rows of the JSON files in a folder, however deep."""
    files = sorted(file for suffix in ("", "l") for file in folder.rglob(pattern + suffix))
    if not files:
        raise InputError(f"{folder}: holds no {pattern}; give the folder that the data set was downloaded to")
    for file in files:
        yield from _beside(kind, _json_rows(file), folder)


def _beside(kind: ModuleType, rows: Iterator[Record], folder: Path) -> Iterator[Record]:
    """Rows whose images are files of the benchmark's folder."""
    for row in rows:
        for name in kind.IMAGES:
            if isinstance(row.get(name), list):
                row[name] = [_within(folder, image) for image in row[name]]
            elif name in row:
                row[name] = _within(folder, row[name])
        yield row


def _within(folder: Path, image: Any) -> Any:
    """The path of an image that a row names as it lies in the folder, or in its `images`; others stay."""
    if not isinstance(image, str) or not image or image.startswith(("data:", "http://", "https://", "file://")):
        return image
    inner = folder / IMAGES / image
    return str(inner if inner.is_file() else folder / image)


def _downloaded(hub: str) -> Path:
    """The folder of a repository on the hub, downloaded whole: images are files of it, too. Raises InputError."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub, repo_type="dataset"))
    except Exception as error:  # noqa: BLE001  (hub and network raise anything)
        raise InputError(f"hf:{hub}: cannot be loaded ({type(error).__name__}: {error}); check the network") from None


def _json_rows(file: Path) -> Iterator[Record]:
    """The rows of a file: a JSON list, or any that `--data` takes. Raises InputError."""
    with file.open("rb") as stream:
        if stream.read(64).lstrip()[:1] != b"[":
            return read_rows(str(file))
    try:
        rows = loads(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error}); download it again") from None
    return (Record(row if isinstance(row, dict) else {}, f"{file}:{number}") for number, row in enumerate(rows, 1))
