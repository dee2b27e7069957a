"""Tables in the docs that a benchmark remakes, between two marks."""

from pathlib import Path

MARKS = ("<!-- benchmark -->", "<!-- end of benchmark -->")


def write(page: Path, text: str) -> None:
    """Puts a text between the marks of a page."""
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")
