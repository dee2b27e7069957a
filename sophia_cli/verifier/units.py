"""Units: which unit an answer names, and whether two units measure the same quantity.

pint converts the known units (`units.txt`). A word that is not a known unit (`apples`) is compared as a word.
"""

import re
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from sophia_cli.verifier.normalize import has_balanced_braces

PERCENT, DEGREE = "%", "°"
CURRENCIES = ("usd", "eur", "gbp", "cny", "inr")
UNIT_TABLE = Path(__file__).with_name("units.txt")


@cache
def _unit_spellings() -> dict[str, str]:
    """Returns the spellings of units and the unit each means. Words are also found in lower case, symbols only as they
    are.
    """
    found: dict[str, str] = {}
    for line in UNIT_TABLE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            unit, _, words = line.partition(":")
            found |= {word.strip(): unit for word in [unit, *words.split(",")] if word.strip()}
    return found


def _spelled_unit(text: str) -> str:
    """Returns the unit of a word or symbol; empty if none. Case counts in symbols: mW is not MW."""
    known = _unit_spellings()
    return known.get(text) or (known.get(text.lower(), "") if len(text) > 2 else "")


_AREA = re.compile(r"^(square|sq\.?|cubic|cu\.?)\s*([a-z]+)$")
_COUNTED = re.compile(
    r"(?:(sq|cu)(?:uare|bic|\.)? ?)?units?(?:\s*\^\s*\{?\s*([23])\s*\}?|\s+(sq|cu)(?:uared|bed))?", re.IGNORECASE
)
_POWERS = {"sq": 2, "cu": 3, "2": 2, "3": 3}
"""Units without a name: square units, units^2."""
_AREA_POWER = {"s": 2, "c": 3}
_TRAILING = re.compile(
    r"\s+(?:long|wide|tall|high|deep|old|away|apart|ago|in total|total|altogether|each|of [a-z ]{1,30})$", re.IGNORECASE
)
_FACTOR = re.compile(r"([A-Za-z]+|[%°]|[一-鿿]+)(?:\^\{?([-+]?[1-4])\}?|([2-4]))?")


@lru_cache(maxsize=4096)
def canonical_unit(text: str) -> str:
    """Returns the canonical spelling of a unit after a number: `` (none), `cm^2`, `m/s`, or the normalized words."""
    if unit := _spelled_unit(text.strip()) or _spelled_unit(text.replace(" ", "")):
        return _product_unit(unit)
    if counted := _COUNTED.fullmatch(text.strip(" .")):
        power = next((group for group in counted.groups() if group), "")
        return f"unit^{_POWERS[power.lower()]}" if power else "unit"
    text = text.strip().strip(".,()[] ").replace("\\cdot", "*").replace("\\times", "*").replace("\\mu ", "u")
    text = re.sub(r"\s*\^\s*", "^", text)
    text = re.sub(r"\\(?:frac)\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text).replace("\\", " \\").strip()
    unit = _spelled_unit(text) or _spelled_unit(_TRAILING.sub("", text))
    if unit:
        return _product_unit(unit)
    return _product_unit(text) or _area_unit(text.lower()) or _unit_words(text)


def _area_unit(text: str) -> str:
    """Returns `meter^2` for `square meters`."""
    match = _AREA.match(text)
    if not match:
        return ""
    base = _product_unit(match[2]) or match[2].rstrip("s")
    return f"{base}^{_AREA_POWER[match[1][0]]}"


def _product_unit(text: str) -> str:
    """Returns a product of known units, `m*s^-2` for `m/s^2`; empty if one is unknown."""
    text = re.sub(r"/\(([^()]*)\)$", r"/\1", re.sub(r"\s+per\s+|每", "/", text))
    parts = re.split(r"\s*([/*])\s*|\s+", text)
    spelled, sign = [], 1
    for part in parts:
        if part in ("/", "*"):
            sign = -1 if part == "/" else sign
            continue
        if not part:
            continue
        match = _FACTOR.fullmatch(part)
        name = _spelled_unit(match[1]) if match else ""
        if not match or not name or "^" in name or "/" in name:
            return ""
        spelled.append((name, sign * int(match[2] or match[3] or 1)))
    return "*".join(name if power == 1 else f"{name}^{power}" for name, power in spelled)


def _unit_words(text: str) -> str:
    if len(text) <= 2:
        return text  # 2m is not 2M
    text = _TRAILING.sub("", re.sub(r"[^\w\s%°]", " ", text.lower())).strip()
    return " ".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in text.split())


def is_counted(unit: str) -> bool:
    """Tells whether a canonical unit is the unit without a name, or its square or cube."""
    return unit in ("unit", "unit^2", "unit^3")


@lru_cache(maxsize=4096)
def is_known(unit: str) -> bool:
    """Tells whether pint can convert a canonical unit, `m*s^-2`."""
    factors = [re.fullmatch(r"([^\W\d_]+|[%°])(?:\^-?\d+)?", factor) for factor in unit.split("*")]
    return all(factor is not None and _unit_spellings().get(factor[1]) == factor[1] for factor in factors)


def convert_value(value: Fraction, unit: str, to: str) -> Fraction | None:
    """Returns a value in another unit; None if the units measure different quantities. 0.5 m is 50 cm."""
    if unit == to:
        return value
    if not (is_known(unit) and is_known(to)):
        return None
    try:
        quantity = _pint_registry().Quantity(value, _pint_name(unit)).to(_pint_name(to))
    except Exception:  # noqa: BLE001  (pint raises many types for units that do not fit)
        return None
    return Fraction(quantity.magnitude)


def _pint_name(unit: str) -> str:
    return unit.replace("^", "**").replace(PERCENT, "percent").replace(DEGREE, "degree")


@cache
def _pint_registry() -> Any:
    import pint

    registry: Any = pint.UnitRegistry(non_int_type=Fraction, cache_folder=None)
    for currency in CURRENCIES:
        registry.define(f"{currency} = [{currency}]")
    for definition in ("cent = 0.01 * usd", "jiao = 0.1 * cny", "jin = 0.5 * kilogram"):
        registry.define(definition)
    return registry


def same_unit_words(left: str, right: str) -> bool:
    """Tells whether two unknown units are the same words, or one extends the other (`个` and `个苹果`)."""
    if left == right or set(left.split()) <= set(right.split()) or set(right.split()) <= set(left.split()):
        return True  # 8 ways and 8 different ways
    return not (left + right).isascii() and (left.startswith(right) or right.startswith(left))


_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_UNFINISHED = re.compile(r"[-+*/=^_,(]$|\\[a-z]+$")


def split_unit(text: str) -> tuple[str, str]:
    r"""Splits an expression from the known unit behind it: `3\sqrt{2} cm` becomes (`3\sqrt{2}`, `cm`); the unit is empty
    if there is none.
    """
    for match in re.finditer(r"(?<=[\d})\]\s])(?=[A-Za-zµ%°\\一-鿿])", text):
        head, tail = text[: match.start()].strip(), text[match.start() :].strip()
        if not head or len(tail) > 40 or not has_balanced_braces(head) or head.count("(") != head.count(")"):
            continue
        unit = canonical_unit(tail)
        if (
            not (is_known(unit) or is_counted(unit))
            or (tail == "mg" and head == text[: match.start()])
            or (unit == DEGREE and _TRIGONOMETRY.search(head))
        ):
            continue
        if re.search(r"\d|\\pi", head) and not _UNFINISHED.search(head.replace("\\pi", "1")):
            return head, unit
    return text, ""
