"""Floats of 16 and 32 bits by their own shortest digits: the float32 of 0.1 is 0.1, not 0.10000000149011612."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

Convert = Callable[[Any], Any]


def shortest_floats(rows: Iterable[dict[str, Any]], schema: "pyarrow.Schema") -> Iterator[dict[str, Any]]:
    """Yields rows in which values of narrow float columns have the digits that the column holds."""
    convert = {field.name: found for field in schema if (found := _converter(field.type))}
    for row in rows:
        yield _convert_fields(row, convert) if convert else row


def _convert_fields(row: Mapping[str, Any], convert: Mapping[str, Convert]) -> dict[str, Any]:
    return {name: convert[name](value) if name in convert and value is not None else value for name, value in row.items()}


def _converter(kind: "pyarrow.DataType") -> Convert | None:
    import numpy as np
    from pyarrow import types

    if types.is_float16(kind) or types.is_float32(kind):
        narrow = np.float16 if types.is_float16(kind) else np.float32
        return lambda value: float(str(narrow(value)))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _converter(kind.value_type)
        return (lambda values: [value if value is None else inner(value) for value in values]) if inner else None
    if types.is_struct(kind):
        fields = {field.name: found for field in kind if (found := _converter(field.type))}
        return (lambda row: _convert_fields(row, fields)) if fields else None
    return None
