"""Numbers as people write them: separators, fractions, mixed, scientific, percent, money, units, words, clocks, ratios.

A tidy text becomes an exact `Quantity`; whether two of them are the same number is `same_quantity`, which rounds only
where one side was rounded to begin with. No floating point: 1.6e-19 is not 3.2e-19, and 2^53 + 1 is not 2^53.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from sophia_cli.verifiers import _units
from sophia_cli.verifiers._units import PERCENT, unit_of

ROUNDED_DIGITS = 6
"""An answer such as 0.333333 stands for 1/3 when it shows at least so many digits."""
LARGEST_EXPONENT = 300
LARGEST_TOLERANCE = 1e300
TEMPERATURES = ("degC", "degF")

_INT = r"(?:\d{1,3}(?:,\d{3}){1,40}|\d{1,3}(?:\.\d{3}){2,40}|\d{1,3}(?:[ ']\d{3}){1,40}|\d{1,256})(?!\d)"
_DECIMAL = rf"(?:{_INT}(?:\.\d{{0,256}})?|\.\d{{1,256}})"
_TEN = r"10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d{1,4})\s*\}|\(([-+]?\d{1,4})\)|([-+]?\d{1,4}))"
_SCIENTIFIC = re.compile(
    rf"({_DECIMAL})\s*(?:(?:\\times|\\cdot|\*|x|X)\s*{_TEN}|[eE]\s*([-+]?\d{{1,4}})(?![\dA-Za-z.]))|{_TEN}"
)
_FRACTION = re.compile(rf"\\frac\s*\{{\s*([-+]?{_DECIMAL})\s*\}}\s*\{{\s*({_DECIMAL})\s*\}}|({_DECIMAL})\s*/\s*({_DECIMAL})")
_MIXED = re.compile(
    rf"({_INT})\s*\\frac\{{(\d{{1,256}})\}}\{{(\d{{1,256}})\}}|(\d{{1,256}}) (\d{{1,256}})\s*/\s*(\d{{1,256}})"
)
_PLAIN = re.compile(_DECIMAL)
_COMMA = re.compile(r"([-+]?)(\d{1,256}),(\d{1,256})(?![\d,])(.*)", re.DOTALL)
_GROUPED_COMMA = re.compile(r"([-+]?\d{1,3}(?:\.\d{3}){1,40}),(\d{1,256}.*)", re.DOTALL)
_LEADING = re.compile(
    r"^(?:\\approx|\\sim|~|≈|约(?:为|等于)?|大约|about|approximately|approx\.?|roughly|around|=|:)\s*", re.IGNORECASE
)
_CURRENCY = re.compile(r"^([-+]?)\s*(US\$|\$|€|£|¥|₹|RMB|USD|EUR)\s*")
_TIMES = {
    "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "万": 4, "亿": 8, "百万": 6,
}  # fmt: skip
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "hundredth": 100,
}  # fmt: skip
_DOZEN = re.compile(r"\s*dozens?(?:\s[a-z]{3,20})?")
_PER = re.compile(r"^\s*(?:per|/|an?|each)\b.{0,30}$|^\s*/\s*[a-z]{1,20}$")
_PART_OF_ONE = re.compile(rf"[\s-]*((?:{'|'.join(_PARTS)})s?)")
_MULTIPLE = re.compile(r"^\s*(thousand|million|billion|trillion|百万|万|亿)\s*", re.IGNORECASE)
_ORDINAL = re.compile(r"^(?:st|nd|rd|th)\b")
_NO_UNIT = re.compile(
    r"\b(?:and|or|to|than|not|but|minus|plus|times(?=\s*\S)|over|divided|by|is|are|if|when|where|for|with|mod|choose|max"
    r"|min of)\b"
    r"|[+*=<>|!_&#\\{}\[\]]|\d\s*[/:]|[,;]\s*\S|-\s*\d|[和或到与至]\s*\d"
)
_REPEATING = re.compile(r"\s*(?:\(?(?:repeating|recurring)\)?|\.\.\.|\\ldots)\s*$")


@dataclass(frozen=True)
class Quantity:
    """An exact number, how many digits it was written with after the point (None: not as a decimal), and its unit."""

    value: Fraction
    decimals: int | None = None
    digits: int = 0
    unit: str = ""
    exponent: int = 0

    @property
    def is_decimal(self) -> bool:
        """Whether it was written with a decimal point or as a power of ten, and so may be a rounded value."""
        return self.decimals is not None and (self.decimals > 0 or self.exponent != 0)


@lru_cache(maxsize=8192)
def read_quantity(text: str) -> Quantity | None:
    """A tidy text as a number and its unit, or None when it is anything else."""
    if len(text) > 1200:
        return None
    text = _LEADING.sub("", _stripped(text))
    sign, currency = 1, ""
    if match := _CURRENCY.match(text):
        currency, text = unit_of(match[2]), match[1] + text[match.end() :]
    while text[:1] in ("-", "+"):
        sign, text = sign * (-1 if text[0] == "-" else 1), text[1:].lstrip()
    if not currency and (match := _CURRENCY.match(text)) and not match[1]:
        currency, text = unit_of(match[2]), text[match.end() :]
    text = _ENDLESS.sub(_endless_decimal, text)
    found = _number(text) or _number(_stripped(text))
    if found is None:
        return _words_as_number(text, sign)
    quantity, rest = found
    if _DOZEN.fullmatch(rest):
        return replace(quantity, value=sign * quantity.value * 12)
    if part := _PART_OF_ONE.fullmatch(rest):
        return replace(quantity, value=sign * quantity.value / _PARTS[part[1].rstrip("s")], decimals=None)
    rest, repeats = _REPEATING.subn("", rest)
    if repeats and (quantity.decimals or 0) >= 2 and quantity.digits >= 2 and not quantity.exponent:
        quantity = replace(quantity, digits=ROUNDED_DIGITS)
    glued = not rest[:1].isspace()
    quantity, rest = _multiple(quantity, rest.strip())
    unit = "" if currency and _PER.match(rest) else _unit(rest, glued)
    if unit is None or (currency and unit not in ("", currency)):
        return None
    return replace(quantity, value=sign * quantity.value, unit=currency or unit)


_ENDLESS = re.compile(r"^(\d{1,20})\.(\d{0,20})(?:\\overline|\\dot|\\bar)\s*\{?(\d{1,20})\}?$")


def _endless_decimal(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a fraction."""
    whole, still, again = match.groups()
    bottom = (10 ** len(again) - 1) * 10 ** len(still)
    top = int(whole + still + again) - int(whole + still)
    return f"{top}/{bottom}"


