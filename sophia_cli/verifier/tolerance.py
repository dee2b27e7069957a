"""Compares numbers: within the item's tolerance, across units, and rounded only where one side was rounded."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from sophia_cli.verifier import units
from sophia_cli.verifier.normalize import normalize
from sophia_cli.verifier.numbers import ROUNDED_DIGITS, Quantity, read_quantity
from sophia_cli.verifier.units import PERCENT, canonical_unit

# Larger values overflow when they are multiplied.
MAX_TOLERANCE = 1e300
TEMPERATURES = ("degC", "degF")


def item_tolerance(item: Mapping[str, Any]) -> Fraction | None:
    """Returns the item's `tolerance`: how far, in the gold's unit, an answer may be from the gold."""
    return _as_fraction(item.get("tolerance"))


def _as_fraction(value: Any) -> Fraction | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TOLERANCE:
        return None
    return Fraction(str(value))


def item_precision(item: Mapping[str, Any]) -> int | None:
    """Returns the item's `precision`: the digits after the point to which both sides are rounded, as in MathVista."""
    value = _as_fraction(item.get("precision"))
    return None if value is None or value > 100 else int(value)


def same_quantity(answer: Quantity, gold: Quantity, item: Mapping[str, Any]) -> bool:
    """Tells whether an answer is the gold number, in its unit, within the item's `tolerance` or `precision`.

    A missing unit is accepted on either side, a different one is not; known units are converted. With a percent sign
    on one side only, x% is x or x/100.
    """
    wanted = gold.unit or canonical_unit(normalize(str(item.get("unit") or "")))
    if wanted in TEMPERATURES and answer.unit == units.DEGREE:
        answer = replace(answer, unit=wanted)
    if answer.unit and wanted and answer.unit != wanted:
        if PERCENT in (answer.unit, wanted):
            return False
        if not (units.is_known(answer.unit) and units.is_known(wanted)):
            return units.same_unit_words(answer.unit, wanted) and same_value(answer, gold, item)
        value = units.convert_value(answer.value, answer.unit, wanted)
        return value is not None and same_value(replace(answer, value=value), gold, item, converted=True)
    if same_value(answer, gold, item):
        return True
    if wanted == PERCENT:
        gold = replace(gold, unit=PERCENT)
    if (answer.unit == PERCENT) != (gold.unit == PERCENT):
        scale = Fraction(1, 100)
        left = replace(answer, value=answer.value * scale) if answer.unit == PERCENT else answer
        right = replace(gold, value=gold.value * scale) if gold.unit == PERCENT else gold
        tolerance = item_tolerance(item) if gold.unit == PERCENT else None  # the tolerance is in the gold's unit
        return same_value(left, right, item if tolerance is None else {**item, "tolerance": float(tolerance * scale)})
    return False


def same_value(answer: Quantity, gold: Quantity, item: Mapping[str, Any], converted: bool = False) -> bool:
    """Tells whether two numbers are equal: within `tolerance`, at `precision`, or exactly except for rounding."""
    gap = abs(answer.value - gold.value)
    tolerance, precision = item_tolerance(item), item_precision(item)
    if tolerance is not None:
        return gap <= tolerance
    if precision is not None:
        return gap == 0 or _round_half_up(answer.value, precision) == _round_half_up(gold.value, precision)
    if gap == 0:
        return True
    if converted:
        return gap <= abs(gold.value) / 10**6
    return (
        is_rounding(answer, gold.value, item)
        if _is_repeating(gold.value)
        else _is_repeating(answer.value) and is_rounded_gold(gold, answer.value)
    )


def _round_half_up(value: Fraction, decimals: int) -> Fraction:
    """Rounds as people do: a half away from zero."""
    scaled = abs(value) * 10**decimals + Fraction(1, 2)
    return Fraction(scaled.__floor__(), 10**decimals) * (1 if value >= 0 else -1)


def is_rounding(answer: Quantity, exact: Fraction, item: Mapping[str, Any]) -> bool:
    """Tells whether a decimal answer stands for an exact gold: rounded or cut after at least six digits, or after as many
    as another gold of the item has (24/7 and 3.429).
    """
    golds = item.get("answer")
    others = [read_quantity(normalize(str(gold))) for gold in golds] if isinstance(golds, list) else []
    least = min([other.digits for other in others if other and other.is_decimal and other.decimals], default=ROUNDED_DIGITS)
    if not answer.is_decimal or answer.decimals is None or answer.digits < min(least, ROUNDED_DIGITS):
        return False
    return abs(answer.value - exact) < Fraction(10) ** (answer.exponent - answer.decimals)


def half_unit(written: Quantity) -> float:
    """Returns half a unit in the last place of a number as written."""
    return float(Fraction(10) ** (written.exponent - (written.decimals or 0)) / 2)


def is_rounded_gold(gold: Quantity, exact: Fraction) -> bool:
    """Tells whether a gold with at least two decimals is the rounded exact answer."""
    if gold.decimals is None or gold.decimals < 2 or gold.digits < 2:
        return False
    return abs(gold.value - exact) <= Fraction(10) ** (gold.exponent - gold.decimals) / 2


def _is_repeating(value: Fraction) -> bool:
    """Tells whether the decimal expansion of a fraction never ends."""
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom != 1


def algebra_tolerance(answer: str, gold: str, item: Mapping[str, Any]) -> float:
    """Returns how far apart algebra may find two numbers: the item's tolerance, else the rounding of the decimal one."""
    tolerance, precision = item_tolerance(item), item_precision(item)
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
