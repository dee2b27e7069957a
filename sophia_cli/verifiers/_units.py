"""Units: which ones an answer names, and whether two of them measure the same thing.

Known units are converted by pint; a word that is no known unit (`apples`) is compared as a word.
"""

import re
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from sophia_cli.verifiers._tidy import balanced

PERCENT, DEGREE = "%", "°"

_CHINESE = {
    "平方千米": "km^2", "平方公里": "km^2", "平方米": "m^2", "平方分米": "dm^2", "平方厘米": "cm^2", "平方毫米": "mm^2",
    "立方千米": "km^3", "立方米": "m^3", "立方分米": "dm^3", "立方厘米": "cm^3", "立方毫米": "mm^3",
    "千米每小时": "km/h", "千米/小时": "km/h", "千米/时": "km/h", "米每秒": "m/s", "米/秒": "m/s", "米/分": "m/min", "米/分钟": "m/min",
    "千米": "km", "公里": "km", "分米": "dm", "厘米": "cm", "毫米": "mm", "微米": "um", "纳米": "nm", "米": "m",
    "千克": "kg", "公斤": "kg", "毫克": "mg", "克": "g", "吨": "tonne", "斤": "jin", "公顷": "hectare", "毫升": "mL", "升": "L",
    "小时": "hour", "分钟": "min", "秒钟": "s", "秒": "s", "天": "day", "日": "day", "周": "week", "星期": "week", "个月": "month",
    "年": "year", "摄氏度": "degC", "牛顿": "N", "牛": "N", "焦耳": "J", "焦": "J", "千焦": "kJ", "瓦特": "W", "瓦": "W", "千瓦": "kW",
    "伏特": "V", "伏": "V", "安培": "A", "安": "A", "欧姆": "ohm", "欧": "ohm", "赫兹": "Hz", "帕斯卡": "Pa", "帕": "Pa", "千帕": "kPa",
    "摩尔": "mol", "弧度": "radian", "百分点": PERCENT, "度": DEGREE, "美元": "usd", "美金": "usd", "欧元": "eur", "英镑": "gbp",
    "人民币": "cny", "元钱": "cny", "元": "cny", "块钱": "cny", "块": "cny", "角": "jiao",
}  # fmt: skip
_WORDS = {
    **_CHINESE,
    "%": PERCENT, "percent": PERCENT, "percentage": PERCENT, "pct": PERCENT, "per cent": PERCENT, "percentage points": PERCENT,
    "°": DEGREE, "degree": DEGREE, "degrees": DEGREE, "deg": DEGREE, "°c": "degC", "degrees celsius": "degC", "celsius": "degC",
    "°f": "degF", "degrees fahrenheit": "degF", "fahrenheit": "degF", "kelvin": "kelvin", "kelvins": "kelvin",
    "radians": "radian", "radian": "radian", "rads": "radian",
    "$": "usd", "dollar": "usd", "dollars": "usd", "usd": "usd", "us dollars": "usd", "us$": "usd", "bucks": "usd",
    "cent": "cent", "cents": "cent", "¢": "cent", "€": "eur", "euro": "eur", "euros": "eur", "eur": "eur",
    "£": "gbp", "pound sterling": "gbp", "gbp": "gbp", "¥": "cny", "yuan": "cny", "rmb": "cny", "cny": "cny",
    "₹": "inr", "rupees": "inr", "rs": "inr",
    "ω": "ohm", "\\omega": "ohm", "µm": "um", "hrs": "hour", "hr": "hour", "h": "hour", "mins": "min", "sec": "s", "secs": "s",
    "ml": "mL", "cc": "cm^3", "mph": "mile/hour", "kph": "km/h", "kmh": "km/h", "fps": "foot/s", "sq ft": "foot^2",
    "sq m": "m^2", "sq cm": "cm^2", "sq in": "inch^2", "in": "inch", "lbs": "pound", "lb": "pound", "oz": "ounce",
    "tons": "ton", "amps": "A", "l": "L", "liters": "L", "litres": "L", "litre": "L", "°/s": "degree/s",
}  # fmt: skip
_KNOWN = frozenset(
    "m cm mm km dm um nm g kg mg s ms min hour day week month year N kN J kJ MJ W kW MW V kV mV A mA ohm Hz kHz MHz GHz Pa kPa "
    "MPa mol K L mL eV keV MeV GeV C T F H Wb cal kcal kWh rad radian atm bar rpm ft yd mi inch foot feet yard mile pound "
    "ounce tonne hectare ha acre gallon meter metre meters metres centimeter centimeters centimetre centimetres millimeter "
    "millimeters millimetre millimetres kilometer kilometers kilometre kilometres gram grams kilogram kilograms milligram "
    "milligrams second seconds minute minutes hours days weeks months years newton newtons joule joules kilojoule kilojoules "
    "watt watts kilowatt kilowatts volt volts ampere amperes ohms hertz pascal pascals mole moles inches yards miles pounds "
    "ounces milliliter milliliters millilitre millilitres liter ton coulomb coulombs tesla kelvin degC degF degree usd cent eur "
    "gbp cny jiao inr jin micrometer nanometer gallons acres hectares tonnes knot".split()
)
"""What a model may mean by a unit. Single letters that are as likely a variable (a, b, d, t, u) are not in it."""

