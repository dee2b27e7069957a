"""Tests that tables fit the terminal: columns are left out and named, values are never cut."""

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sophia_cli.runtime.tables import fitted_table

HEADINGS = ("accuracy", "95% interval", "graded", "unreadable", "failed", "cut off", "thinks", "tokens")
ROW = ("100.0%", "25.8–33.8%", "12,345", "100.0%", "0", "100.0%", "100.0%", "16,384")


def render(width: int, headings: tuple[str, ...] = HEADINGS, rows: tuple[tuple[str, ...], ...] = (ROW,)) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(fitted_table("a model on [some] data", headings, rows, width, ("name",)))
    return captured.get().splitlines()


def test_the_table_of_scores_fits_80_columns_whole() -> None:
    lines = render(80)
    assert all(value in "".join(lines) for value in (*HEADINGS, *ROW)) and not any("no room" in line for line in lines)


@given(st.integers(30, 120))
def test_no_value_is_cut(width: int) -> None:
    lines = render(width)
    assert all(len(line) <= width for line in lines) and not any("…" in line for line in lines)
    cells = next(line for line in lines if "100.0%" in line).split()
    assert tuple(cells) == ROW[: len(cells)]
    words = " ".join(" ".join(lines).split())
    assert len(cells) == len(ROW) or f"no room for {', '.join(HEADINGS[len(cells) :])}" in words


def test_texts_wrap_before_numbers_go() -> None:
    lines = render(40, ("name", "n", "share"), (("a very long name of a benchmark with [brackets]", "1,234", "99.9%"),))
    assert any("1,234" in line and "99.9%" in line for line in lines)
    assert "".join("".join(lines).split()).count("brackets") == 1
