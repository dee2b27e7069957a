"""Rewrites times as people say them into digits: `half past three` is 3:30, `一个半小时` is 1.5小时, `三月` is 3月."""

import re

from sophia_cli.verifier.han import han_number
from sophia_cli.verifier.numbers import SMALL_NUMBERS

_HAN_DIGITS = "〇零一二两三四五六七八九十百"
_HAN_DIGIT = str.maketrans("〇零一二三四五六七八九", "00123456789")
_TRADITIONAL = str.maketrans("時點鐘", "时点钟")
_HAN_YEAR = re.compile(r"[〇零一二三四五六七八九]{4}(?=\s*年)")
_HAN_NUMBER = re.compile(rf"[{_HAN_DIGITS}]+(?=\s*(?:个|半|点|时|刻|分|秒|年|月|日|号|天|小时|$))")
_TENS = "|".join(word for word, number in SMALL_NUMBERS.items() if number >= 20)
_UNITS = "|".join(word for word, number in SMALL_NUMBERS.items() if 0 < number < 10)
_ENGLISH_NUMBER = re.compile(rf"\b(?:(?:{_TENS})[- ](?:{_UNITS})|{'|'.join(SMALL_NUMBERS)})\b(?! percent)")
_CHINESE = (
    (re.compile(r"(?<=小时)零(?=\d)|(?<=点)零(?=\d)"), ""),
    (re.compile(r"差(\d{1,2})分?(?:到)?(\d{1,2})点"), lambda match: _minutes_to(int(match[1]), int(match[2]))),
    (re.compile(r"差(\d)刻(?:到)?(\d{1,2})点"), lambda match: _minutes_to(15 * int(match[1]), int(match[2]))),
    (re.compile(r"(?<=点)(\d)刻"), lambda match: f"{15 * int(match[1])}分"),
    (re.compile(r"(\d)刻钟"), lambda match: f"{15 * int(match[1])}分钟"),
    (re.compile(r"(\d+)\s*个?半(?:个)?(?=小时|天|分钟)"), r"\1.5"),
    (re.compile(r"(?<=\d)点钟"), "点"),
)
_ENGLISH = (
    (re.compile(r"\b(\d+) and a half (?=hours?\b|minutes?\b|days?\b)"), r"\1.5 "),
    (re.compile(r"\b(?:half (?:of )?(?:an|a)|(?:a )?half)[- ](?=hour|minute|day)"), "0.5 "),
    (re.compile(r"\b(?:3|three)[- ]quarters of an (?=hour)"), "0.75 "),
    (re.compile(r"\b(?:a )?quarter of an (?=hour)"), "0.25 "),
    (re.compile(r"\b(?:a|an|1) (hour|minute|day) and a half\b"), r"1.5 \1"),
    (re.compile(r"\b(\d+) (hours|minutes|days) and a half\b"), r"\1.5 \2"),
    (re.compile(r"^(?:a|an) (?=hour\b|minute\b|day\b)"), "1 "),
    (re.compile(r"\bhalf past (\d{1,2})\b"), r"\1:30"),
    (re.compile(r"\b(?:a )?quarter (?:past|after) (\d{1,2})\b"), r"\1:15"),
    (re.compile(r"\b(?:a )?quarter (?:to|before) (\d{1,2})\b"), lambda match: _minutes_to(15, int(match[1]))),
    (re.compile(r"\b(\d{1,2})(?: minutes)? (?:past|after) (\d{1,2})\b"), lambda match: f"{match[2]}:{int(match[1]):02}"),
    (
        re.compile(r"\b(\d{1,2})(?: minutes)? (?:to|before) (\d{1,2})\b(?=$| o| in| [ap])"),
        lambda match: _minutes_to(int(match[1]), int(match[2])),
    ),
)
_MAY_BE_ENGLISH = re.compile(
    r"\b(?:past|after|to|before|half|quarters?|hours?|minutes?|days?|o'?clock|noon|morning|afternoon|evening|night)\b"
)


def in_digits(text: str) -> str:
    """Returns a text in lower case with the times and dates in digits that it says in words."""
    folded = text.strip().lower()
    if not folded.isascii():
        folded = _HAN_YEAR.sub(lambda match: match[0].translate(_HAN_DIGIT), folded.translate(_TRADITIONAL))
        folded = _HAN_NUMBER.sub(_han_digits, folded)
        for pattern, plain in _CHINESE:
            folded = pattern.sub(plain, folded)
    elif _MAY_BE_ENGLISH.search(folded):
        folded = _ENGLISH_NUMBER.sub(_english_digits, folded)
        for pattern, plain in _ENGLISH:
            folded = pattern.sub(plain, folded)
    return folded


def _english_digits(match: re.Match[str]) -> str:
    return str(sum(SMALL_NUMBERS[word] for word in re.split("[- ]", match[0])))


def _han_digits(match: re.Match[str]) -> str:
    lead = "零" if match[0].startswith("零") and len(match[0]) > 1 else ""
    number = han_number(match[0].lstrip("零") or "零")
    return match[0] if number is None else f"{lead}{number}"


def _minutes_to(minutes: int, hour: int) -> str:
    """Returns 4:45 for a quarter to five."""
    return f"{(hour - 2) % 12 + 1}:{60 - minutes:02}" if 0 < minutes < 60 else f"{hour}:00"