def _stripped(text: str) -> str:
    """Without parentheses around the whole."""
    text = text.strip()
    while len(text) > 2 and text[0] in "({" and text[-1] in ")}" and not re.search(r"[(){},]", text[1:-1]):
        text = text[1:-1].strip()
    return text


def _number(text: str) -> tuple[Quantity, str] | None:
    """The number that a text begins with, and the rest."""
    if match := _SCIENTIFIC.match(text):
        exponent = int(next(group for group in match.groups()[1:] if group))
        if abs(exponent) > LARGEST_EXPONENT:
            return None
        mantissa = _decimal(match[1]) if match[1] else Quantity(Fraction(1), 0, 1)
        return replace(mantissa, value=mantissa.value * Fraction(10) ** exponent, exponent=exponent), text[match.end() :]
    if match := _MIXED.match(text):
        whole, top, bottom = (_plain_int(group) for group in match.groups() if group)
        return (Quantity(whole + Fraction(top, bottom)), text[match.end() :]) if bottom else None
    if match := _FRACTION.match(text):
        top_text, bottom_text = (match[1], match[2]) if match[1] else (match[3], match[4])
        top_sign = -1 if top_text.startswith("-") else 1
        bottom_value = _decimal(bottom_text).value
        return (
            (Quantity(top_sign * _decimal(top_text.lstrip("+-")).value / bottom_value), text[match.end() :])
            if bottom_value
            else None
        )
    if match := _PLAIN.match(text):
        return _decimal(match[0]), text[match.end() :]
    return None


