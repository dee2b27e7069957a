"""Compares one pair in the algebra worker: parses both with math-verify, compares constants by value and the rest
symbolically.

It runs only in the worker (`sympy_worker.py`), because it may hang or run out of memory and is then killed.
"""

from pathlib import Path
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse
from math_verify.grader import sympy_expr_eq
from sympy import Basic, Float, I, MatrixBase, Rational, Symbol

# Far beyond double precision, so that nearly equal closed forms differ.
COMPARED_DIGITS = 40
EXACT_TOLERANCE, FLOAT_TOLERANCE = 1e-25, 1e-12
"""Relative gaps below which two constants are equal: both exact, or one a decimal."""

_LATEX_CONFIG = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    ),
)
_MEMORY_LIMIT_KIB = 900 << 10
"""Peak memory above which a False may hide a MemoryError that math-verify swallowed."""


def compare_latex(gold: str, answer: str, slack: float) -> str:
    """Returns `correct`, `wrong`, `ungradable`, `timeout` (out of memory) or `error`."""
    try:
        parsed_gold = _parse_latex(gold)
        if parsed_gold is None:
            return "ungradable"
        parsed_answer = _parse_latex(answer)
        if parsed_answer is None:
            return "wrong"
        if _same_expression(parsed_gold, parsed_answer, slack):
            return "correct"
    except MemoryError:
        return "timeout"
    except Exception:  # noqa: BLE001  (sympy raises many types; the pair cannot be decided)
        return "error"
    return "timeout" if _peak_kib() > _MEMORY_LIMIT_KIB else "wrong"


def _peak_kib() -> int:
    """Returns the peak memory of this process; 0 without /proc, where nothing limits memory.

    Not from `getrusage`, because its value starts with the parent's memory, which may include a whole model.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0])


def _parse_latex(latex: str) -> Any:
    found = parse(
        f"\\boxed{{{latex}}}",
        extraction_config=[_LATEX_CONFIG],  # never the plain-expression parser, which evaluates its input as code
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
        raise_on_error=False,
    )
    return found[0] if found and isinstance(found[0], Basic | MatrixBase) else None


def _same_expression(gold: Any, answer: Any, slack: float) -> bool:
    if _is_constant(gold) and _is_constant(answer):
        return _same_constant(gold, answer, slack)
    if sympy_expr_eq(gold, answer, 6, 15, allow_set_relation_comp=True, strict=True):
        return True
    left, right = (
        value.subs(Symbol("i"), I) if isinstance(value, Basic) else value for value in _plain_symbols(gold, answer)
    )
    return _is_constant(left) and _is_constant(right) and _same_constant(left, right, slack)


def _plain_symbols(*values: Any) -> list[Any]:
    """Parses with a symbol `i` (a variable to the grammar) that has no assumptions."""
    return [value.subs({symbol: Symbol("i") for symbol in value.free_symbols if symbol.name == "i"}) for value in values]


def _is_constant(value: Any) -> bool:
    return isinstance(value, Basic) and not isinstance(value, MatrixBase) and getattr(value, "is_number", False) is True


def _same_constant(gold: Any, answer: Any, slack: float) -> bool:
    gold, answer = gold.doit(), answer.doit()
    if not (gold.is_finite and answer.is_finite):
        return bool(gold == answer)
    if isinstance(gold, Rational) and isinstance(answer, Rational) and not slack:
        return bool(gold == answer)
    left, right = complex_digits(gold), complex_digits(answer)
    gap = abs(left - right)
    if slack:
        return bool(gap <= slack * (1 + 1e-9))
    allowed = FLOAT_TOLERANCE if gold.has(Float) or answer.has(Float) else EXACT_TOLERANCE
    return bool(gap <= allowed * max(abs(left), abs(right)))


def complex_digits(value: Any) -> Any:
    """Returns a constant to 40 digits."""
    number = value.evalf(COMPARED_DIGITS)
    if not (number.is_Float or number.is_Integer or number.is_Rational or number.has(I)):
        raise ValueError("not a number")
    return number
