"""A model as the verifier of what rules cannot settle (`--judge`): what it is asked, and how its word is read.

One case a prompt: several at once let one answer colour the next, and nobody has shown that it does no harm. What it is
shown is bounded, and marked off, so that an answer cannot pass for an instruction; only its own last line is read. A judge
can also be asked for the answer alone, where the rules read none off a response; they judge it then.
"""

import re
from collections.abc import Mapping
from typing import Any

from sophia_cli.prompts import fill_template, lettered_choices
from sophia_cli.verifier.extract import after_thinking

MAX_JUDGE_TOKENS = 4096
"""Tokens that a judge may think and answer in."""
MAX_SHOWN_CHARS = 4000
"""Characters of a question, a gold, and an answer that a judge is shown."""

_PROMPT_TAGS = re.compile(r"<\s*/?\s*(?:question|reference|answer|response)\b[^<>]*>", re.IGNORECASE)
_ANSWER = re.compile(r"answer\W{0,4}?:\s{0,4}(.+)", re.IGNORECASE)
_PARTS = re.compile(r"parts\W{0,4}([0-9]{1,3}) ?/ ?([0-9]{1,3})\W*", re.IGNORECASE)
_WORD = re.compile(r"verdict\W{0,4}(\w+)\W*", re.IGNORECASE)
_NOTHING = re.compile(r"(?:none|nothing|n/?a|not given|no(?: final)? answer)\b.*", re.IGNORECASE | re.DOTALL)
VERDICT_WORDS = {"correct": "correct", "right": "correct", "wrong": "wrong", "incorrect": "wrong"}
"""What a judge may say, and the verdict that it is."""


def judge_question(item: Mapping[str, Any], extracted: str | None, prompt: str) -> str:
    """The prompt with the item's question, gold and options, and the answer, or the end of a response that boxed none."""
    answer = extracted if extracted is not None else final_text(item)
    blanks = {"question": whole_question(item), "gold": joined_golds(item), "answer": answer}
    return fill_template(prompt, {name: _end_of_text(text) for name, text in blanks.items()})


def final_text(item: Mapping[str, Any]) -> str:
    """What a trajectory or response says after its thinking; empty where that is nothing."""
    return (after_thinking(str(item.get("trajectory", item.get("response", "")))) or "").strip()


def extraction_question(item: Mapping[str, Any], prompt: str) -> str:
    """The prompt that asks for the final answer of the item's response, whose end it is shown."""
    blanks = {"question": whole_question(item), "response": final_text(item)}
    return fill_template(prompt, {name: _end_of_text(text) for name, text in blanks.items()})


def whole_question(item: Mapping[str, Any]) -> str:
    """The question and its lettered options; of one that is drawn, the text that a benchmark keeps for judges."""
    choices = item.get("choices")
    options = lettered_choices([str(choice) for choice in choices]) if isinstance(choices, list) else []
    return "\n".join([str(item.get("question_for_judge") or item.get("question") or ""), *options]).strip()


def joined_golds(item: Mapping[str, Any]) -> str:
    """The accepted golds in one line."""
    gold = item.get("answer")
    return " or ".join(str(each) for each in gold) if isinstance(gold, list) else str(gold)


def _end_of_text(text: str) -> str:
    """The end of a text, without what could close the marks it stands in."""
    return strip_prompt_tags(text.strip()[-MAX_SHOWN_CHARS:]).strip()


def strip_prompt_tags(text: str) -> str:
    """A text without tags of the prompts, however they are written, those too that only their removal would make."""
    while (bare := _PROMPT_TAGS.sub("", text)) != text:
        text = bare
    return text


def parse_answer(text: str) -> str | None:
    """The answer that the last line of what a judge said gives of a response; None where that is none, or no such line."""
    match = _ANSWER.fullmatch(_last_line(text))
    answer = match[1].strip().strip("*`").strip() if match else ""
    return None if not answer or _NOTHING.fullmatch(answer) else answer


def parse_verdict(text: str) -> str:
    """`correct`, `wrong`, or `ungradable`: the judge was unsure, or what it said is no verdict."""
    return VERDICT_WORDS.get(verdict_word(text), "ungradable")


def parse_parts(text: str) -> tuple[int, int] | None:
    """How many parts of how many are right, by the last line of what a judge said; None where it gives no such share."""
    match = _PARTS.fullmatch(_last_line(text))
    right, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    return (right, parts) if parts and right <= parts else None


def verdict_word(text: str) -> str:
    """What the last line of a response gives as its verdict, in small letters; empty where it gives none."""
    match = _WORD.fullmatch(_last_line(text))
    return match[1].lower() if match else ""


def _last_line(text: str) -> str:
    """The last line of what a judge said after its thinking, without Markdown around it; empty where there is none."""
    lines = [line for line in (after_thinking(text) or "").splitlines() if line.strip()]
    return lines[-1].strip().strip("*_`# ") if lines else ""
