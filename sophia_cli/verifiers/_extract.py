"""The final answer of a response: after the thinking, the last box, else a final-answer phrase, else none (no guess)."""

import re

from sophia_cli.records import THINK_CLOSE, THINK_OPEN

BOX = "\\boxed{"
LONGEST = 4096

PHRASES = (
    re.compile(r"\banswer\b[ ]{0,3}(?:is|:|=|：)[ ]{0,9}([^\s][^\n]{0,300})", re.IGNORECASE),
    re.compile(r"(?:答案|故选|应选|因此选|所以选)[ ]{0,3}(?:是|为|:|：)?[ ]{0,9}([^\s。][^\n。]{0,300})"),
)


def after_thinking(response: str) -> str | None:
    """The text after the last closed thinking; the whole text when nobody thought; None when the thinking never closes."""
    before, closed, rest = response.rpartition(THINK_CLOSE)
    if closed:
        return None if THINK_OPEN in rest else rest
    return None if THINK_OPEN in response else response


def final_answer(text: str) -> str | None:
    """The last boxed answer of a text, else what follows its last final-answer phrase, else None."""
    boxed = last_box(text)
    if boxed is not None:
        return boxed.strip() or None
    for phrase in PHRASES:
        found = phrase.findall(text[-20_000:])
        if found:
            return str(found[-1]).strip().rstrip(".。").strip("*").strip() or None
    return None


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{…}` whose braces balance. Linear in the length of the text."""
    start = text.rfind(BOX)
    while start >= 0:
        content = _balanced(text, start + len(BOX))
        if content is not None:
            return content
        start = text.rfind(BOX, 0, start)
        if start >= 0 and len(text) - start > 4 * LONGEST:
            return None
    return None


def _balanced(text: str, start: int) -> str | None:
    depth = 1
    for index in range(start, min(len(text), start + 4 * LONGEST)):
        mark = text[index]
        if mark in "{}" and text[index - 1] != "\\":
            depth += 1 if mark == "{" else -1
            if depth == 0:
                return text[start:index]
    return None
