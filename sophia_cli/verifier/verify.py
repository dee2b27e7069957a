"""The entry point of the verifier: R(y) of Eq. 4. Extracts the final answer of a response and compares it with the gold."""

import time
from collections.abc import Mapping
from typing import Any

from sophia_cli.models.thinking import ThinkTags, answer_of
from sophia_cli.records import choices_of
from sophia_cli.verifier import option_letters, words
from sophia_cli.verifier.extract import Extraction, extract_answer, gold_answer
from sophia_cli.verifier.normalize import MAX_NORMALIZED_CHARS, normalize
from sophia_cli.verifier.rules import apply_rules, equal_parts
from sophia_cli.verifier.types import GradingCase, Verdict
from sophia_cli.verifier.wrappings import bare_gold, gold_readings, split_letter, without_denial

# A comparison takes milliseconds; sympy does not end on some expressions.
DEFAULT_SECONDS = 5.0


def verify(
    response: str,
    item: Mapping[str, Any],
    truncated: bool = False,
    seconds: float = DEFAULT_SECONDS,
    think_tags: ThinkTags | None = None,
) -> Verdict:
    r"""Grades the final answer of a response against `item["answer"]`; R(y) of Eq. 4 is the verdict's `reward`.

    The answer is the content of the last `\boxed{}` after the thinking, else what follows a final-answer phrase.

    Args:
        response: The whole response.
        item: Its `answer` is the gold, or a list of accepted golds. It may have `choices`, `answer_type`, `tolerance`
            (absolute), `precision` (decimals), `unit` and `language`.
        truncated: The token limit cut the response off, so it has no final answer (method.md).
        seconds: Time limit for algebra.
        think_tags: Marks of the thinking that `models/thinking.py` does not know.

    Raises:
        RecordError: `choices` is not a list. Nothing else is raised, whatever the response contains.


    >>> verify(r"so \boxed{0.5}", {"answer": r"\frac{1}{2}"})
    Verdict(verdict='correct', extracted='0.5', verified_by='number')
    >>> verify(r"\boxed{50\text{ cm}}", {"answer": "0.5", "unit": "m"}).verdict
    'correct'
    >>> verify(r"\boxed{50 kg}", {"answer": "0.5 m"}).verdict
    'wrong'
    >>> verify("The answer is (B) 12.", {"answer": "12", "choices": ["10", "12"]}).verified_by
    'choice'
    >>> verify(r"\boxed{1.6\times10^{-19}}", {"answer": "3.2e-19"}).reward
    0.0
    >>> verify(r"\boxed{3.14}", {"answer": "3.14159", "tolerance": 0.01}).reward
    1.0
    >>> verify(r"\boxed{0 < x < 1}", {"answer": "(0, 1)"}).verified_by
    'interval'
    >>> verify("<think>7? 8?</think> 故答案为：８", {"answer": "8"}).verdict
    'correct'
    >>> verify("<think>I think it is 8", {"answer": "8"}).verdict
    'truncated'
    >>> verify(r"\boxed{8}", {"answer": ""})
    Verdict(verdict='ungradable', extracted='8', verified_by='the gold answer is empty or not a text')
    """
    text = None if truncated else answer_of(response, think_tags)
    if text is None:
        return Verdict("truncated", None, "length" if truncated else "unclosed thinking")
    choices = tuple(option_letters.option_texts(choices_of(item)))
    golds = _accepted_golds(item.get("answer"))
    case = GradingCase(item, choices, time.monotonic() + seconds, equal_parts)
    extraction = extract_answer(text, by_letter=bool(choices) or any(option_letters.is_letter_gold(gold) for gold in golds))
    if extraction is None:
        return Verdict("no_answer", None, "extraction")
    if not golds:
        return Verdict("ungradable", shown_answer(extraction.answers[0]), "the gold answer is empty or not a text")
    verdict = _judge_extraction(extraction, golds, case)
    if verdict.verdict == "correct" and _names_another_letter(verdict.extracted, item.get("answer")):
        return Verdict("wrong", verdict.extracted, "choice")
    return verdict


def _names_another_letter(answer: str | None, gold: Any) -> bool:
    """Tells whether an answer has the text of a gold such as `B. square`, but the letter of another option."""
    wanted = split_letter(bare_gold(gold)) if isinstance(gold, str) else None
    found = split_letter(answer or "") if wanted else None
    return bool(wanted and found and wanted[0] != found[0])


def _accepted_golds(answer: Any) -> list[str]:
    """Returns the accepted golds, normalized: one, those of a list, or those that MV-MATH separates by `##`."""
    found = []
    for gold in answer if isinstance(answer, list) else [answer]:
        if isinstance(gold, bool):
            gold = "yes" if gold else "no"
        if isinstance(gold, int | float):
            gold = repr(gold) if isinstance(gold, int) else f"{gold:.15g}"
        if isinstance(gold, str):
            parts = [each for part in gold.replace("\\#\\#", "##").split("##") for each in gold_readings(part)]
            found += [tidied for part in parts if (tidied := _normalize_gold(part))]
    return found


def _normalize_gold(gold: str) -> str:
    answer = gold_answer(gold)
    return normalize(answer) if len(answer) <= MAX_NORMALIZED_CHARS else answer.strip()


def _judge_extraction(extraction: Extraction, golds: list[str], case: GradingCase) -> Verdict:
    """Returns the verdict on the first candidate that is an answer. Prose is skipped, a wrong answer is not.

    Otherwise a response with two answers would be right when either is.
    """
    first: Verdict | None = None
    for answer in extraction.answers:
        verdict = _judge_reading(answer, golds, case)
        if verdict.verdict != "correct" and (affirmed := without_denial(answer)) != answer:
            other = _judge_reading(affirmed, golds, case)
            verdict = other if other.verdict == "correct" else verdict
        if verdict.verdict == "correct":
            return verdict
        first = first or verdict
        if not extraction.only_if_right and not words.is_prose(normalize(answer[:MAX_NORMALIZED_CHARS])):
            return verdict
    return Verdict("no_answer", None, "extraction") if extraction.only_if_right or first is None else first


def _judge_reading(answer: str, golds: list[str], case: GradingCase) -> Verdict:
    """Returns the verdict on one candidate: right if it equals any gold; cannot tell if that holds for some gold and no
    other is met.
    """
    verdicts = []
    for gold in golds:
        outcome, rule = _judge_text(answer, gold, case)
        verdicts.append(Verdict(outcome, shown_answer(answer), rule))
        if outcome == "correct":
            return verdicts[-1]
    return next((verdict for verdict in verdicts if verdict.reward is None), verdicts[0])


def shown_answer(answer: str) -> str:
    """Returns an answer as a record stores it: capped, and valid UTF-8."""
    return answer[:MAX_NORMALIZED_CHARS].encode("utf-8", "replace").decode()


def _judge_text(answer: str, gold: str, case: GradingCase) -> tuple[str, str]:
    """Like `apply_rules`, for an answer as extracted. One too long to normalize is right only if it equals the gold."""
    if len(answer) > MAX_NORMALIZED_CHARS:
        return ("correct", "same_text") if answer.strip() == gold else ("wrong", "size")
    return apply_rules(normalize(answer), gold, case)
