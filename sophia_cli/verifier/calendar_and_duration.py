"""Reads dates, months, weekdays and durations, in English and Chinese."""

import re
from fractions import Fraction
from itertools import pairwise

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december")  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTH_NAME = rf"(?P<month>{'|'.join(f'{name}|{name[:3]}' for name in _MONTHS)}|sept)\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>[12]\d{3})"
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<year>[12]\d{3})\s*(?P<mark>[-/.])\s*(?P<month>\d{1,2})\s*(?P=mark)\s*(?P<day>\d{1,2})",
        rf"{_MONTH_NAME}\s+(?:the )?{_DAY}(?:\s*,\s*|\s+){_YEAR}",
        rf"(?:the )?{_DAY}\s+(?:of )?{_MONTH_NAME}(?:\s*,\s*|\s+){_YEAR}",
        rf"{_MONTH_NAME}\s+(?:the )?{_DAY}",
        rf"(?:the )?{_DAY}\s+(?:of )?{_MONTH_NAME}",
        rf"{_MONTH_NAME}(?:\s*,\s*|\s+){_YEAR}",
        _MONTH_NAME,
        r"(?:(?P<year>[12]\d{3})\s*年\s*)?(?P<month>\d{1,2})\s*月(?:\s*份|\s*(?P<day>\d{1,2})\s*[日号])?",
    )
)
_WEEKDAY = re.compile(rf"({'|'.join(f'{name}|{name[:3]}' for name in _DAYS)}|tues|thur|thurs)\.?s?")
_HAN_WEEKDAY = re.compile(r"(?:星期|周|礼拜)([一二三四五六日天])")

_MONTH_STARTS = frozenset(name[:3] for name in _MONTHS)
MAX_CHARS = 60
"""Longest text that may be a date or a duration; anything longer is not read."""

_SECONDS = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}
_UNITS = (
    ("day", r"days?|天"),
    ("hour", r"个?小时|hours?|hrs?\.?|h"),
    ("minute", r"分钟?|minutes?|mins?\.?|m(?![a-z])"),
    ("second", r"秒钟?|seconds?|secs?\.?|s(?![a-z])"),
)
_PART = re.compile(
    r"(?P<number>\d+(?:\.\d+)?|半)\s*个?\s*(?:"
    + "|".join(f"(?P<{name}>{words})" for name, words in _UNITS)
    + r")(?P<half>半)?"
)


def read_date(text: str) -> tuple[int, int, int] | None:
    """Returns (year, month, day) of a date; 0 for a part that is not given. A month alone is a date."""
    folded = text.strip().lower()
    if len(folded) > MAX_CHARS or not (folded[:1].isdigit() or folded[:3] in _MONTH_STARTS or folded.startswith("the ")):
        return None
    for pattern in _DATES:
        if match := pattern.fullmatch(folded):
            found = match.groupdict()
            month = found["month"]
            number = int(month) if month.isdigit() else next(n for n, name in enumerate(_MONTHS, 1) if name[:3] == month[:3])
            day = int(found.get("day") or 0)
            return (int(found.get("year") or 0), number, day) if number <= 12 and day <= 31 else None
    return None


def read_weekday(text: str) -> int | None:
    """Returns the number of a weekday, Monday 0."""
    if match := _HAN_WEEKDAY.fullmatch(text.strip()):
        return "一二三四五六日天".index(match[1]) % 7 if match[1] != "天" else 6
    match = _WEEKDAY.fullmatch(text.strip().lower())
    return next(n for n, name in enumerate(_DAYS) if name[:3] == match[1][:3]) if match else None


def read_duration(text: str) -> tuple[Fraction, bool] | None:
    """Returns the seconds of `1h15m`, `3小时20分`, `半小时`, and whether it has several parts or is written in Chinese."""
    if len(text) > MAX_CHARS or not (text.lstrip()[:1].isdigit() or text.lstrip().startswith("半")):
        return None
    folded = re.sub(r"(?<=[a-z\d.])(?:\s*,\s*|\s+and\s+)(?=\d)", " ", text.strip().lower())
    total, end = Fraction(0), 0
    names: list[tuple[str, str]] = []
    for match in _PART.finditer(folded):
        if folded[end : match.start()].strip():
            return None
        name = next(unit for unit, _ in _UNITS if match[unit])
        number = Fraction(1, 2) if match["number"] == "半" else Fraction(match["number"])
        total += (number + (Fraction(1, 2) if match["half"] else 0)) * _SECONDS[name]
        end, names = match.end(), [*names, (name, match[name])]
    sizes = [_SECONDS[name] for name, _ in names]
    # A lone `m` is meters, and parts go from large to small.
    if not names or folded[end:].strip() or names == [("minute", "m")] or any(a <= b for a, b in pairwise(sizes)):
        return None
    return total, len(names) > 1 or not folded.isascii()
