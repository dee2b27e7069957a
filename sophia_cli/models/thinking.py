"""How models mark their thinking: one table of tags, and the functions that split a response at them.

Stored text marks thinking with `<think>` and `</think>` (contract.md, "Thinking"), whatever the model's own marks are. To
add a dialect, add a row to `DIALECTS` with an example; a test runs the examples.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from sophia_cli.records import THINK_CLOSE, THINK_OPEN

_WORDS = (
    r"(?:think(?:ing)?(?:_fast(?:er)?|_process)?|thoughts?|reason(?:ing)?|reflection|scratchpad|inner_monologue|analysis"
    r"|rationale|cot)"
)


@dataclass(frozen=True)
class ThinkingDialect:
    """One way to mark thinking.

    Attributes:
        example: A response whose thinking is `2 + 3?` and whose answer is `5`.
        opens, closes: Patterns of the marks around the thinking. Letters match in any case.
        wraps: A pattern of marks around the answer, which are removed.
    """

    example: str
    opens: str
    closes: str
    wraps: str = ""


DIALECTS = (
    # <think> (DeepSeek, Qwen), <thinking>, <thought>, <reasoning>, <Think>, <seed:think>, <longcat_think>
    ThinkingDialect(
        "<seed:think>2 + 3?</seed:think>5",
        rf"<\s?(?:[a-z]{{2,12}}[:_])?{_WORDS}(?:\s[^<>]{{0,60}})?>",
        rf"<\s?/\s?(?:[a-z]{{2,12}}[:_])?{_WORDS}\s?>",
    ),
    # Mistral's Magistral
    ThinkingDialect("[THINK]2 + 3?[/THINK]5", r"\[THINK(?:ING)?\]", r"\[/THINK(?:ING)?\]"),
    # Kimi
    ThinkingDialect("◁think▷2 + 3?◁/think▷5", "◁think▷", "◁/think▷"),
    # Cohere's Command A
    ThinkingDialect(
        "<|START_THINKING|>2 + 3?<|END_THINKING|><|START_RESPONSE|>5<|END_RESPONSE|>",
        rf"<\|(?:START|BEGIN)(?:_OF)?_{_WORDS}\|>",
        rf"<\|END(?:_OF)?_{_WORDS}\|>",
        r"<\|(?:START|END)_RESPONSE\|>",
    ),
    # Open Thoughts, Sky-T1
    ThinkingDialect(
        "<|begin_of_thought|>2 + 3?<|end_of_thought|>\n<|begin_of_solution|>5<|end_of_solution|>",
        r"<\|begin_of_thought\|>",
        r"<\|end_of_thought\|>",
        r"<\|(?:begin|end)_of_solution\|>",
    ),
    ThinkingDialect("<|think|>2 + 3?<|/think|>5", r"<[|｜]think(?:ing)?[|｜]>", r"<[|｜]/think(?:ing)?[|｜]>"),
    ThinkingDialect("【think】2 + 3?【/think】5", "【think】", "【/think】"),
    # Apertus
    ThinkingDialect("<|inner_prefix|>2 + 3?<|inner_suffix|>5", r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    # MedGemma
    ThinkingDialect("<unused94>thought\n2 + 3?<unused95>5", r"<unused94>(?:thought\b)?", r"<unused95>"),
    # Gemma 4
    ThinkingDialect("<|channel>thought\n2 + 3?<channel|>5", r"<\|channel>(?:thought\b)?", r"<channel\|>"),
    # gpt-oss: every channel before `final` is thinking
    ThinkingDialect(
        "<|channel|>analysis<|message|>2 + 3?<|end|><|start|>assistant<|channel|>final<|message|>5<|return|>",
        r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>",
        r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>"
        r"|<\|end\|><\|start\|>assistant<\|message\|>",
        r"<\|return\|>",
    ),
)


@dataclass(frozen=True)
class ThinkTags:
    """The user's own marks (`--think-tags OPEN CLOSE`), for models that the table does not know."""

    opens: str
    closes: str


