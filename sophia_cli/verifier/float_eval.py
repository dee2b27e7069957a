"""Expressions to floating point, by a hand-written reader: a cheap way to see that two of them are not the same.

Only a difference settles anything here. Two expressions that agree to eight digits, at points where both have a value,
still go to algebra, which is exact; so does everything that this reader does not know.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache

CLOSE = 1e-8
"""Relative gap under which two floats may stand for the same number."""

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|((?:\\[A-Za-z]+|[A-Za-z])(?:_(?:\{\w+\}|\w))?)|(.))", re.DOTALL)
_FUNCTIONS = {
    "\\sin": math.sin, "\\cos": math.cos, "\\tan": math.tan, "\\ln": math.log, "\\log": math.log10, "\\exp": math.exp,
    "\\arcsin": math.asin, "\\arccos": math.acos, "\\arctan": math.atan,
}  # fmt: skip
_INVERSES = {"\\sin": math.asin, "\\cos": math.acos, "\\tan": math.atan}
_CONSTANTS = {"\\pi": math.pi, "e": math.e}
_OPENING = {"(": ")", "{": "}", "[": "]"}
_IMAGINARY = ("i", "j", "I", "\\imath")
_VARIABLE = re.compile(
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|omega|phi|varphi|tau|epsilon))(?:_.+)?"
)
LARGEST = 1e100
_ENDS = ("+", "-", ")", "}", "]")


class _NotRead(Exception):
    pass


@lru_cache(maxsize=4096)
def constant(text: str) -> float | None:
    """The value of a tidy text that is arithmetic on numbers, \\pi, e, roots and functions; None for anything else.

    None also where floating point would lose digits: huge values, and sums that nearly cancel.
    """
    return _value(text, {}) if len(text) <= 300 and re.search(r"\d|\\pi", text) else None


def differ(left: str, right: str) -> bool:
    """Whether two texts, as LaTeX, are expressions that take different values at the same point."""
    if len(left) > 300 or len(right) > 300:
        return False
    names = {token for text in (left, right) for token in _names(text)}
    for point in ((0.37, 0.11), (1.41, 0.23)):
        values = {name: point[0] + point[1] * index for index, name in enumerate(sorted(names))}
        one, other = _value(left, values), _value(right, values)
        if one is not None and other is not None and abs(one - other) > CLOSE * max(abs(one), abs(other)):
            return True
        if not names:
            return False
    return False


def _names(text: str) -> list[str]:
    names = [_plain(name) for _, name, _ in _TOKEN.findall(text)]
    return [name for name in names if name and name not in _CONSTANTS and _VARIABLE.fullmatch(name)]


def _plain(name: str) -> str:
    """`m_{1}` as `m_1`."""
    return name.replace("{", "").replace("}", "")


def _value(text: str, values: Mapping[str, float]) -> float | None:
    try:
        reader = _Reader(text, values)
        value = reader.sum()
        reader.end()
    except (_NotRead, ArithmeticError, ValueError, RecursionError):
        return None
    return value if abs(value) < LARGEST else None


class _Reader:
    """Recursive descent over `+ - * / ^ !`, fractions, roots, functions and brackets; a product needs no sign."""

    def __init__(self, text: str, values: Mapping[str, float]):
        self.values = values
        self.tokens: list[str | float] = []
        for number, name, mark in _TOKEN.findall(text.strip()):
            self.tokens.append(float(number) if number else _plain(name) or mark)
        self.at = 0

    def peek(self) -> str | float | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> str | float:
        token = self.peek()
        if token is None:
            raise _NotRead
        self.at += 1
        return token

    def end(self) -> None:
        if self.peek() is not None:
            raise _NotRead

    def sum(self) -> float:
        total, largest = self.product(), 0.0
        while self.peek() in ("+", "-"):
            sign = 1.0 if self.take() == "+" else -1.0
            term = self.product()
            largest = max(largest, abs(total), abs(term))
            total += sign * term
        if abs(total) < 1e-5 * largest:  # nearly cancels: too few digits are left
            raise _NotRead
        return total

    def product(self) -> float:
        value = self.signed()
        while (token := self.peek()) is not None and token not in _ENDS:
            if token in ("*", "\\cdot", "\\times"):
                self.take()
                value *= self.signed()
            elif token in ("/", "\\div"):
                self.take()
                value /= self.signed()
            elif isinstance(token, float):
                raise _NotRead  # 2 3: a list, a mixed number, or thousands; not ours to say
            else:
                value *= self.power()
        return value

    def signed(self) -> float:
        if self.peek() in ("+", "-"):
            return -self.signed() if self.take() == "-" else self.signed()
        return self.power()

    def power(self) -> float:
        base = self.atom()
        while self.peek() == "!":
            self.take()
            if base < 0 or base > 60 or base != int(base):
                raise _NotRead
            base = float(math.factorial(int(base)))
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.argument()
        if abs(exponent) > 400:
            raise _NotRead
        result = base**exponent
        if isinstance(result, complex):
            raise _NotRead
        return float(result)

    def argument(self) -> float:
        """What stands after `^`, `\\frac` or `\\sqrt`: a group, or one signed atom."""
        if self.peek() == "-":
            self.take()
            return -self.argument()
        return self.atom()

    def atom(self) -> float:
        token = self.take()
        if isinstance(token, float):
            return token
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token in self.values and token not in _IMAGINARY:
            return self.values[token]
        if token in _OPENING:
            value = self.sum()
            if self.take() != _OPENING[token]:
                raise _NotRead
            return value
        if token == "\\frac":
            return self.argument() / self.argument()
        if token == "\\sqrt":
            return self.root()
        if token in _FUNCTIONS:
            return self.function(token)
        raise _NotRead

    def root(self) -> float:
        order = 2.0
        if self.peek() == "[":
            order = self.atom()
        value = self.argument()
        if value < 0 or order == 0:
            raise _NotRead
        return float(value ** (1 / order))

    def function(self, name: str) -> float:
        function, exponent = _FUNCTIONS[name], 1.0
        if self.peek() == "^":
            self.take()
            exponent = self.argument()
            if exponent == -1 and name in _INVERSES:
                function, exponent = _INVERSES[name], 1.0
            elif exponent < 0:
                raise _NotRead
        value = function(self.atom() if self.peek() in _OPENING else self.bare_argument())
        return float(value**exponent)

    def bare_argument(self) -> float:
        """`2x` of `\\sin 2x`: numbers and letters, and nothing after them whose place is a matter of taste."""
        value = self.atom()
        while (token := self.peek()) is not None and token not in _ENDS:
            if isinstance(token, float) or token not in {**self.values, **_CONSTANTS}:
                raise _NotRead
            value *= self.atom()
        return value
