"""A parquet file, or a folder of them."""

from collections.abc import Iterator
from pathlib import Path

from sophia_cli.errors import InputError, UsageError
from sophia_cli.records import Record
from sophia_cli.sources._embedded_images import merge_images
from sophia_cli.sources._floats import shortest_floats


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
        yield from merge_images(shortest_floats(rows, table.schema_arrow), str(path), merged)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); create it again") from None


def parquet_files(folder: Path) -> list[Path]:
    """Returns the parquet files of a folder, or of its `data` folder, as a clone of a hub data set has them."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))


def read_parquet_folder(folder: Path, files: list[Path], merged: bool) -> Iterator[Record]:
    """Yields the rows of a clone of a hub data set: `train-00000-of-00002.parquet` and so on.

    Raises:
        UsageError: it holds several splits.
        InputError: a file cannot be read.
    """
    splits = {file.stem.partition("-")[0]: file for file in reversed(files)}
    if len(splits) > 1:
        names = ", ".join(sorted(splits))
        raise UsageError(f"{folder}: holds the splits {names}; give the file of one, as in {min(splits.values())}")
    for file in files:
        yield from read_parquet(file, merged)
