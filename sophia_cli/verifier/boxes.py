"""Finds the boxes of a text, `\\boxed{…}`, and what they contain."""

import re

from sophia_cli.verifier.normalize import MAX_NORMALIZED_CHARS

# The final answer is at the end; a response may have millions of characters.
TAIL_CHARS = 20_000
BOX = re.compile(r"(?:\\boxed|\\fbox|\x08oxed|(?<![A-Za-z\\])boxed)\s*\{")  # a JSON reader turns \b into a backspace
BARE_BOX = re.compile(r"\\boxed(?:\s+|(?=-?\d))([^\s{}$.,]{1,40})")
STRAY_BOX = re.compile(r"\\boxed\{([^{}]{1,200})\\\}")
EMPTY_BOX = re.compile(r"\\boxed\s{0,3}\{\s{0,3}\}")
BRACE = re.compile(r"\\[\\{}]|[{}]")
# Models that loop write thousands of boxes; only the last ones can be the answer.
MAX_BOXES = 200


def last_box(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{…}` with balanced braces; of nested boxes, the outermost."""
    if "oxed" not in text and "\\fbox" not in text:
        return None
    found: tuple[int, str] | None = None
    limit = len(text)
    for start in [match.end() for match in BOX.finditer(text)][: -MAX_BOXES - 1 : -1]:
        content = _balanced_braces(text, start, limit)
        limit = start + 4 * MAX_NORMALIZED_CHARS  # only the last box may be long
        if not content or not content.strip():
            continue
        if found is not None and start + len(content) < found[0]:
            break
        # Boxes are read from the last to the first; an earlier one replaces it only if it encloses it.
        found = (start + len(content), content)
    if found is not None:
        return found[1]
    for spelling in (BARE_BOX, STRAY_BOX):
        if contents := spelling.findall(text[-TAIL_CHARS:]):
            return str(contents[-1])
    return None


def _balanced_braces(text: str, start: int, limit: int) -> str | None:
    """Returns the text between a brace that opens before `start` and its closing brace."""
    depth = 1
    for match in BRACE.finditer(text, start, limit):
        if len(match[0]) == 1:
            depth += 1 if match[0] == "{" else -1
            if depth == 0:
                return text[start : match.start()]
    return None


def join_last_boxes(gold: str) -> str | None:
    """Joins the contents of the last boxes with commas, where at most a word or two separates them."""
    boxes = [(match.start(), match.end()) for match in BOX.finditer(gold)][-MAX_BOXES:]
    parts: list[str] = []
    following = 0
    for start, end in reversed(boxes):
        content = _balanced_braces(gold, end, len(gold))
        if content is None:
            continue
        between = gold[end + len(content) + 1 : following]
        if parts and (len(re.findall(r"\w+", between)) > 3 or len(between) > 40):
            break
        parts.insert(0, content)
        following = start
    return ", ".join(parts) if parts else None
