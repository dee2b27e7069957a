"""Columns that hold images as {bytes, path}, as `datasets` and parquet files store them."""

from collections.abc import Iterable, Iterator
from typing import Any

from sophia_cli.io.images import data_uri
from sophia_cli.io.paths import IMAGE_STARTS
from sophia_cli.records import Record
from sophia_cli.sources._floats import shortest_floats


def read_undecoded(data: Any) -> Iterator[dict[str, Any]]:
    """Yields rows with images left as stored bytes or paths."""
    from datasets import Image, List

    for column, feature in (data.features or {}).items():
        if isinstance(feature, Image):
            data = data.cast_column(column, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            data = data.cast_column(column, List(Image(decode=False)))
    return shortest_floats(data, data.features.arrow_schema) if data.features else iter(data)


def merge_images(rows: Iterable[dict[str, Any]], where: str, merged: bool) -> Iterator[Record]:
    """Yields rows in which each image is a data URI or a path.

    Args:
        rows: Rows whose image columns hold {bytes, path}.
        where: The name of the source, for errors.
        merged: Where there is no `image` column, merge all image columns into it.
    """
    for number, row in enumerate(rows, 1):
        fields = {name: _image_reference(value) for name, value in row.items()}
        if not merged:
            yield Record(fields, f"{where}:{number}")
            continue
        columns = [name for name in fields if name == "image" or _is_image(row[name]) or _are_images(row[name])]
        found = [fields[name] for name in columns if fields[name] is not None]
        images = [image for one in found for image in (one if isinstance(one, list) else [one])]
        if "image" not in fields and images:
            fields = {name: value for name, value in fields.items() if name not in columns}
            fields["image"] = images if len(images) > 1 else images[0]
        yield Record(fields, f"{where}:{number}")


def _is_image(value: Any) -> bool:
    has_bytes = isinstance(value, dict) and isinstance(value.get("bytes"), bytes)
    return has_bytes or (isinstance(value, dict) and set(value) == {"bytes", "path"})


def _are_images(value: Any) -> bool:
    images = [part for part in value if part is not None] if isinstance(value, list) else []
    return bool(images) and all(map(_is_image, images))


def _image_reference(value: Any) -> Any:
    if _are_images(value):
        return [_image_reference(part) for part in value if part is not None]
    if isinstance(value, list) and value and all(isinstance(part, bytes) for part in value):
        return [_image_reference(part) for part in value]
    if isinstance(value, bytes):  # a plain binary column
        return data_uri(value) if value.startswith(tuple(IMAGE_STARTS)) else value.hex()
    if isinstance(value, dict) and _is_image(value):
        return data_uri(value["bytes"]) if value.get("bytes") is not None else value.get("path")
    return value