def _decimal(text: str) -> Quantity:
    whole, _, part = text.partition(".")
    if part and text.count(".") > 1:  # 1.234.567
        whole, part = text.replace(".", ""), ""
    whole = re.sub(r"[^\d]", "", whole)
    digits = len((whole + part).lstrip("0"))
    return Quantity(Fraction(f"{whole or 0}.{part or 0}"), len(part), digits)


def _plain_int(text: str) -> int:
    return int(re.sub(r"[^\d]", "", text))


def _multiple(quantity: Quantity, rest: str) -> tuple[Quantity, str]:
    match = _MULTIPLE.match(rest)
    if not match:
        return quantity, rest
    power = _TIMES[match[1].lower()]
    return replace(quantity, value=quantity.value * 10**power, exponent=power), rest[match.end() :]


def _unit(rest: str, glued: bool = False) -> str | None:
    """The unit in what follows a number; None when what follows is no unit. glued: no space between, as in 3abc."""
    rest = _ORDINAL.sub("", _TRAILING_REMARK.sub("", rest).strip()).strip()
    if not rest:
        return ""
    unit = unit_of(rest)
    if _units.is_counted(unit):
        return unit
    if _units.is_known(unit):
        return None if glued and rest == "mg" else unit  # a mass and g, as likely as milligrams
    if _NO_UNIT.search(rest) or not re.fullmatch(r"[^\d]{1,60}", rest) or len(rest.split()) > 6:
        return None
    if _NO_NOUN.search(rest.lower()):
        return None
    return unit if re.search(r"[一-鿿]" if glued else r"[^\W\d_A-Z]{3}|[一-鿿]", rest) else None


_NO_NOUN = re.compile(
    r"\b(?:hundred|tens\b|thousand|[mb]illion|dozen|lakh|crore|squared?|cubed?|factorial|halves|thirds|quarters|fifths?|sixths?"
    r"|sevenths?|eighths?|ninths?|tenths|hundredths|root|sqrt|wrong|incorrect|less|more|most|least|fewer|power|below"
    r"|above|behind|under|maybe|doubled|tripled|negative|false|unknown|inverse|off)\b|^[十百千万亿成折吗负]|次方|的?平方$|的?立方$|阶乘|分之|以上|以下|以内|不|倒数|相反数|一半|倍数|两倍|方根|根号|绝对值|因数|幂|错"
)
_TRAILING_REMARK = re.compile(
    r"\s*[(（](?:about|approximately|approx|roughly|约|i\.e|nearest|rounded|to \d|\\approx)[^()（）]*[)）]\s*$",
    re.IGNORECASE,
)
_PART = re.compile(rf"({_DECIMAL})\s*([^\d\s,]+(?:\s(?!and\b)[^\d\s,]+)?)\s*,?\s*(?:and\s+)?")


_SEXAGESIMAL = re.compile(r"(-?)(\d{1,4})\s*°\s*(\d{1,2}(?:\.\d+)?)\s*'(?!')\s*(?:(\d{1,2}(?:\.\d+)?)\s*'')?")


def read_sexagesimal(text: str) -> Quantity | None:
    """`37° 30' 15''` in degrees."""
    match = _SEXAGESIMAL.fullmatch(text)
    if not match:
        return None
    degrees = Fraction(match[2]) + Fraction(match[3]) / 60 + Fraction(match[4] or 0) / 3600
    return Quantity(-degrees if match[1] else degrees, 0, ROUNDED_DIGITS, _units.DEGREE)


