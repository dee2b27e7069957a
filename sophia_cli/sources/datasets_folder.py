"""A folder written by `datasets.save_to_disk`."""

from collections.abc import Iterator
from pathlib import Path

from sophia_cli.errors import InputError, UsageError
from sophia_cli.records import Record
from sophia_cli.sources._embedded_images import merge_images, read_undecoded


def read_datasets_folder(folder: Path, merged: bool) -> Iterator[Record]:
    """Yields the rows of the folder.

    Raises:
        InputError: the folder cannot be loaded.
        UsageError: it holds several splits.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a folder that `datasets` saved ({error}); save it again") from None
    if isinstance(loaded, DatasetDict):
        raise UsageError(f"{folder}: holds the splits {', '.join(loaded)}; choose one, as in {folder}/{next(iter(loaded))}")
    yield from merge_images(read_undecoded(loaded), str(folder), merged)
