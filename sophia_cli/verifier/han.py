"""Reads Chinese numbers."""

import unicodedata
from fractions import Fraction


def han_number(text: str) -> Fraction | None:
    """Reads 三百零五 as 305."""
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
