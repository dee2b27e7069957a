"""What is around an answer and no part of it: tags, a JSON object, control tokens, a denied alternative."""

import json
import re
from typing import Any

from sophia_cli.models.thinking import answer_of
from sophia_cli.verifier.normalize import normalize
from sophia_cli.verifier.numbers import read_quantity

_TAG = re.compile(
    r"<(answer|conclusion|final[_ ]?answer|ans|result|response|output)>(.*?)(?:</\1>|$)"
    r"|\[(ANSWER)\](.*?)(?:\[/ANSWER\]|$)",
    re.DOTALL | re.IGNORECASE,
)
_GLM_BOX = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|$)", re.DOTALL)
_LEADING_TOKENS = re.compile(
    r"\s*(?:(?:(?:<\|(?:start_header_id|im_start|start|START_OF_TURN_TOKEN)\|>|<start_of_turn>)(?!\s*(?:user|system|human))"
    r"\s*(?:(?:assistant|model|gpt)\b)?\s*(?:<\|(?:end_header_id|message|CHATBOT_TOKEN)\|>)?"
    r"|<\|(?:assistant|begin_of_text|CHATBOT_TOKEN|START_TEXT|START_RESPONSE)\|>|<[|｜]Assistant[|｜]>|<s>|<bos>)\s*)+"
)
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|eot_id|eot|endoftext|end_of_text|end|return|END_OF_TURN_TOKEN|END_TEXT|END_RESPONSE|im_start|user)\|>"
    r"|</s>|<eos>|<end_of_turn>|<pad>|<[|｜]end▁of▁sentence[|｜]>"
)
_FENCE = re.compile(r"```(?:json)?\s*([{\[].*[}\]])\s*```", re.DOTALL | re.IGNORECASE)
_LATEX_IN_JSON = re.compile(r"(?<!\\)\\(?=[A-Za-z]{2}|[^\"\\/bfnrtu])")
_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_ANSWER_KEYS = ("finalanswer", "answer", "correctanswer", "result", "choice", "option", "correctoption", "答案")
MAX_JSON_CHARS, MAX_OBJECTS = 20_000, 50
"""Characters at the end in which an object is looked for, and opening braces from which one is read."""
_WORDS = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]+){0,2}")
_DENIALS = (
    re.compile(
        r"\s*(?:\\text\{\s*)?[(（](?:and )?(?:not|rather than|instead of|不是|而不是)\s*([^()（）]{1,40})[)）]\}?\s*[.。]?$",
        re.I,
    ),
    re.compile(r"\s*[,;，—-]\s*(?:and |but )?not\s+([^,;]{1,40})$", re.IGNORECASE),
    re.compile(r"\s+(?:rather than|instead of|as opposed to|and not|but not)\s+([^,;]{1,40})$", re.IGNORECASE),
)
_CHECKED = re.compile(
    r"\s*[;,]\s*(?:(?:I|we) (?:have )?)?(?:double-|re)?(?:checked|verified|confirmed|computed)\b[^;\d]{0,40}$"
)
_LETTERED = re.compile(r"[(（]?([A-H])[)）]?\s*[.．、)）]\s*(?=\S)(.+)|([A-D])\s*[:：]\s*(?=\S)([^,，]+)", re.DOTALL)
_PARENTHESIZED = re.compile(r"[(（]([A-H])[)）]\s*(?=\S)(.+)", re.DOTALL)
# `A、C、D` and `(A)(B)` are several letters, `A.M.` is none, and `H: 2, O: 1` has labels.
_SECOND_LETTER = re.compile(
    r"^\W*(?:(?:and|or|和|与|或)\W*)?(?!A\s+(?!and\b|or\b)[a-z])[A-J](?![A-Za-z])"  # not the article of `A square`
    r"|(?:^|[\s;,，；、])[(（]?[B-J][)）]?\s*[.:．：、)）]|^[A-Z]\.$|[,;]\s*\w+\s*:"
)
_BOLD_LETTER = re.compile(r"\\text(?:bf)?\s*\{\s*(\([A-J]\))\s*\}\s*(?:\\ )?")
MAX_LETTERED_CHARS = 200
"""Longest gold of a letter with its text; a longer one is a solution."""
_ANNOUNCED = re.compile(
    r"^(?:【(?:答案|解答)】\s*[:：]?|(?:正确|参考)?答案\s*[:：是为]|故?(?:应)?选择?\s*[:：]?|故答案为\s*[:：]?|[答解]\s*[:：]"
    r"|(?:ans|answer)\s*[.:]|(?:the )?(?:correct )?answer is:?\s|option\s(?=[A-J]$))\s*(?=\S)",
    re.IGNORECASE,
)
_EXPLANATION = re.compile(r"(?<=\S)\s*【(?:解析|分析|点评|详解|解答)】.*", re.DOTALL)


