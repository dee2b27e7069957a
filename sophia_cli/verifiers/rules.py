"""The rule verifier: extraction, then cheap exact rules in the order of `RULES`, then algebra (Eq. 4).

Each rule is a small function (answer, gold, item) → True, False, or None when it has no say; the first that has one
settles it and gives `verified_by` its name.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from sophia_cli.records import LETTERS, choices_of
from sophia_cli.verifiers._algebra import equal
from sophia_cli.verifiers._extract import LONGEST, after_thinking, final_answer
from sophia_cli.verifiers._verdict import Verdict

SECONDS = 5.0
SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")

Rule = Callable[[str, str, Mapping[str, Any]], bool | None]


def verify(response: str, item: Mapping[str, Any], truncated: bool = False, seconds: float = SECONDS) -> Verdict:
    """Judges the final answer of a response against `item["answer"]`.

    truncated: the response was cut off by the token limit, so it has no final answer (method.md).
    seconds: wall-clock limit for algebra on one answer.
    """
    text = None if truncated else after_thinking(response)
    if text is None:
        return Verdict("truncated", None, "length" if truncated else "unclosed thinking")
    answer = final_answer(text)
    if answer is None:
        return Verdict("no_answer", None, "extraction")
    gold = item.get("answer")
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    if not isinstance(gold, str) or not tidy(gold):
        return Verdict("ungradable", answer, "the gold answer is empty or no text")
    answer = answer[:LONGEST]
    for rule in RULES:
        right = rule(tidy(answer), tidy(gold), item)
        if right is not None:
            return Verdict("correct" if right else "wrong", answer, rule.__name__.strip("_"))
    outcome = equal(tidy(gold), tidy(answer), seconds)
    return Verdict(outcome, answer, "math-verify")


def tidy(text: str) -> str:
    """One spelling for one thing: NFKC, no dollar signs, no `\\text{}`, no thin spaces, no final full stop."""
    text = SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/").strip()
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[,;:! ]|\\left|\\right|\$", "", text)
    return text.strip().rstrip(".。").strip()


def _choice(answer: str, gold: str, item: Mapping[str, Any]) -> bool | None:
    """A letter or its option's value, on either side, where the item gives options."""
    choices = [tidy(choice) for choice in choices_of(item)]
    if not choices:
        return None
    picked, wanted = _option(answer, choices), _option(gold, choices)
    return (
        None
        if wanted is None
        else False
        if picked is None and _letter(answer)
        else None
        if picked is None
        else picked == wanted
    )


def _option(text: str, choices: list[str]) -> int | None:
    """The index of the option that a text names by letter, by value, or by both."""
    letter = _letter(text)
    if letter and LETTERS.index(letter) < len(choices):
        return LETTERS.index(letter)
    same = [index for index, choice in enumerate(choices) if _fold(choice) == _fold(text)]
    return same[0] if len(same) == 1 else None


def _letter(text: str) -> str | None:
    """`B` of `B`, `(B)`, `B.`, `B) 7`, `option B`."""
    match = re.fullmatch(
        r"(?:option|choice|选项?)?\s*[(\[]?([A-Z])[)\].:、]?(?:[).:、]\s*.*|\s*)", text, re.DOTALL | re.IGNORECASE
    )
    return match[1].upper() if match and (match[1].isupper() or len(text) <= 3) else None


def _same_text(answer: str, gold: str, item: Mapping[str, Any]) -> bool | None:
    return True if re.sub(r"\s+", "", answer) == re.sub(r"\s+", "", gold) else None


def _number(answer: str, gold: str, item: Mapping[str, Any]) -> bool | None:
    """Two plain numbers, with the item's `tolerance` if it has one, else exactly."""
    left, right = _plain_number(answer), _plain_number(gold)
    if left is None or right is None:
        return None
    tolerance = item.get("tolerance")
    if isinstance(tolerance, int | float) and not isinstance(tolerance, bool) and math.isfinite(tolerance):
        return abs(left - right) <= Fraction(str(tolerance))
    return left == right


def _plain_number(text: str) -> Fraction | None:
    text = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", text)
    if not re.fullmatch(r"[-+]?(\d{1,200}(\.\d{0,200})?|\.\d{1,200})([eE][-+]?\d{1,2})?", text):
        return None
    return Fraction(text.rstrip("."))


def _word(answer: str, gold: str, item: Mapping[str, Any]) -> bool | None:
    """Two words or phrases without any mathematics in them: equal up to case, or not equal."""
    if not (_is_word(answer) and _is_word(gold)):
        return None
    return _fold(answer) == _fold(gold)


def _is_word(text: str) -> bool:
    return bool(re.fullmatch(r"[^\W\d_]{2,}([\s'-]+[^\W\d_]+)*|[一-鿿]+", text))


def _fold(text: str) -> str:
    return re.sub(r"\s+", " ", text).casefold().strip()


RULES: tuple[Rule, ...] = (_choice, _same_text, _number, _word)
