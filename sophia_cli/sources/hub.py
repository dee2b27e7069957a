"""A data set on the Hugging Face hub: `hf:org/name[:config]@split`."""

from collections.abc import Iterator

from sophia_cli.errors import InputError, UsageError
from sophia_cli.records import Record
from sophia_cli.sources._embedded_images import merge_images, read_undecoded


def read_hub(name: str, merged: bool) -> Iterator[Record]:
    """Yields the rows of `org/name[:config]@split`, streamed from the hub or its cache.

    Raises:
        UsageError: no split is given.
        InputError: the data set cannot be loaded.
    """
    from datasets import load_dataset

    repository, _, split = name.partition("@")
    repository, _, config = repository.partition(":")
    if not split:
        raise UsageError(f"hf:{name}: name a split, as in hf:{name}@train")
    try:
        data = load_dataset(repository, config or None, split=split, streaming=merged)
    except Exception as error:  # noqa: BLE001  (hub, network and data-set scripts raise anything)
        raise InputError(
            f"hf:{name}: cannot be loaded ({type(error).__name__}: {error}); check name, config, split and network"
        ) from None
    yield from merge_images(read_undecoded(data), f"hf:{name}", merged)
