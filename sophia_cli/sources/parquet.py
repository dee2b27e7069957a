"""A parquet file."""

from collections.abc import Iterator
from pathlib import Path

from sophia_cli.errors import InputError
from sophia_cli.records import Record
from sophia_cli.sources._embedded_images import merge_images


def read_parquet(path: Path, merged: bool) -> Iterator[Record]:
    """Yields the rows of a parquet file.

    Raises:
        InputError: the file cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
        rows = (row for batch in table.iter_batches(batch_size=64) for row in batch.to_pylist())
        yield from merge_images(rows, str(path), merged)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); create it again") from None
