"""What is around an answer and no part of it: tags, a JSON object, control tokens, a denied alternative."""

import ast
import json
import re
import warnings
from typing import Any

_TAG = re.compile(r"<(answer|conclusion|final_answer)>(.*?)(?:</\1>|$)", re.DOTALL | re.IGNORECASE)
_GLM_BOX = re.compile(r"<\|begin_of_box\|>(.*?)<\|end_of_box\|>", re.DOTALL)
_LEADING_TOKENS = re.compile(
    r"\s*(?:<\|(?:start_header_id|im_start|start)\|>\s*\w{0,20}\s*(?:<\|(?:end_header_id|message)\|>)?\s*)+"
)
_FENCE = re.compile(r"```(?:json)?\s*(\{.*\})\s*```\s*$", re.DOTALL | re.IGNORECASE)
_LAST_OBJECT = re.compile(r"\{[^{}]{1,4000}\}\s*$")
_ANSWER_KEYS = ("answer", "finalanswer", "result")
_DENIALS = (
    re.compile(r"\s*[(（](?:and )?(?:not|rather than|instead of)\s+[^()（）]{1,40}[)）]\s*\.?$", re.IGNORECASE),
    re.compile(r"\s*[,;，]\s*(?:and |but )?not\s+[^,;]{1,40}$", re.IGNORECASE),
    re.compile(r"\s+(?:rather than|instead of|and not|but not)\s+[^,;]{1,40}$", re.IGNORECASE),
    re.compile(r"\s*;\s*(?:I|we)\s[^;]{3,60}$"),
)
_LETTERED = re.compile(r"[(（]?([A-H])[)）]?\s*[.:．：、)）]\s*(?=\S)(.+)", re.DOTALL)
_PARENTHESIZED = re.compile(r"[(（]([A-H])[)）]\s*(?=\S)(.+)", re.DOTALL)
# `A、C、D` and `(A)(B)` are several letters, not a letter and its text.
_SECOND_LETTER = re.compile(
    r"^\W*(?:(?:and|or|和|与|或)\W*)?(?!A\s+(?!and\b|or\b)[a-z])[A-J](?![A-Za-z])"  # not the article of `A square`
    r"|(?:^|[\s;,，；、])[(（]?[B-J][)）]?\s*[.:．：、)）]"
)
MAX_LETTERED_CHARS = 200
"""Longest gold of a letter with its text; a longer one is a solution."""
_ANNOUNCED = re.compile(r"^(?:【答案】|答案\s*[:：]|故?(?:应)?选\s*[:：]?|故答案为\s*[:：]?)\s*(?=\S)")


def without_tokens(text: str) -> str:
    r"""Returns a response with GLM's boxes as `\boxed{}` and without the control tokens before it."""
    if "<|" not in text:
        return text
    return _LEADING_TOKENS.sub("", _GLM_BOX.sub(lambda match: f"\\boxed{{{match[1]}}}", text), count=1)


def tagged_answer(text: str) -> str | None:
    """Returns the content of the last `<answer>` or `<conclusion>`, which may be cut off."""
    found = _TAG.findall(text) if "<" in text else []
    return found[-1][1].strip() or None if found else None


def json_answer(text: str) -> str | None:
    """Returns the answer in a JSON object that ends a response: {"answer": 17}."""
    if "}" not in text[-40:]:
        return None
    match = _FENCE.search(text) or _LAST_OBJECT.search(text)
    if not match:
        return None
    source = match[1] if match.re is _FENCE else match[0]
    for read in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python warns of `\\c` in a literal
                found = read(source.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        if isinstance(found, dict):
            named = {re.sub(r"[\s_-]", "", str(name)).lower(): value for name, value in found.items()}
            return next((text for key in _ANSWER_KEYS if (text := _as_text(named.get(key)))), None)
    return None


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).strip() if isinstance(value, str | int | float) else ""


def without_denial(answer: str) -> str:
    """Returns `17` for `17 (not 16)` and `17 rather than 16`: a denied alternative is no second answer."""
    for pattern in _DENIALS:
        if (match := pattern.search(answer)) and answer[: match.start()].strip():
            return answer[: match.start()].strip()
    return answer


def gold_readings(gold: str) -> list[str]:
    """Returns what a gold of a data set may mean: `<answer> 3 </answer>` is 3, `故选：B` is B, `A. 30` is A and 30."""
    gold = _ANNOUNCED.sub("", (tagged_answer(gold) or gold).strip())
    lettered = _LETTERED.fullmatch(gold) or _PARENTHESIZED.fullmatch(gold)
    if not lettered or len(gold) > MAX_LETTERED_CHARS or _SECOND_LETTER.search(lettered[2]):
        return [gold]
    return [lettered[1], lettered[2].strip()]
