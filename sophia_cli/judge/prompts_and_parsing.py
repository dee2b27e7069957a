"""What the judge of answers is asked, and how its response is parsed.

One case per prompt: with several, one answer may influence the next. What the judge sees is bounded and delimited, so
that an answer cannot act as an instruction, and only the last line of its response counts. Where the rules find no
answer, the judge can also be asked for the answer alone, which the rules then grade.
"""

import re
from collections.abc import Mapping
from typing import Any

from sophia_cli.models.thinking import answer_of
from sophia_cli.prompts import fill_template, lettered_choices
from sophia_cli.prompts.image_marks import without_marks
from sophia_cli.records import choices_of

MAX_JUDGE_TOKENS = 4096
"""Tokens for the judge's thinking and answer."""
MAX_SHOWN_CHARS = 4000
"""Characters of a question, a gold, and an answer that the judge sees."""

_PROMPT_TAGS = re.compile(r"<\s*/?\s*(?:question|reference|answer|response)\b[^<>]*>", re.IGNORECASE)
_ANSWER = re.compile(r"answer\W{0,4}?:\s{0,4}(.+)", re.IGNORECASE)
_PARTS = re.compile(r"parts\W{0,4}([0-9]{1,3}) ?/ ?([0-9]{1,3})\W*", re.IGNORECASE)
_WORD = re.compile(r"verdict\W{0,4}(\w+)\W*", re.IGNORECASE)
_NOTHING = re.compile(r"(?:none|nothing|n/?a|not given|no(?: final)? answer)\b.*", re.IGNORECASE | re.DOTALL)
VERDICT_WORDS = {"correct": "correct", "right": "correct", "wrong": "wrong", "incorrect": "wrong"}
"""The judge's words, and their verdicts."""


def judge_question(item: Mapping[str, Any], extracted: str | None, prompt: str) -> str:
    """Returns the prompt with question, gold, options, and the answer, or the end of a response without an extracted
    answer.
    """
    answer = extracted if extracted is not None else final_text(item)
    blanks = {"question": whole_question(item), "gold": joined_golds(item), "answer": answer}
    return fill_template(prompt, {name: _end_of_text(text) for name, text in blanks.items()})


def final_text(item: Mapping[str, Any]) -> str:
    """Returns what a trajectory or response says after its thinking; empty if nothing."""
    return (answer_of(str(item.get("trajectory", item.get("response", "")))) or "").strip()


def extraction_question(item: Mapping[str, Any], prompt: str) -> str:
    """Returns the prompt that asks for the final answer of the item's response, whose end it shows."""
    blanks = {"question": whole_question(item), "response": final_text(item)}
    return fill_template(prompt, {name: _end_of_text(text) for name, text in blanks.items()})


def whole_question(item: Mapping[str, Any]) -> str:
    """Returns the question and its lettered options; for a drawn question, the text that the benchmark keeps for judges."""
    options = lettered_choices(choices_of(item))
    text = "\n".join([str(item.get("question_for_judge") or item.get("question") or ""), *options])
    images = item.get("image")
    return without_marks(text, len(images) if isinstance(images, list) else 1).strip()


def joined_golds(item: Mapping[str, Any]) -> str:
    """Returns the accepted golds in one line."""
    gold = item.get("answer")
    return " or ".join(str(each) for each in gold) if isinstance(gold, list) else str(gold)


def _end_of_text(text: str) -> str:
    """Returns the end of a text, without anything that could close its delimiters."""
    return strip_prompt_tags(text.strip()[-MAX_SHOWN_CHARS:]).strip()


def strip_prompt_tags(text: str) -> str:
    """Removes the tags of our prompts from a text, however they are written, including those that appear only after a
    removal.
    """
    while (bare := _PROMPT_TAGS.sub("", text)) != text:
        text = bare
    return text


def parse_answer(text: str) -> str | None:
    """Returns the answer that the judge's last line extracts; None where there is none."""
    match = _ANSWER.fullmatch(_last_line(text))
    answer = match[1].strip().strip("*`").strip() if match else ""
    return None if not answer or _NOTHING.fullmatch(answer) else answer


def parse_verdict(text: str) -> str:
    """Returns `correct`, `wrong`, or `ungradable` where the judge was unsure or gave no verdict."""
    return VERDICT_WORDS.get(verdict_word(text), "ungradable")


def parse_parts(text: str) -> tuple[int, int] | None:
    """Returns (correct parts, parts) from the judge's last line; None where it has none."""
    match = _PARTS.fullmatch(_last_line(text))
    right, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    return (right, parts) if parts and right <= parts else None


def verdict_word(text: str) -> str:
    """Returns the verdict of a response's last line in lower case; empty where there is none."""
    match = _WORD.fullmatch(_last_line(text))
    return match[1].lower() if match else ""


def _last_line(text: str) -> str:
    """Returns the last line after the thinking, without Markdown around it; empty where there is none."""
    lines = [line for line in (answer_of(text) or "").splitlines() if line.strip()]
    return lines[-1].strip().strip("*_`# ") if lines else ""
