"""E."""

from collections.abc import Iterator
from pathlib import Path

from sophia_cli.errors import InputError, UsageError
from sophia_cli.records import Record
from sophia_cli.sources._embedded_images import merge_images, read_undecoded


def read_datasets_folder(folder: Path, merged: bool) -> Iterator[Record]:
    """A folder written by `datasets`' save_to_disk."""
    from datasets import DatasetDict, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a folder that `datasets` saved ({error}); save it again") from None
    if isinstance(loaded, DatasetDict):
        raise UsageError(
            f"{folder}: holds the splits {', '.join(loaded)}; give one of them, as in {folder}/{next(iter(loaded))}"
        )
    yield from merge_images(read_undecoded(loaded), str(folder), merged)
