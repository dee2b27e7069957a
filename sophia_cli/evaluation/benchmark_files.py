"""Finds a benchmark's rows: on the hub, in a clone of its repository, in a file per split, or in one file."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from sophia_cli.errors import InputError, UsageError
from sophia_cli.io.compression import reading
from sophia_cli.io.images import reference_scheme
from sophia_cli.io.jsonl import load_json
from sophia_cli.records import Record
from sophia_cli.runtime.progress import log_line
from sophia_cli.sources.items import read_rows

TABLE_SUFFIXES = (".parquet", ".jsonl")
IMAGES_FOLDER = "images"
"""The folder of a row's images when the row has file names only."""


def find_splits(kind: ModuleType, name: str, source: str | None) -> list[str]:
    """Returns the splits to read, each `config@split` or a pattern of JSON files; of a single file, the split that it is
    named after.

    Logs which splits a folder lacks.

    Raises:
        UsageError: a file may belong to several splits.
    """
    if source is None:
        return list(kind.SPLITS)
    path = Path(source)
    if path.is_file():
        return [_file_split(kind, name, path)]
    if "@" not in kind.SPLITS[0]:
        return list(kind.SPLITS)
    held = [part for part in kind.SPLITS if _split_files(path, part)] or _card_splits(kind, path)
    if len(held) < len(kind.SPLITS):
        left = ", ".join(part for part in kind.SPLITS if part not in held)
        log_line(f"eval: {source} holds {len(held)} of {len(kind.SPLITS)} splits of {name}; missing: {left}")
    return held


def _file_split(kind: ModuleType, name: str, file: Path) -> str:
    """Returns the split that a file or its folder is named after; empty if none."""
    named = [part for part in kind.SPLITS if file.stem in part.split("@")]
    if len(named) > 1:
        named = [part for part in named if file.resolve().parent.name == part.partition("@")[0]]
        if not named:
            several = f"may belong to several splits of {name}"
            raise UsageError(f"{file}: {several}; name it or its folder after one: {', '.join(kind.SPLITS)}")
    return (named or (kind.SPLITS if len(kind.SPLITS) == 1 else ("",)))[0]


def _card_splits(kind: ModuleType, folder: Path) -> list[str]:
    """Returns the splits whose configs the folder's card lists, as `datasets` reads it.

    Raises:
        InputError: there are none.
    """
    from datasets import get_dataset_config_names

    try:
        names = get_dataset_config_names(str(folder))
    except Exception as error:  # noqa: BLE001  (datasets raises many types)
        raise InputError(f"{folder}: contains no rows ({type(error).__name__}); give a copy of {kind.HUB_ID}") from None
    if found := [part for part in kind.SPLITS if part.partition("@")[0] in names]:
        return found
    raise InputError(f"{folder}: contains no split of {kind.HUB_ID} ({', '.join(kind.SPLITS)}); give a copy of it")


def read_split(kind: ModuleType, source: str | None, part: str) -> Iterator[Record]:
    """Yields the rows of a split, with images as paths or data URIs.

    Raises:
        UsageError, InputError: the rows cannot be read.
    """
    if source is None:
        return read_rows(f"hf:{kind.HUB_ID}:{part}") if "@" in part else _matching_rows(kind, _download(kind.HUB_ID), part)
    folder = Path(source)
    if folder.is_file():
        return _resolve_images(kind, _json_rows(folder), folder.parent)
    if "@" not in part:
        return _matching_rows(kind, folder, part)
    if files := _split_files(folder, part):
        return chain.from_iterable(_resolve_images(kind, _json_rows(file), folder) for file in files)
    return read_rows(f"hf:{folder}:{part}")


def _split_files(folder: Path, part: str) -> list[Path]:
    """Returns the files of a split: `SPLIT.parquet` or the hub's `SPLIT-00000-of-00002.parquet`, in the folder, in
    `data`, or in a folder named after the config.
    """
    config, _, split = part.partition("@")
    for within in (config, "", "data"):
        for pattern in [f"{split}{suffix}" for suffix in TABLE_SUFFIXES] + [f"{split}-*-of-*.parquet"]:
            if files := sorted(file for file in (folder / within).glob(pattern) if file.is_file()):
                return files
    return []


def _matching_rows(kind: ModuleType, folder: Path, pattern: str) -> Iterator[Record]:
    """Yields the rows of the JSON files in a folder and its subfolders."""
    files = sorted(file for suffix in ("", "l") for file in folder.rglob(pattern + suffix))
    if not files:
        raise InputError(f"{folder}: contains no {pattern}; give the folder that the data set was downloaded to")
    for file in files:
        yield from _resolve_images(kind, _json_rows(file), folder)


def _resolve_images(kind: ModuleType, rows: Iterator[Record], folder: Path) -> Iterator[Record]:
    """Yields rows whose images are files of the benchmark's folder."""
    for row in rows:
        for name in kind.IMAGE_FIELDS:
            if isinstance(row.get(name), list):
                row[name] = [_image_path(folder, image) for image in row[name]]
            elif name in row:
                row[name] = _image_path(folder, row[name])
        yield row


def _image_path(folder: Path, image: Any) -> Any:
    """Returns the path of an image that a row names, in the folder or in its `images`; other references stay."""
    if not isinstance(image, str) or not image or reference_scheme(image):
        return image
    inner = folder / IMAGES_FOLDER / image
    return str(inner if inner.is_file() else folder / image)


def _download(hub: str) -> Path:
    """Downloads a whole repository of the hub, images included. Returns its folder.

    Raises:
        InputError: it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub, repo_type="dataset"))
    except Exception as error:  # noqa: BLE001  (hub and network raise anything)
        raise InputError(f"hf:{hub}: cannot be loaded ({type(error).__name__}: {error}); check the network") from None


def _json_rows(file: Path) -> Iterator[Record]:
    """Yields the rows of a file: a JSON list, or anything that `--data` takes.

    Raises:
        InputError: the file cannot be read.
    """
    with reading(str(file)):
        with file.open("rb") as stream:
            if stream.read(64).lstrip()[:1] != b"[":
                return read_rows(str(file))
        try:
            rows = load_json(file.read_bytes())
        except ValueError as error:
            raise InputError(f"{file}: not JSON ({error}); download it again") from None
    return (Record(row if isinstance(row, dict) else {}, f"{file}:{number}") for number, row in enumerate(rows, 1))