def without_tokens(text: str) -> str:
    r"""Returns a response with GLM's boxes as `\boxed{}`, without control tokens before it and what follows its turn."""
    if "<" not in text:
        return text
    text = _LEADING_TOKENS.sub("", text, count=1) if _LEADING_TOKENS.match(text) else text
    end = _END_OF_TURN.search(text)
    text = text[: end.start()] if end else text
    return _GLM_BOX.sub(lambda match: f"\\boxed{{{match[1]}}}", text) if "<|begin_of_box|>" in text else text


def tagged_answer(text: str) -> str | None:
    """Returns the content of the last `<answer>` or `<conclusion>`, which may be cut off."""
    found = _TAG.findall(text) if "<" in text or "[" in text else []
    return (found[-1][1] or found[-1][3]).strip() or None if found else None


def json_answer(text: str) -> str | None:
    """Returns the answer in a JSON object that is, begins or ends a response: {"answer": 17}."""
    if "}" not in text:
        return None
    text = text[-MAX_JSON_CHARS:]
    match = _FENCE.search(text)
    source = (match[1] if match else text.strip().rstrip(".。")).strip().strip("[]").strip()
    found = _object_within(source) if source.startswith("{") or source.endswith("}") else None
    if found is None:
        return None
    named = {re.sub(r"[\s_-]", "", str(name)).lower(): value for name, value in found.items()}
    key = next((key for key in _ANSWER_KEYS if key in named), None)
    return (_as_text(named[key]) or None) if key else None


def _object_within(source: str) -> dict[str, Any] | None:
    """Returns the object at the beginning of a text, or the outermost one at its end."""
    starts = [match.start() for match in re.finditer(r"\{", source)][-MAX_OBJECTS:]
    for start in starts:
        part = source[start:]
        for spelled in (part, _TRAILING_COMMA.sub("", _LATEX_IN_JSON.sub(r"\\\\", part)), part.replace("'", '"')):
            try:
                found, end = json.JSONDecoder().raw_decode(spelled)
            except (ValueError, RecursionError):
                continue
            rest = spelled[end:].strip()
            if isinstance(found, dict) and (not rest or (start == 0 and "{" not in rest)):
                return found
    return None


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).strip() if isinstance(value, str | int | float) else ""


def without_denial(answer: str) -> str:
    """Returns `17` for `17 (not 16)` and `17 rather than 16`: a denied alternative of the same kind is no second answer."""
    if (match := _CHECKED.search(answer)) and answer[: match.start()].strip():
        return answer[: match.start()].strip()
    for pattern in _DENIALS:
        match = pattern.search(answer)
        if match and _is_alternative(answer[: match.start()].strip(), match[1].strip(" .。")):
            return answer[: match.start()].strip()
    return answer


def _is_alternative(answer: str, denied: str) -> bool:
    """Tells whether a denied text could have been the answer: both are numbers, letters of options, or words."""
    if read_quantity(normalize(answer)):
        return read_quantity(normalize(denied)) is not None
    letters = [re.fullmatch(r"\(?[A-J]\)?", side) for side in (answer, denied)]
    words = [_WORDS.fullmatch(re.sub(r"^an? ", "", side)) for side in (answer, denied)]
    return all(letters) or (
        all(words) and denied.split()[0].lower() not in ("only", "the", "always", "counting", "including")
    )


def gold_readings(gold: str) -> list[str]:
    """Returns what a gold of a data set may mean: `<answer> 3 </answer>` is 3, `故选：B` is B, `A. 30` is A and 30."""
    gold = bare_gold(gold)
    lettered = split_letter(gold)
    return list(lettered) if lettered else [gold]


def bare_gold(gold: str) -> str:
    """Returns a gold without its thinking, tags, announcement and explanation."""
    gold = without_tokens((answer_of(gold) or gold) if "think" in gold else gold).strip()
    gold = json_answer(gold) or tagged_answer(gold) or gold
    if (boxed := re.fullmatch(r"\\boxed\{([^{}]*)\}", gold)) is not None:
        gold = boxed[1]
    return _BOLD_LETTER.sub(r"\1 ", _EXPLANATION.sub("", _ANNOUNCED.sub("", gold.strip()))).strip()


def split_letter(text: str) -> tuple[str, str] | None:
    """Returns the letter of an option and its text, as in `A. 30`; None for anything else, `A、C` included."""
    match = _LETTERED.fullmatch(text) or _PARENTHESIZED.fullmatch(text) if len(text) <= MAX_LETTERED_CHARS else None
    if not match:
        return None
    letter, rest = [group for group in match.groups() if group is not None]
    return None if _SECOND_LETTER.search(rest) else (letter, rest.strip())
