"""Reads times of day and ratios: `7:32` may be either."""

import re
from fractions import Fraction

from sophia_cli.verifier.numbers import DECIMAL_PATTERN, parse_decimal
from sophia_cli.verifier.spoken_time import in_digits

_CLOCK = re.compile(
    r"(?:at )?(\d{1,2})(?:[:.](\d{2})(?:[:](\d{2}))?)?\s*(o'?clock)?\s*([ap]\.?\s?m\.?)?"
    r"(?:\s(?:in the |at )?(morning|afternoon|evening|night|noon|midnight))?"
)
_HALF_FIRST = re.compile(r"([ap]\.?m\.?)\s+(\d.*)")
_HAN_HALF = r"(上午|早上|早晨|清晨|凌晨|下午|晚上|夜里|半夜|午夜|傍晚|中午|正午)"
_HAN_CLOCK = re.compile(rf"{_HAN_HALF}?\s*(\d{{1,2}})\s*[点时]\s*(?:(\d{{1,2}})\s*分?|(半)|整)?")
_HAN_DIGITAL = re.compile(rf"{_HAN_HALF}?\s*(\d{{1,2}})\s*[:：]\s*(\d{{2}})()")
_MAY_BE_CLOCK = re.compile(
    r"[:：点时點時午夜]|o'?clock|noon|midday|midnight|[ap]\.?\s?m\b|[ap]\.m\.|morning|evening|night|past|after|quarter",
    re.IGNORECASE,
)
_NAMED_TIMES = {"noon": (43200, "p"), "midday": (43200, "p"), "正午": (43200, "p"), "midnight": (0, "a"), "午夜": (0, "a")}


MAX_CHARS = 60
"""Longest text that may be a time of day."""


def read_clock(text: str) -> tuple[int, str] | None:
    """Returns a time of day as (seconds, half). half is `a`, `p`, `24` for a 24-hour clock, or empty if it is not given."""
    if len(text) > MAX_CHARS or not _MAY_BE_CLOCK.search(text):
        return None
    folded = in_digits(text)
    if (named := _NAMED_TIMES.get(folded.removeprefix("12 "))) is not None:
        return named
    if match := _HAN_CLOCK.fullmatch(folded) or _HAN_DIGITAL.fullmatch(folded):
        hours, minutes = int(match[2]), 30 if match[4] else int(match[3] or 0)
        return _clock_seconds(hours, minutes, 0, _han_half(match[1], hours))
    if match := _HALF_FIRST.fullmatch(folded):  # `PM 3:30`
        folded = f"{match[2]} {match[1]}"
    match = _CLOCK.fullmatch(folded)
    if not match or not (":" in folded or any(match.group(4, 5, 6))):
        return None
    hours = int(match[1])
    half = (match[5] or _english_half(match[6], hours))[:1]
    return _clock_seconds(hours, int(match[2] or 0), int(match[3] or 0), half)


def _han_half(word: str | None, hours: int) -> str:
    """Returns the half of the day: 晚上12点 is midnight, 中午11点 is in the morning."""
    if not word:
        return ""
    if word[0] in "上早清凌":
        return "a"
    if word in ("中午", "正午"):
        return "p" if hours in (12, 1, 2) else "a"
    is_night = word in ("晚上", "夜里", "半夜", "午夜") and hours in (12, 1, 2, 3, 4)
    return "a" if is_night else "p"


def _english_half(word: str | None, hours: int) -> str:
    if word == "night":
        return "a" if hours in (12, 1, 2, 3, 4) else "p"
    return {"morning": "a", "midnight": "a", "afternoon": "p", "evening": "p", "noon": "p"}.get(word or "", "")


def _clock_seconds(hours: int, minutes: int, seconds: int, half: str) -> tuple[int, str] | None:
    if hours > 24 or minutes > 59 or seconds > 59:
        return None
    if half and hours <= 12:
        hours = hours % 12 + (12 if half == "p" else 0)
    elif not half and (hours >= 13 or hours == 0):
        half = "24"  # 15:30 and 0:30 are no times of a 12-hour clock
    return 3600 * (hours % 24) + 60 * minutes + seconds, half


def same_clock(left: tuple[int, str], right: tuple[int, str]) -> bool:
    """Tells whether two times of day are equal. One without a half of the day may be in either."""
    if "24" in (left[1], right[1]) or bool(left[1]) == bool(right[1]):
        return left[0] == right[0]
    return (left[0] - right[0]) % (12 * 3600) == 0


_RATIO = re.compile(
    rf"\s*({DECIMAL_PATTERN})\s*(?::|\bto\b|比)\s*({DECIMAL_PATTERN})(?:\s*(?::|\bto\b|比)\s*({DECIMAL_PATTERN}))?\s*"
)


def read_ratio(text: str) -> list[Fraction] | None:
    """Returns `7:32`, `1 to 2`, `1:2:3` as exact numbers."""
    match = _RATIO.fullmatch(text)
    return [parse_decimal(part).value for part in match.groups() if part] if match else None


def same_ratio(left: list[Fraction], right: list[Fraction]) -> bool:
    """Tells whether two ratios are proportional."""
    if len(left) != len(right) or not any(left) or not any(right):
        return left == right
    return all(
        a * right[index + 1] == left[index + 1] * b for index, (a, b) in enumerate(zip(left[:-1], right[:-1], strict=True))
    )
