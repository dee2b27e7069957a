"""Evaluates expressions in floating point with a hand-written parser: a cheap way to see that two of them differ.

Only a difference decides. Expressions that agree to eight digits still go to algebra, which is exact, and so does
everything that this parser does not know. It replaces 58 of 60 sympy calls on real outputs.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache

RELATIVE_TOLERANCE = 1e-8
"""Relative gap below which two floats may be the same number."""

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
# Beyond it products overflow to infinity, and two infinities would look equal.
MAX_VALUE = 1e100
_ENDS = ("+", "-", ")", "}", "]")


class _CannotParse(Exception):
    pass


@lru_cache(maxsize=4096)
def constant_value(text: str) -> float | None:
    r"""Returns the value of a normalized text that is arithmetic on numbers, \pi, e, roots and functions; None for
    anything else.

    Also None where floating point loses digits: huge values, and sums that nearly cancel.
    """
    return _evaluate(text, {}) if len(text) <= 300 and re.search(r"\d|\\pi", text) else None


def values_differ(left: str, right: str) -> bool:
    """Tells whether two LaTeX expressions have different values at the same point."""
    if len(left) > 300 or len(right) > 300:
        return False
    names = {token for text in (left, right) for token in _variable_names(text)}
    for point in ((0.37, 0.11), (1.41, 0.23)):
        values = {name: point[0] + point[1] * index for index, name in enumerate(sorted(names))}
        one, other = _evaluate(left, values), _evaluate(right, values)
        if one is not None and other is not None and abs(one - other) > RELATIVE_TOLERANCE * max(abs(one), abs(other)):
            return True
        if not names:
            return False
    return False


def _variable_names(text: str) -> list[str]:
    names = [_plain_name(name) for _, name, _ in _TOKEN.findall(text)]
    return [name for name in names if name and name not in _CONSTANTS and _VARIABLE.fullmatch(name)]


def _plain_name(name: str) -> str:
    """Returns `m_1` for `m_{1}`."""
    return name.replace("{", "").replace("}", "")


def _evaluate(text: str, values: Mapping[str, float]) -> float | None:
    try:
        reader = _ExpressionParser(text, values)
        value = reader.parse_sum()
        reader.expect_end()
    except (_CannotParse, ArithmeticError, ValueError, RecursionError):
        return None
    return value if abs(value) < MAX_VALUE else None


class _ExpressionParser:
    """Recursive descent over `+ - * / ^ !`, fractions, roots, functions and brackets; products need no sign."""

    def __init__(self, text: str, values: Mapping[str, float]):
        self.values = values
        self.tokens: list[str | float] = []
        for number, name, mark in _TOKEN.findall(text.strip()):
            self.tokens.append(float(number) if number else _plain_name(name) or mark)
        self.at = 0

    def peek(self) -> str | float | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def next_token(self) -> str | float:
        token = self.peek()
        if token is None:
            raise _CannotParse
        self.at += 1
        return token

    def expect_end(self) -> None:
        if self.peek() is not None:
            raise _CannotParse

    def parse_sum(self) -> float:
        total, largest = self.parse_product(), 0.0
        while self.peek() in ("+", "-"):
            sign = 1.0 if self.next_token() == "+" else -1.0
            term = self.parse_product()
            largest = max(largest, abs(total), abs(term))
            total += sign * term
        if abs(total) < 1e-5 * largest:  # nearly cancels: too few digits remain
            raise _CannotParse
        return total

    def parse_product(self) -> float:
        value = self.parse_signed()
        while (token := self.peek()) is not None and token not in _ENDS:
            if token in ("*", "\\cdot", "\\times"):
                self.next_token()
                value *= self.parse_signed()
            elif token in ("/", "\\div"):
                self.next_token()
                value /= self.parse_signed()
            elif isinstance(token, float):
                raise _CannotParse  # 2 3 may be a list, a mixed number, or thousands
            else:
                value *= self.parse_power()
        return value

    def parse_signed(self) -> float:
        if self.peek() in ("+", "-"):
            return -self.parse_signed() if self.next_token() == "-" else self.parse_signed()
        return self.parse_power()

    def parse_power(self) -> float:
        base = self.parse_atom()
        while self.peek() == "!":
            self.next_token()
            if base < 0 or base > 60 or base != int(base):
                raise _CannotParse
            base = float(math.factorial(int(base)))
        if self.peek() != "^":
            return base
        self.next_token()
        exponent = self.parse_argument()
        if abs(exponent) > 400:
            raise _CannotParse
        result = base**exponent
        if isinstance(result, complex):
            raise _CannotParse
        return float(result)

    def parse_argument(self) -> float:
        r"""Parses what follows `^`, `\frac` or `\sqrt`: a group, or one signed atom."""
        if self.peek() == "-":
            self.next_token()
            return -self.parse_argument()
        return self.parse_atom()

    def parse_atom(self) -> float:
        token = self.next_token()
        if isinstance(token, float):
            return token
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token in self.values and token not in _IMAGINARY:
            return self.values[token]
        if token in _OPENING:
            value = self.parse_sum()
            if self.next_token() != _OPENING[token]:
                raise _CannotParse
            return value
        if token == "\\frac":
            return self.parse_argument() / self.parse_argument()
        if token == "\\sqrt":
            return self.parse_root()
        if token in _FUNCTIONS:
            return self.parse_function(token)
        raise _CannotParse

    def parse_root(self) -> float:
        order = 2.0
        if self.peek() == "[":
            order = self.parse_atom()
        value = self.parse_argument()
        if value < 0 or order == 0:
            raise _CannotParse
        return float(value ** (1 / order))

    def parse_function(self, name: str) -> float:
        function, exponent = _FUNCTIONS[name], 1.0
        if self.peek() == "^":
            self.next_token()
            exponent = self.parse_argument()
            if exponent == -1 and name in _INVERSES:
                function, exponent = _INVERSES[name], 1.0
            elif exponent < 0:
                raise _CannotParse
        value = function(self.parse_atom() if self.peek() in _OPENING else self.parse_bare_argument())
        return float(value**exponent)

    def parse_bare_argument(self) -> float:
        r"""Parses `2x` of `\sin 2x`: numbers and letters, and nothing ambiguous after them."""
        value = self.parse_atom()
        while (token := self.peek()) is not None and token not in _ENDS:
            if isinstance(token, float) or token not in {**self.values, **_CONSTANTS}:
                raise _CannotParse
            value *= self.parse_atom()
        return value
