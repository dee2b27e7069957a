"""Reads numbers as people write them: separators, fractions, mixed, scientific, percent, money, units, words.

A normalized text becomes an exact `Quantity`, without floating point: 1.6e-19 is not 3.2e-19, and 2^53 + 1 is not
2^53.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from sophia_cli.verifier import units
from sophia_cli.verifier.han import han_number
from sophia_cli.verifier.units import canonical_unit

ROUNDED_DIGITS = 6
"""An answer such as 0.333333 stands for 1/3 if it has at least this many digits."""
# An exact 10**1000000000 would fill the memory.
MAX_EXPONENT = 300

_INT = r"(?:\d{1,3}(?:,\d{3}){1,40}|\d{1,3}(?:\.\d{3}){2,40}|\d{1,3}(?:[ ']\d{3}){1,40}|\d{1,256})(?!\d)"
DECIMAL_PATTERN = rf"(?:{_INT}(?:\.\d{{0,256}})?|\.\d{{1,256}})"
_TEN = r"10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d{1,4})\s*\}|\(([-+]?\d{1,4})\)|([-+]?\d{1,4}))"
_SCIENTIFIC = re.compile(
    rf"({DECIMAL_PATTERN})\s*(?:(?:\\times|\\cdot|\*|x|X)\s*{_TEN}|[eE]\s*([-+]?\d{{1,4}})(?![\dA-Za-z.]))|{_TEN}"
)
_FRACTION = re.compile(
    rf"\\frac\s*\{{\s*([-+]?{DECIMAL_PATTERN})\s*\}}\s*\{{\s*({DECIMAL_PATTERN})\s*\}}|({DECIMAL_PATTERN})\s*/\s*({DECIMAL_PATTERN})"
)
_MIXED = re.compile(
    rf"({_INT})\s*\\frac\{{(\d{{1,256}})\}}\{{(\d{{1,256}})\}}|(\d{{1,256}}) (\d{{1,256}})\s*/\s*(\d{{1,256}})"
)
_PLAIN = re.compile(DECIMAL_PATTERN)
_COMMA = re.compile(r"([-+]?(?:€\s*)?)(\d{1,256}),(\d{1,256})(?![\d,])(.*)", re.DOTALL)
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
    """An exact number: its value, the digits after the decimal point (None: not a decimal), its digits, unit and
    exponent.
    """

    value: Fraction
    decimals: int | None = None
    digits: int = 0
    unit: str = ""
    exponent: int = 0

    @property
    def is_decimal(self) -> bool:
        """Whether it has a decimal point or a power of ten, and so may be rounded."""
        return self.decimals is not None and (self.decimals > 0 or self.exponent != 0)


@lru_cache(maxsize=8192)
def read_quantity(text: str) -> Quantity | None:
    """Returns a normalized text as a number with its unit; None if it is anything else."""
    if len(text) > 1200:
        return None
    text = _LEADING.sub("", _strip_parentheses(text))
    sign, currency = 1, ""
    if match := _CURRENCY.match(text):
        currency, text = canonical_unit(match[2]), match[1] + text[match.end() :]
    while text[:1] in ("-", "+"):
        sign, text = sign * (-1 if text[0] == "-" else 1), text[1:].lstrip()
    if not currency and (match := _CURRENCY.match(text)) and not match[1]:
        currency, text = canonical_unit(match[2]), text[match.end() :]
    text = _REPEATING_DECIMAL.sub(_repeating_decimal, text)
    found = _leading_number(text) or _leading_number(_strip_parentheses(text))
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
    quantity, rest = _apply_multiple(quantity, rest.strip())
    unit = "" if currency and _PER.match(rest) else _trailing_unit(rest, glued)
    if unit is None or (currency and unit not in ("", currency)):
        return None
    return replace(quantity, value=sign * quantity.value, unit=currency or unit)


_REPEATING_DECIMAL = re.compile(r"^(\d{1,20})\.(\d{0,20})(?:\\overline|\\dot|\\bar)\s*\{?(\d{1,20})\}?$")


def _repeating_decimal(match: re.Match[str]) -> str:
    r"""Returns `0.1\overline{6}` as a fraction."""
    whole, still, again = match.groups()
    bottom = (10 ** len(again) - 1) * 10 ** len(still)
    top = int(whole + still + again) - int(whole + still)
    return f"{top}/{bottom}"


def _strip_parentheses(text: str) -> str:
    """Removes parentheses around the whole text."""
    text = text.strip()
    while len(text) > 2 and text[0] in "({" and text[-1] in ")}" and not re.search(r"[(){},]", text[1:-1]):
        text = text[1:-1].strip()
    return text


def _leading_number(text: str) -> tuple[Quantity, str] | None:
    """Returns the number at the beginning of a text, and the rest."""
    if match := _SCIENTIFIC.match(text):
        exponent = int(next(group for group in match.groups()[1:] if group))
        if abs(exponent) > MAX_EXPONENT:
            return None
        mantissa = parse_decimal(match[1]) if match[1] else Quantity(Fraction(1), 0, 1)
        return replace(mantissa, value=mantissa.value * Fraction(10) ** exponent, exponent=exponent), text[match.end() :]
    if match := _MIXED.match(text):
        whole, top, bottom = (_plain_int(group) for group in match.groups() if group)
        return (Quantity(whole + Fraction(top, bottom)), text[match.end() :]) if bottom else None
    if match := _FRACTION.match(text):
        top_text, bottom_text = (match[1], match[2]) if match[1] else (match[3], match[4])
        top_sign = -1 if top_text.startswith("-") else 1
        bottom_value = parse_decimal(bottom_text).value
        return (
            (Quantity(top_sign * parse_decimal(top_text.lstrip("+-")).value / bottom_value), text[match.end() :])
            if bottom_value
            else None
        )
    if match := _PLAIN.match(text):
        return parse_decimal(match[0]), text[match.end() :]
    return None


def parse_decimal(text: str) -> Quantity:
    whole, _, part = text.partition(".")
    if part and text.count(".") > 1:  # 1.234.567
        whole, part = text.replace(".", ""), ""
    whole = re.sub(r"[^\d]", "", whole)
    digits = len((whole + part).lstrip("0"))
    return Quantity(Fraction(f"{whole or 0}.{part or 0}"), len(part), digits)


def _plain_int(text: str) -> int:
    return int(re.sub(r"[^\d]", "", text))


def _apply_multiple(quantity: Quantity, rest: str) -> tuple[Quantity, str]:
    match = _MULTIPLE.match(rest)
    if not match:
        return quantity, rest
    power = _TIMES[match[1].lower()]
    return replace(quantity, value=quantity.value * 10**power, exponent=power), rest[match.end() :]


def _trailing_unit(rest: str, glued: bool = False) -> str | None:
    """Returns the unit in what follows a number; None if that is not a unit. glued: without a space, as in 3abc."""
    rest = _ORDINAL.sub("", _TRAILING_REMARK.sub("", rest).strip()).strip()
    if not rest:
        return ""
    unit = canonical_unit(rest)
    if units.is_counted(unit):
        return unit
    if units.is_known(unit):
        return None if glued and rest == "mg" else unit  # m·g is as likely as milligrams
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
_PART = re.compile(rf"({DECIMAL_PATTERN})\s*([^\d\s,]+(?:\s(?!and\b)[^\d\s,]+)?)\s*,?\s*(?:and\s+)?")


_SEXAGESIMAL = re.compile(r"(-?)(\d{1,4})\s*°\s*(\d{1,2}(?:\.\d+)?)\s*'(?!')\s*(?:(\d{1,2}(?:\.\d+)?)\s*'')?")


def read_sexagesimal(text: str) -> Quantity | None:
    """Returns `37° 30' 15''` in degrees."""
    match = _SEXAGESIMAL.fullmatch(text)
    if not match:
        return None
    degrees = Fraction(match[2]) + Fraction(match[3]) / 60 + Fraction(match[4] or 0) / 3600
    return Quantity(-degrees if match[1] else degrees, 0, ROUNDED_DIGITS, units.DEGREE)


def read_compound(text: str) -> Quantity | None:
    """Returns the sum of `2 hours 30 minutes`, `5 ft 3 in`, `2小时30分钟` in the unit of the last part."""
    if angle := read_sexagesimal(text):
        return angle
    parts = list(_PART.finditer(text))
    if len(parts) < 2 or len(parts) > 4 or "".join(part[0] for part in parts) != text:
        return None
    last = canonical_unit(parts[-1][2])
    total = Fraction(0)
    for part in parts:
        unit = canonical_unit(part[2])
        value = units.convert_value(parse_decimal(part[1]).value, unit, last) if units.is_known(unit) else None
        if value is None:
            return None
        total += value
    return Quantity(total, 0, 9, last)


SMALL_NUMBERS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen".split()
    )
} | {word: 10 * number for number, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_COUNTED = "个只人元件本张条次天年岁页辆块名位支棵朵倍组种份步层排行列把头匹袋箱瓶颗粒枚间座栋台套双对"


_ORDINALS = {
    word: number
    for number, word in enumerate(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
        "sixteenth seventeenth eighteenth nineteenth twentieth".split(),
        1,
    )
}
_ORDINAL_WORD = re.compile(rf"(?:the )?({'|'.join(_ORDINALS)})(?: one| place)?", re.IGNORECASE)
_NEGATIVE = re.compile(r"(?:minus|negative)\s+(?=[a-z])", re.IGNORECASE)
_MORE_NUMBER = re.compile(rf"\b(?:of|point|half|quarter|third|dozen|{'|'.join([*SMALL_NUMBERS, *_LARGE])})\b")


def is_ordinal_word(text: str) -> bool:
    """Tells whether a text is `fifth` or `the fifth one`."""
    return _ORDINAL_WORD.fullmatch(text) is not None


def _words_as_number(text: str, sign: int) -> Quantity | None:
    """Reads `twenty-five apples`, `minus five`, `fifth`, `二十五个`, `二分之一`, `百分之五`, `half`."""
    if negative := _NEGATIVE.match(text):
        text, sign = text[negative.end() :], -sign
    if ordinal := _ORDINAL_WORD.fullmatch(text):
        return Quantity(Fraction(_ORDINALS[ordinal[1].lower()]))
    words = re.findall(r"[a-z]+", text.lower())
    if words and (words[0] in SMALL_NUMBERS or words[0] in ("half", "one")) and re.match(r"[A-Za-z]", text):
        return _english_number(text, sign)
    return _chinese_number(text, sign)


def _english_number(text: str, sign: int) -> Quantity | None:
    total = current = 0
    tokens = re.findall(r"[a-zA-Z]+|[^a-zA-Z\s-]+", text)
    used = 0
    for token in tokens:
        word = token.lower()
        if word in SMALL_NUMBERS:
            current += SMALL_NUMBERS[word]
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
    unit = None if _MORE_NUMBER.search(rest.lower()) else _trailing_unit(rest)
    return None if unit is None else Quantity(Fraction(sign * (total + current)), 0, 9, unit)


def _chinese_number(text: str, sign: int) -> Quantity | None:
    match = re.fullmatch(
        r"(负)?(百)?([〇零一二两三四五六七八九十百千万亿半]*)(?:分之([〇零一二两三四五六七八九十百千万点]+|\d+))?(.*)", text
    )
    if not match or not (match[3] or (match[2] and (match[4] or not match[3]))):
        return None
    sign = -sign if match[1] else sign
    head = (match[2] or "") + match[3]
    if match[4]:
        bottom, top = han_number(head), Fraction(int(match[4])) if match[4].isdigit() else han_number(match[4])
        return Quantity(sign * top / bottom, unit="") if bottom and top is not None and not match[5] else None
    if head == "半":
        return Quantity(Fraction(sign, 2))
    value, unit = han_number(head), _trailing_unit(match[5])
    counted = not match[5] or match[5][0] in _COUNTED or units.is_known(unit or "")
    if value is None or unit is None or not counted:  # 一样 and 三角形 are words, not numbers
        return None
    return Quantity(sign * value, 0, 9, unit)


def decimal_comma(text: str, european: bool) -> str | None:
    """Returns `2,74 €` as `2.74 €` where the comma cannot be (or, with `european`, is not) a thousands separator; else
    None.
    """
    if grouped := _GROUPED_COMMA.fullmatch(text):
        return grouped[1].replace(".", "") + "." + grouped[2]
    match = _COMMA.fullmatch(text)
    if not match:
        return None
    is_list, is_thousands = len(match[3]) == 1 and "€" not in text, len(match[3]) == 3 and match[2] != "0"
    if not european and (is_list or is_thousands):
        return None
    return f"{match[1]}{match[2]}.{match[3]}{match[4]}"