@lru_cache(maxsize=8)
def _patterns(own: ThinkTags | None) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Returns the pattern of a mark's first letter, and that of a mark, with a group `open` or `close`."""
    opens, closes = [each.opens for each in DIALECTS], [each.closes for each in DIALECTS]
    if own:
        opens, closes = [re.escape(own.opens), *opens], [re.escape(own.closes), *closes]
    first = {"<", "[", "◁", "【", *((own.opens[0], own.closes[0]) if own else ())}
    marks = rf"(?P<open>{'|'.join(opens)})|(?P<close>{'|'.join(closes)})"
    may_begin = re.compile(f"[{re.escape(''.join(sorted(first)))}]", re.IGNORECASE if own else 0)
    return may_begin, re.compile(marks, re.IGNORECASE)


_WRAPS = re.compile("|".join(each.wraps for each in DIALECTS if each.wraps), re.IGNORECASE)


def _find_marks(text: str, own: ThinkTags | None) -> list[re.Match[str]]:
    """Returns all marks in order. The first letter is searched alone: that is ten times as fast as the whole pattern."""
    first, marks = _patterns(own)
    found: list[re.Match[str]] = []
    for start in first.finditer(text):
        inside = found and start.start() < found[-1].end()
        if not inside and (match := marks.match(text, start.start())):
            found.append(match)
    return found


def to_think_tags(text: str, own: ThinkTags | None = None) -> str:
    """Returns a response with its thinking between `<think>` and `</think>`.

    An opening mark that the chat template wrote, and the response therefore lacks, is added.
    """
    found = _find_marks(text, own)
    if any(match[0] not in (THINK_OPEN, THINK_CLOSE) for match in found):
        text = _rewritten(text, found)
    before, closed, _ = text.partition(THINK_CLOSE)
    return f"{THINK_OPEN}\n{text.lstrip()}" if closed and THINK_OPEN not in before else text


def _rewritten(text: str, found: list[re.Match[str]]) -> str:
    parts, end, inside = [], 0, False
    for match in found:
        parts.append(text[end : match.start()])
        if match["close"]:
            parts.append(THINK_CLOSE)
        else:  # a channel may follow a channel: both are one thinking
            parts.append("\n" if inside else THINK_OPEN)
        end, inside = match.end(), not match["close"]
    return "".join(parts) + _WRAPS.sub("", text[end:])


def answer_of(response: str, own: ThinkTags | None = None) -> str | None:
    """Returns the text after the thinking: the whole text where there is none, None where the thinking never closes.

    Where nothing follows, the answer came first: `5 <reasoning>2 + 3</reasoning>`.
    """
    found = _find_marks(response, own)
    if not found:
        return response
    if found[-1]["open"]:
        return None
    answer = response[found[-1].end() :]
    if not answer.strip() and len(found) > 1 and found[-2]["open"] and response[: found[-2].start()].strip():
        return answer_of(response[: found[-2].start()], own)
    return _WRAPS.sub("", answer) if "<|" in answer else answer


def has_marks(text: str, own: ThinkTags | None = None) -> bool:
    """Tells whether a text has marks of thinking."""
    return bool(_find_marks(text, own))


def leaves_open(prompt: str, own: ThinkTags | None = None) -> bool:
    """Tells whether a prompt ends with an opening mark, so that a response begins inside the thinking (QwQ, R1)."""
    found = _find_marks(prompt[-200:], own)
    return bool(found and found[-1]["open"]) and not prompt[-200:][found[-1].end() :].strip()


def thinking_of(response: str) -> str:
    """Returns the thinking of a response whose marks are `<think>` and `</think>`; an empty text where there is none."""
    _, opened, rest = response.partition(THINK_OPEN)
    return rest.partition(THINK_CLOSE)[0] if opened else ""