_AREA = re.compile(r"^(square|sq\.?|cubic|cu\.?)\s+([a-z]+)$")
_AREA_POWER = {"s": 2, "c": 3}
_TRAILING = re.compile(r"\s+(?:long|wide|tall|high|deep|old|away|apart|ago|in total|total|altogether|each|of [a-z ]{1,30})$")
_FACTOR = re.compile(r"([A-Za-z]+|[%°]|[一-鿿]+)(?:\^\{?([-+]?[1-4])\}?|([2-4]))?")


@lru_cache(maxsize=4096)
def unit_of(text: str) -> str:
    """The canonical spelling of a unit as written after a number: `` (none), `cm^2`, `m/s`, or the folded words."""
    text = text.strip().strip(".,()[] ").replace("\\cdot", "*").replace("\\times", "*").replace("\\mu ", "u")
    text = re.sub(r"\s*\^\s*", "^", text)
    text = re.sub(r"\\(?:frac)\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text).replace("\\", " \\").strip()
    for form in (text, text.lower(), _TRAILING.sub("", text.lower())):
        if form in _WORDS:
            return _WORDS[form]
    return _product(text) or _area(text.lower()) or _words(text)


def _area(text: str) -> str:
    """`square meters` as `meter^2`."""
    match = _AREA.match(text)
    if not match:
        return ""
    base = _product(match[2]) or match[2].rstrip("s")
    return f"{base}^{_AREA_POWER[match[1][0]]}"


def _product(text: str) -> str:
    """A product of known units, `m*s^-2` for `m/s^2`; empty when one of them is not known."""
    text = re.sub(r"\s+per\s+|每", "/", text)
    parts = re.split(r"\s*([/*])\s*|\s+", text)
    spelled, sign = [], 1
    for part in parts:
        if part in ("/", "*"):
            sign = -1 if part == "/" else sign
            continue
        if not part:
            continue
        match = _FACTOR.fullmatch(part)
        name = match and (match[1] if match[1] in _KNOWN else _WORDS.get(match[1], _WORDS.get(match[1].lower(), "")))
        if not match or not name or "^" in name or "/" in name:
            return ""
        spelled.append((name, sign * int(match[2] or match[3] or 1)))
    return "*".join(name if power == 1 else f"{name}^{power}" for name, power in spelled)


def _words(text: str) -> str:
    if len(text) <= 2:
        return text  # 2m is not 2M
    text = _TRAILING.sub("", re.sub(r"[^\w\s%°]", " ", text.lower())).strip()
    return " ".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in text.split())


def is_known(unit: str) -> bool:
    """Whether pint can convert a canonical unit."""
    names = re.findall(r"[A-Za-z_]+|[%°]|[^\x00-\x7f]+", unit)
    return bool(names) and all(name in _KNOWN or name in (PERCENT, DEGREE) for name in names)


def convert(value: Fraction, unit: str, to: str) -> Fraction | None:
    """A value in another unit, or None when the two measure different things. 0.5 m is 50 cm."""
    if unit == to:
        return value
    if not (is_known(unit) and is_known(to)):
        return None
    try:
        quantity = _registry().Quantity(value, _pint_name(unit)).to(_pint_name(to))
    except Exception:  # noqa: BLE001  (pint raises a dozen kinds for units that do not fit)
        return None
    return Fraction(quantity.magnitude)


def _pint_name(unit: str) -> str:
    return unit.replace("^", "**").replace(PERCENT, "percent").replace(DEGREE, "degree")


@cache
def _registry() -> Any:
    import pint

    registry: Any = pint.UnitRegistry(non_int_type=Fraction, cache_folder=None)
    for currency in ("usd", "eur", "gbp", "cny", "inr"):
        registry.define(f"{currency} = [{currency}]")
    for definition in ("cent = 0.01 * usd", "jiao = 0.1 * cny", "jin = 0.5 * kilogram"):
        registry.define(definition)
    return registry


def same_words(left: str, right: str) -> bool:
    """Whether two unknown units are the same words, or one is the other and more (`个` and `个苹果`)."""
    return left == right or left.startswith(right) or right.startswith(left)


def split_unit(text: str) -> tuple[str, str]:
    """An expression and the known unit behind it: `3\\sqrt{2} cm` is (`3\\sqrt{2}`, `cm`); the unit is empty when there is none."""
    for match in re.finditer(r"(?<=[\d})\]\s])(?=[A-Za-zµ%°\\一-鿿])", text):
        head, tail = text[: match.start()].strip(), text[match.start() :].strip()
        if (
            head
            and len(tail) <= 40
            and balanced(head)
            and head.count("(") == head.count(")")
            and (unit := unit_of(tail))
            and is_known(unit)
            and re.search(r"\d|\\pi", head)
            and not re.search(r"[-+*/=^_,(]$|\\[a-z]+$", head.replace("\\pi", "1"))
        ):
            return head, unit
    return text, ""
