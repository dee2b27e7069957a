"""Reads dates, months, weekdays and durations, in English and Chinese."""

import re
from fractions import Fraction
from itertools import pairwise

from sophia_cli.verifier.spoken_time import in_digits

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
        rf"{_YEAR}\s+{_MONTH_NAME}(?:\s+{_DAY})?",
        rf"{_DAY}-{_MONTH_NAME}-{_YEAR}",
        r"(?P<year>[12]\d{3})-(?P<month>0[1-9]|1[0-2])",
        _MONTH_NAME,
        r"(?:(?P<year>[12]\d{3})\s*年\s*)?(?P<month>\d{1,2})\s*月(?:\s*份|\s*(?P<day>\d{1,2})\s*[日号])?",
    )
)
_SHORT_DAYS = "|".join((*(name[:3].title() for name in _DAYS), "Tues", "Thur", "Thurs"))
# In lower case, `sun` and `wed` are words.
_WEEKDAY = re.compile(rf"(?:on )?((?i:{'|'.join(_DAYS)})|{_SHORT_DAYS}|(?i:{_SHORT_DAYS})(?=\.))\.?s?")
_WEEKDAY_BEFORE = re.compile(rf"(?:on )?(?:{'|'.join(_DAYS)}|(?:{_SHORT_DAYS.lower()})\.?),?\s+(?=\S)|(?:on|in) (?=\S)")
_HAN_WEEKDAY = re.compile(r"(?:星期|周|礼拜)([一二三四五六日天])")

_MAY_BE_DATE = re.compile(
    rf"[年月]|星期|周|礼拜|(?:{'|'.join(name[:3] for name in (*_MONTHS, *_DAYS))})|\d{{4}}\s*[-/.]\s*\d", re.IGNORECASE
)
_MAY_BE_DURATION = re.compile(r"[天时時分秒刻半]|hour|hr|min|sec|day|\d\s*[dhms](?![a-z])", re.IGNORECASE)
"""Cheap checks: most answers are neither."""
_RANGE = re.compile(r"\b(?:to|until)\b|[至到]")
_MONTH_STARTS = frozenset(name[:3] for name in _MONTHS)
_CAPITAL_UNIT = re.compile(r"\d\s*[DHMS](?![A-Za-z])")
"""Henry and siemens are no hours and seconds."""
MAX_CHARS = 60
"""Longest text that may be a date or a duration; anything longer is not read."""

_SECONDS = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}
_UNITS = (
    ("day", r"days?|天|d(?![a-z])"),
    ("hour", r"个?小时|hours?|hrs?\.?|h"),
    ("minute", r"分钟?|minutes?|mins?\.?|m(?![a-z])"),
    ("second", r"秒钟?|seconds?|secs?\.?|s(?![a-z])"),
)
_PART = re.compile(
    r"(?P<number>\d+(?:\.\d+)?|半)\s*个?\s*(?:"
    + "|".join(f"(?P<{name}>{words})" for name, words in _UNITS)
    + r")(?P<half>半)?"
)


_AND = re.compile(r"\s*(?:,|、|\band\b|和|及|&)\s*(?:and\s+)?|\s+(?=(?:to|until)\s)|(?=[至到])")


def read_dates(text: str) -> list[tuple[str, int, int, int]] | None:
    """Returns the dates and weekdays of `March 5, 2024`, `Mon and Tue` or `Monday to Friday`, each as (kind, numbers)."""
    if len(text) > MAX_CHARS or not _MAY_BE_DATE.search(text):
        return None
    parts = [text] if _read_one(text) else _AND.split(text)
    found = [_read_one(re.sub(r"^(?:to|until)\s+|^[至到]", "", part)) for part in parts]
    if None in found:
        return None
    dates = [date for date in found if date]
    return dates if len(parts) > 1 and _RANGE.search(text) else sorted(dates)


def _read_one(text: str) -> tuple[str, int, int, int] | None:
    day = read_weekday(text)
    if day is not None:
        return "weekday", day + 1, 0, 0
    date = read_date(text)
    return ("date", *date) if date else None


def read_date(text: str) -> tuple[int, int, int] | None:
    """Returns (year, month, day) of a date; 0 for a part that is not given. A month alone is a date."""
    if len(text) > MAX_CHARS:
        return None
    folded = _WEEKDAY_BEFORE.sub("", in_digits(text), count=1)
    if not (folded[:1].isdigit() or folded[:3] in _MONTH_STARTS or folded.startswith("the ")):
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
    match = _WEEKDAY.fullmatch(text.strip())
    return next(n for n, name in enumerate(_DAYS) if name[:3] == match[1][:3].lower()) if match else None


def read_duration(text: str) -> tuple[Fraction, bool] | None:
    """Returns the seconds of `1h15m`, `3小时20分`, `半小时`, and whether it has several parts or is written in Chinese."""
    if len(text) > MAX_CHARS or not _MAY_BE_DURATION.search(text) or _CAPITAL_UNIT.search(text):
        return None
    folded = in_digits(text)
    is_spoken = folded != text.strip().lower()
    if not (folded[:1].isdigit() or folded.startswith("半")):
        return None
    folded = re.sub(r"(?<=[a-z\d.])(?:\s*,\s*|\s+and\s+)(?=\d)", " ", folded)
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
    return total, len(names) > 1 or is_spoken or not folded.isascii()
