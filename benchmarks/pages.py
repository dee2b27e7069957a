"""Tables in the docs that a benchmark rewrites, between two HTML comments."""

from pathlib import Path


def write(page: Path, text: str, name: str = "benchmark") -> None:
    """Replaces the text between the comments of this name."""
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(first)
    _, _, after = rest.partition(last)
    page.write_text(f"{before}{first}\n{text}\n{last}{after}", encoding="utf-8")
