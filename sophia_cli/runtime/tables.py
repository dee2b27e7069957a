"""Tables that fit the terminal. A table that is too wide loses its last columns, and names them; no value is cut."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

GAP_CHARS = 2
MIN_TEXT_CHARS = 12
"""Columns of text may wrap down to this width; numbers never wrap."""


def fitted_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    texts: Collection[str] = (),
    caption: str = "",
) -> "Table":
    """Returns a table of at most `width` characters, its numbers aligned to the right.

    Args:
        title: Its title.
        headings: The headings, the most important column first.
        rows: The cells of each row.
        width: Characters of the terminal.
        texts: Headings of the columns that hold text.
        caption: A line below it.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    needed = [min(size, MIN_TEXT_CHARS) if name in texts else size for name, size in zip(headings, widths, strict=True)]
    shown = len(headings)
    while shown > 1 and sum(needed[:shown]) + GAP_CHARS * (shown - 1) > width:
        shown -= 1
    dropped = f"no room for {', '.join(headings[shown:])}" if shown < len(headings) else ""
    table = Table(
        title=Text(title) if title else None,
        caption=Text("; ".join(filter(None, (caption, dropped)))) if caption or dropped else None,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP_CHARS - 1, 0, 0),
    )
    for name in headings[:shown]:
        text = name in texts
        table.add_column(name, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row[:shown]))
    return table
