"""A parquet file, or a folder of them."""

import re
from collections.abc import Iterator
from pathlib import Path

from sophia_cli.errors import InputError, UsageError
from sophia_cli.io.images import LFS_MARK
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

    with path.open("rb") as stream:
        if stream.read(len(LFS_MARK)) == LFS_MARK:
            raise InputError(f"{path}: a git-lfs pointer, not the file; run `git lfs pull` in {path.parent}")
    try:
        table = parquet.ParquetFile(path)
        rows = (row for batch in table.iter_batches(batch_size=64) for row in batch.to_pylist())
        yield from merge_images(shortest_floats(rows, table.schema_arrow), str(path), merged)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); create it again") from None


def parquet_ids(path: Path) -> Iterator[Record]:
    """Yields the rows of a parquet file with their `id` alone, so that no image is read; nothing where it has none.

    Raises:
        InputError: the file cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
        if "id" in table.schema_arrow.names:
            rows = (row for batch in table.iter_batches(columns=["id"]) for row in batch.to_pylist())
            yield from (Record(row, f"{path}:{number}") for number, row in enumerate(rows, 1) if row["id"] is not None)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error}); create it again") from None


_SHARD = re.compile(r"(?:(.*?)[-_.]?)?(\d+)(?:-of-(\d+))?")


def parquet_files(folder: Path) -> list[Path]:
    """Returns the parquet files of a folder, or of its folder of data, as a clone of a hub data set has them."""
    for pattern in ("*.parquet", "data/*.parquet", "*/*.parquet", "*/*/*.parquet"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def read_parquet_folder(folder: Path, files: list[Path], merged: bool) -> Iterator[Record]:
    """Yields the rows of a clone of a hub data set: `train-00000-of-00002.parquet`, or `0000.parquet` and so on.

    Raises:
        UsageError: it holds several splits.
        InputError: a file cannot be read, or a part is missing.
    """
    splits: dict[str, Path] = {}
    for file in files:
        shard = _SHARD.fullmatch(file.stem)
        name = (shard[1] or "") if shard else file.stem
        name = name if file.parent in (folder, folder / "data") else f"{file.parent.name}/{name}"
        splits.setdefault(name, file)
        if shard and shard[3] and int(shard[3]) > sum(other.stem.startswith(f"{shard[1]}-") for other in files):
            raise InputError(f"{folder}: {shard[1]} has {int(shard[3])} parts and not all are here; download the others")
    if len(splits) > 1:
        names = ", ".join(sorted(splits))
        raise UsageError(f"{folder}: holds the splits {names}; give the file of one, as in {min(splits.values())}")
    for file in files:
        yield from read_parquet(file, merged)