def read_compound(text: str) -> Quantity | None:
    """`2 hours 30 minutes`, `5 ft 3 in`, `2小时30分钟`: parts of one dimension, summed in the unit of the last."""
    if angle := read_sexagesimal(text):
        return angle
    parts = list(_PART.finditer(text))
    if len(parts) < 2 or len(parts) > 4 or "".join(part[0] for part in parts) != text:
        return None
    last = unit_of(parts[-1][2])
    total = Fraction(0)
    for part in parts:
        unit = unit_of(part[2])
        value = _units.convert(_decimal(part[1]).value, unit, last) if _units.is_known(unit) else None
        if value is None:
            return None
        total += value
    return Quantity(total, 0, 9, last)


_SMALL = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen".split()
    )
} | {word: 10 * number for number, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_COUNTED = "个只人元件本张条次天年岁页辆块名位支棵朵倍组种份步层排行列把头匹袋箱瓶颗粒枚间座栋台套双对"


_MORE_NUMBER = re.compile(rf"\b(?:of|point|half|quarter|third|dozen|{'|'.join([*_SMALL, *_LARGE])})\b")


def _words_as_number(text: str, sign: int) -> Quantity | None:
    """`twenty-five apples`, `二十五个`, `二分之一`, `百分之五`, `half`."""
    words = re.findall(r"[a-z]+", text.lower())
    if words and (words[0] in _SMALL or words[0] in ("half", "one")) and re.match(r"[A-Za-z]", text):
        return _english(text, sign)
    return _chinese(text, sign)


def _english(text: str, sign: int) -> Quantity | None:
    total = current = 0
    tokens = re.findall(r"[a-zA-Z]+|[^a-zA-Z\s-]+", text)
    used = 0
    for token in tokens:
        word = token.lower()
        if word in _SMALL:
            current += _SMALL[word]
        elif word == "hundred":
            current = (current or 1) * 100
        elif word in _LARGE:
            total, current = total + (current or 1) * _LARGE[word], 0
        elif word != "and" or not used:
            break
        used += 1
    if not used:
        return Quantity(sign * Fraction(1, 2)) if text.lower() in ("half", "one half", "one-half") else None
    rest = " ".join(tokens[used:])
    if part := _PART_OF_ONE.fullmatch(rest.lower()):
        return Quantity(sign * Fraction(total + current, _PARTS[part[1].rstrip("s")]))
    unit = None if _MORE_NUMBER.search(rest.lower()) else _unit(rest)
    return None if unit is None else Quantity(Fraction(sign * (total + current)), 0, 9, unit)


def _chinese(text: str, sign: int) -> Quantity | None:
    match = re.fullmatch(
        r"(负)?(百)?([〇零一二两三四五六七八九十百千万亿半]*)(?:分之([〇零一二两三四五六七八九十百千万点]+|\d+))?(.*)", text
    )
    if not match or not (match[3] or (match[2] and (match[4] or not match[3]))):
        return None
    sign = -sign if match[1] else sign
    head = (match[2] or "") + match[3]
    if match[4]:
        bottom, top = _han(head), Fraction(int(match[4])) if match[4].isdigit() else _han(match[4])
        return Quantity(sign * top / bottom, unit="") if bottom and top is not None and not match[5] else None
    if head == "半":
        return Quantity(Fraction(sign, 2))
    value, unit = _han(head), _unit(match[5])
    counted = not match[5] or match[5][0] in _COUNTED or _units.is_known(unit or "")
    if value is None or unit is None or not counted:  # 一样, 三角形: words, no numbers
        return None
    return Quantity(sign * value, 0, 9, unit)


def _han(text: str) -> Fraction | None:
    """三百零五 as 305."""
    total = section = digit = 0
    for mark in text.replace("两", "二"):
        value = int(unicodedata.numeric(mark, -1))
        if value < 0:
            return None
        if value < 10:
            digit = value
        elif value < 10_000:
            section += (digit or 1) * value
            digit = 0
        else:
            total, section, digit = (total + section + digit) * value, 0, 0
    return Fraction(total + section + digit)


def decimal_comma(text: str, european: bool) -> str | None:
    """`2,74 €` as `2.74 €`, where the comma cannot be (or, `european`, is not) a thousands separator; else None."""
    if grouped := _GROUPED_COMMA.fullmatch(text):
        return grouped[1].replace(".", "") + "." + grouped[2]
    match = _COMMA.fullmatch(text)
    if not match or (not european and (len(match[3]) == 1 or (len(match[3]) == 3 and match[2] != "0"))):
        return None
    return f"{match[1]}{match[2]}.{match[3]}{match[4]}"


def tolerance_of(item: Mapping[str, Any]) -> Fraction | None:
    """The item's `tolerance`: how far, in the gold's unit, an answer may be from the gold."""
    return _as_fraction(item.get("tolerance"))


def _as_fraction(value: Any) -> Fraction | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_TOLERANCE:
        return None
    return Fraction(str(value))


def precision_of(item: Mapping[str, Any]) -> int | None:
    """The item's `precision`: the digits after the point that both sides are rounded to, as MathVista gives it."""
    value = _as_fraction(item.get("precision"))
    return None if value is None or value > 100 else int(value)


def same_quantity(answer: Quantity, gold: Quantity, item: Mapping[str, Any]) -> bool:
    """Whether an answer is the gold number, in its unit, within the item's `tolerance` or `precision`.

    A missing unit is accepted on either side, a different one is not; known units are converted. A percent sign on one
    side only: x% is x or x/100.
    """
    wanted = gold.unit or unit_of(str(item.get("unit") or ""))
    if wanted in TEMPERATURES and answer.unit == _units.DEGREE:
        answer = replace(answer, unit=wanted)
    if answer.unit and wanted and answer.unit != wanted:
        if PERCENT in (answer.unit, wanted):
            return False
        if not (_units.is_known(answer.unit) and _units.is_known(wanted)):
            return _units.same_words(answer.unit, wanted) and same_value(answer, gold, item)
        value = _units.convert(answer.value, answer.unit, wanted)
        return value is not None and same_value(replace(answer, value=value), gold, item, converted=True)
    if same_value(answer, gold, item):
        return True
    if wanted == PERCENT:
        gold = replace(gold, unit=PERCENT)
    if (answer.unit == PERCENT) != (gold.unit == PERCENT):
        scale = Fraction(1, 100)
        left = replace(answer, value=answer.value * scale) if answer.unit == PERCENT else answer
        right = replace(gold, value=gold.value * scale) if gold.unit == PERCENT else gold
        tolerance = tolerance_of(item) if gold.unit == PERCENT else None  # it is in the gold's unit
        return same_value(left, right, item if tolerance is None else {**item, "tolerance": float(tolerance * scale)})
    return False


def same_value(answer: Quantity, gold: Quantity, item: Mapping[str, Any], converted: bool = False) -> bool:
    """Whether two numbers are equal: within `tolerance`, at `precision`, or exactly but for what one side rounded."""
    gap = abs(answer.value - gold.value)
    tolerance, precision = tolerance_of(item), precision_of(item)
    if tolerance is not None:
        return gap <= tolerance
    if precision is not None:
        return gap <= Fraction(1, 2 * 10**precision) or round(answer.value, precision) == round(gold.value, precision)
    if gap == 0:
        return True
    if converted:
        return gap <= abs(gold.value) / 10**6
    return (
        rounding_of(answer, gold.value)
        if _endless(gold.value)
        else _endless(answer.value) and rounded_gold(gold, answer.value)
    )


def rounding_of(answer: Quantity, exact: Fraction) -> bool:
    """Whether a decimal answer stands for an exact gold: at least six digits, rounded or cut at the last."""
    if not answer.is_decimal or answer.decimals is None or answer.digits < ROUNDED_DIGITS:
        return False
    return abs(answer.value - exact) < Fraction(10) ** (answer.exponent - answer.decimals)


def half_unit(written: Quantity) -> float:
    """Half a unit in the last place of a number as it was written."""
    return float(Fraction(10) ** (written.exponent - (written.decimals or 0)) / 2)


def rounded_gold(gold: Quantity, exact: Fraction) -> bool:
    """Whether an exact answer is what a gold of at least two decimals was rounded from."""
    if gold.decimals is None or gold.decimals < 2 or gold.digits < 2:
        return False
    return abs(gold.value - exact) <= Fraction(10) ** (gold.exponent - gold.decimals) / 2


def _endless(value: Fraction) -> bool:
    """Whether the decimal expansion of a fraction never ends."""
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom != 1


_CLOCK = re.compile(
    r"(?:at )?(\d{1,2})(?:[:.](\d{2})(?:[:](\d{2}))?)?\s*(o'?clock)?\s*([ap]\.?\s?m\.?)?"
    r"(?: in the (morning|afternoon|evening))?"
)
_HAN_CLOCK = re.compile(r"(上午|早上|凌晨|下午|晚上|傍晚)?\s*(\d{1,2})\s*[点时]\s*(?:(\d{1,2})\s*分?|(半)|整)?")


def read_clock(text: str) -> tuple[int, str] | None:
    """A time of day as (seconds, half): half is `a`, `p`, or empty when it is not said."""
    if match := _HAN_CLOCK.fullmatch(text):
        half = {"上": "a", "早": "a", "凌": "a", "下": "p", "晚": "p", "傍": "p"}.get((match[1] or " ")[0], "")
        minutes = 30 if match[4] else int(match[3] or 0)
        return _seconds(int(match[2]), minutes, 0, half)
    match = _CLOCK.fullmatch(text.lower())
    if not match or not (match[2] or match[4] or match[5]) or (":" not in text and not (match[4] or match[5])):
        return None
    half = (match[5] or {"m": "a", "a": "p", "e": "p"}.get((match[6] or " ")[0], ""))[:1]
    return _seconds(int(match[1]), int(match[2] or 0), int(match[3] or 0), half)


def _seconds(hours: int, minutes: int, seconds: int, half: str) -> tuple[int, str] | None:
    if hours > 24 or minutes > 59 or seconds > 59:
        return None
    if half and hours <= 12:
        hours = hours % 12 + (12 if half == "p" else 0)
    return 3600 * hours + 60 * minutes + seconds, half


def same_clock(left: tuple[int, str], right: tuple[int, str]) -> bool:
    """Whether two times of day are the same; one that does not say its half of the day may be in either."""
    if bool(left[1]) == bool(right[1]):
        return left[0] == right[0]
    return (left[0] - right[0]) % (12 * 3600) == 0


_RATIO = re.compile(rf"\s*({_DECIMAL})\s*(?::|\bto\b|比)\s*({_DECIMAL})(?:\s*(?::|\bto\b|比)\s*({_DECIMAL}))?\s*")


def read_ratio(text: str) -> list[Fraction] | None:
    """`7:32`, `1 to 2`, `1:2:3` as exact numbers."""
    match = _RATIO.fullmatch(text)
    return [_decimal(part).value for part in match.groups() if part] if match else None


def same_ratio(left: list[Fraction], right: list[Fraction]) -> bool:
    """Whether two ratios are proportional."""
    if len(left) != len(right) or not any(left) or not any(right):
        return left == right
    return all(
        a * right[index + 1] == left[index + 1] * b for index, (a, b) in enumerate(zip(left[:-1], right[:-1], strict=True))
    )


def slack(answer: str, gold: str, item: Mapping[str, Any]) -> float:
    """How far apart algebra may find two numbers: the item's word, else what the decimal one of them rounds away."""
    tolerance, precision = tolerance_of(item), precision_of(item)
    if tolerance is not None:
        return float(tolerance)
    if precision is not None:
        return 0.5 * 10.0**-precision
    left, right = read_quantity(answer), read_quantity(gold)
    if left and left.is_decimal and left.decimals is not None and left.digits >= ROUNDED_DIGITS:
        return float(Fraction(10) ** (left.exponent - left.decimals))
    if right and right.decimals is not None and right.decimals >= 2 and right.digits >= 2:
        return half_unit(right)
    return 0.0
