"""Reads times of day and ratios: `7:32` may be either."""

import re
from fractions import Fraction

from sophia_cli.verifier.numbers import DECIMAL_PATTERN, parse_decimal

_CLOCK = re.compile(
    r"(?:at )?(\d{1,2})(?:[:.](\d{2})(?:[:](\d{2}))?)?\s*(o'?clock)?\s*([ap]\.?\s?m\.?)?"
    r"(?: in the (morning|afternoon|evening))?"
)
_HAN_HALF = r"(上午|早上|早晨|凌晨|下午|晚上|傍晚|中午)"
_HAN_CLOCK = re.compile(rf"{_HAN_HALF}?\s*(\d{{1,2}})\s*[点时]\s*(?:(\d{{1,2}})\s*分?|(半)|整)?")
_HAN_DIGITAL = re.compile(rf"{_HAN_HALF}\s*(\d{{1,2}})\s*[:：]\s*(\d{{2}})()")
_NAMED_TIMES = {"noon": (43200, "p"), "midday": (43200, "p"), "正午": (43200, "p"), "midnight": (0, "a"), "午夜": (0, "a")}


def read_clock(text: str) -> tuple[int, str] | None:
    """Returns a time of day as (seconds, half). half is `a`, `p`, `24` for 13:00 and later, or empty if it is not given."""
    if (named := _NAMED_TIMES.get(text.strip().lower().removeprefix("12 "))) is not None:
        return named
    if match := _HAN_CLOCK.fullmatch(text) or _HAN_DIGITAL.fullmatch(text):
        half = {"上": "a", "早": "a", "凌": "a", "下": "p", "晚": "p", "傍": "p", "中": "p"}.get((match[1] or " ")[0], "")
        minutes = 30 if match[4] else int(match[3] or 0)
        return _clock_seconds(int(match[2]), minutes, 0, half)
    match = _CLOCK.fullmatch(text.lower())
    if not match or not (match[2] or match[4] or match[5]) or (":" not in text and not (match[4] or match[5])):
        return None
    half = (match[5] or {"m": "a", "a": "p", "e": "p"}.get((match[6] or " ")[0], ""))[:1]
    return _clock_seconds(int(match[1]), int(match[2] or 0), int(match[3] or 0), half)


def _clock_seconds(hours: int, minutes: int, seconds: int, half: str) -> tuple[int, str] | None:
    if hours > 24 or minutes > 59 or seconds > 59:
        return None
    if half and hours <= 12:
        hours = hours % 12 + (12 if half == "p" else 0)
    if hours >= 13 and not half:
        half = "24"  # 15:30 is no time of a 12-hour clock
    return 3600 * hours + 60 * minutes + seconds, half


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
