"""The rule verifier: extraction, then cheap exact rules in the order of `RULES`, then algebra (Eq. 4).

Each rule is a small function (answer, gold, case) → True, False, or None when it has no say; the first that has one
settles it and gives `verified_by` its name. Algebra is asked last, in a process of its own (`_algebra.py`).
"""

import re
import time
from collections.abc import Sequence
from fractions import Fraction

from sophia_cli.verifier import choices as letters
from sophia_cli.verifier import clock_and_ratio as clocks
from sophia_cli.verifier import numbers, sympy_worker, units
from sophia_cli.verifier import structure_rules as compound
from sophia_cli.verifier import structures as shapes
from sophia_cli.verifier import text as words
from sophia_cli.verifier import tolerance as nearness
from sophia_cli.verifier.float_eval import constant, differ
from sophia_cli.verifier.normalize import compact, tidy, too_big
from sophia_cli.verifier.types import Case, CouldNotTell, Rule

DEEPEST = 5
"""Levels of parts within parts (a list of tuples of sums) that are taken apart."""
FAR = 0.1
"""Relative gap beyond which nothing is approximately something."""
LOST_BY_ALGEBRA = re.compile(r"'|:|(?<=\d)_[{(\s]*\d+|\\partial ?\w?|mod(?![a-z])|\d [rR] \d")
"""What the grammar drops or reads as something else: f' is not f'', 3:30 is no tenth, 12 to the base 5 is not 12."""
LITERAL = re.compile(r"[A-Z]{2,}|\d{4}-\d{1,2}-\d{1,2}")
"""Names and dates, which algebra would read as products and differences: HHT is not HTH."""


PICTURE = re.compile(r"<(image \d+)>")
"""An option that is an image of the question: there is no value to compare."""


def settle(answer: str, gold: str, case: Case) -> tuple[str, str]:
    """(outcome, rule) for two tidy texts: the first rule of `RULES` that has a say, at last algebra."""
    try:
        for rule in RULES:
            right = rule(answer, gold, case)
            if right is not None:
                return "correct" if right else "wrong", rule.__name__.strip("_")
    except CouldNotTell as unknown:
        return unknown.outcome, "math-verify"
    except Exception:  # noqa: BLE001  (a rule that breaks on a text has no verdict on it, and must not end the step)
        return "error", "a rule failed"
    return "wrong", "no rule"


def _same(answer: str, gold: str, case: Case) -> bool:
    """Whether two parts are equal by the same rules. Raises CouldNotTell."""
    if case.depth > DEEPEST:
        return compact(answer) == compact(gold)
    for rule in RULES:
        right = rule(tidy(answer), tidy(gold), case)
        if right is not None:
            return right
    return False


def _choice(answer: str, gold: str, case: Case) -> bool | None:
    """A letter or its option's value, on either side; without options, a gold that is a letter."""
    if case.choices:
        choices = list(case.choices)
        wanted, picked = letters.options(gold, choices), letters.options(answer, choices)
        if wanted is None:
            return None
        if picked is not None or letters.letters_of(answer):
            return picked == wanted
        option = choices[min(wanted)]
        if picture := PICTURE.fullmatch(option):
            return answer.casefold() == picture[1]
        return len(wanted) == 1 and _same(answer, option, case.part())
    if not letters.is_letter_gold(gold):
        return None
    if answer.isalpha() and len(set(answer)) == len(answer) and sorted(answer) == sorted(gold):
        return True  # DB is BD
    order = re.findall("[A-J]", gold) if letters.letters_of(gold) else []
    if order != sorted(order):
        return re.findall("[A-J]", answer) == order  # D, B, C, A is an order
    wanted_letters = letters.letters_of(gold) or frozenset(gold.lstrip("(")[0])
    picked_letters = letters.letters_of(answer) if len(answer) > 1 or answer.isupper() or case.lettered else None
    if picked_letters is None and (found := letters.led_letter(answer)) and answer[0] in "([" + found[0]:
        picked_letters = frozenset(found[0])
    if picked_letters is None:
        return False if len(wanted_letters) == 1 and constant(answer) is not None else None
    return picked_letters == wanted_letters


def _same_text(answer: str, gold: str, case: Case) -> bool | None:
    """The same spelling but for spaces. Case counts: m is not M."""
    same = compact(answer).lstrip("+") == compact(gold).lstrip("+") or _without_subscripts(answer) == _without_subscripts(
        gold
    )
    return True if same else None


def _without_subscripts(text: str) -> str:
    """CO_2 as CO2."""
    return re.sub(r"(?<=[A-Za-z])_\{?(\w+)\}?", r"\1", compact(text)) if "_" in text else compact(text)


def _size(answer: str, gold: str, case: Case) -> bool | None:
    """An answer that is empty, too long, too deep, or of too long numbers is wrong (the same spelling was right before)."""
    return False if not answer or too_big(answer) else None


def _statements(answer: str, gold: str, case: Case) -> bool | None:
    """Numbered statements, ①③ in any order."""
    left, right = letters.circled(answer), letters.circled(gold)
    return None if left is None and right is None else left == right


def _yes_no(answer: str, gold: str, case: Case) -> bool | None:
    """Yes and no, true and false, in English and Chinese."""
    wanted = words.polarity(gold)
    if wanted is None or len(gold) > 12:
        return None
    found = words.polarity(answer)
    return None if found is None else found == wanted


def _number(answer: str, gold: str, case: Case) -> bool | None:
    """Two numbers, with what units, percent signs and the item's `tolerance`, `precision` and `unit` say."""
    if case.kind == "text" and not case.choices and not gold[:1].isdigit():
        return None
    right = numbers.read_quantity(gold)
    left = numbers.read_quantity(answer)
    if left and right and nearness.same_quantity(left, right, case.item):
        return True
    for one, other in ((answer, gold), (gold, answer)):
        comma = numbers.decimal_comma(one, case.european)
        if comma and (quantity := numbers.read_quantity(comma)) and (fixed := numbers.read_quantity(other)):
            pair = (quantity, fixed) if one is answer else (fixed, quantity)
            if nearness.same_quantity(*pair, case.item):
                return True
    if (read := numbers.read_compound(answer)) or numbers.read_compound(gold):
        read, right = read or left, numbers.read_compound(gold) or right
        return nearness.same_quantity(read, right, case.item) if read and right else None
    return False if left and right else None


def _clock(answer: str, gold: str, case: Case) -> bool | None:
    """Two times of day, 3:30 PM and 15:30."""
    left, right = clocks.read_clock(answer), clocks.read_clock(gold)
    return None if left is None or right is None else clocks.same_clock(left, right)


def _ratio(answer: str, gold: str, case: Case) -> bool | None:
    """Two ratios, 2:4 and 1:2; a ratio of two is also the fraction, unless it may be a time of day."""
    left, right = clocks.read_ratio(answer), clocks.read_ratio(gold)
    if left and right:
        return clocks.same_ratio(left, right)
    if clocks.read_clock(answer if left else gold):
        return None
    ratio, other = (left, gold) if left else (right, answer)
    quantity = numbers.read_quantity(other)
    if not ratio or len(ratio) != 2 or not ratio[1] or quantity is None or quantity.unit:
        return None
    return quantity.value == ratio[0] / ratio[1]


def _words(answer: str, gold: str, case: Case) -> bool | None:
    """Two texts without mathematics: equal up to case, articles and punctuation, or not equal."""
    if words.is_words(answer) and words.is_words(gold):
        return words.same_words(answer, gold)
    if words.figure(answer) and words.figure(gold):
        return words.figure(answer) == words.figure(gold)
    return words.same_words(answer, gold) if case.kind == "text" and words.is_prose(gold) else None


def _approximation(answer: str, gold: str, case: Case) -> bool | None:
    """`exact ≈ decimal` is right when its exact side is, or when its decimal is and the exact side rounds to it."""
    gold_sides, answer_sides = shapes.approximations(shapes.without_remark(gold)), shapes.approximations(answer)
    bare = shapes.without_remark(answer)
    if len(gold_sides) == 1 and len(answer_sides) == 1:
        return _same(bare, gold_sides[0], case.deeper()) if (bare, gold_sides[0]) != (answer, gold) else None
    if _far_apart(answer_sides):
        return False
    deeper = case.deeper()
    for wanted in gold_sides[len(gold_sides) > 1 and shapes.is_name(gold_sides[0]) :]:
        named = shapes.named_value(answer_sides[0])
        exact = named[1] if named else answer_sides[0]
        if shapes.is_name(exact) and len(answer_sides) == 2:
            exact = answer_sides[1]
        if _same(exact, wanted, deeper):
            return True
        if len(answer_sides) == 2 and exact != answer_sides[1] and _same(answer_sides[1], wanted, deeper):
            decimal = numbers.read_quantity(answer_sides[1])
            return decimal is not None and _same(exact, answer_sides[1], case.part(tolerance=nearness.half_unit(decimal)))
    return False


def _far_apart(answer_sides: list[str]) -> bool:
    """Whether the two sides of `100 ≈ 7` are no approximation of each other."""
    values = [constant(side) for side in answer_sides]
    if len(values) != 2 or values[0] is None or values[1] is None:
        return False
    return abs(values[0] - values[1]) > FAR * max(abs(values[0]), abs(values[1]))


def _with_unit(answer: str, gold: str, case: Case) -> bool | None:
    """An expression with a unit behind it, `3\\sqrt{2} cm`: the expressions are compared, in the gold's unit."""
    left, right = units.split_unit(answer), units.split_unit(gold)
    wanted = right[1] or units.unit_of(str(case.item.get("unit") or ""))
    if not (left[1] or right[1]) or ("\\pi" in answer + gold and units.DEGREE in (left[1], right[1])):
        return None
    if not all(unit or constant(head) is not None for head, unit in (left, right)):
        return None  # mg in \\frac{mg}{2} is a mass and a g
    if left[1] and wanted and left[1] != wanted:
        factor = units.convert(Fraction(1), left[1], wanted)
        if factor is None:
            return units.same_words(left[1], wanted) and _same(left[0], right[0], case.deeper())
        return _same(
            f"\\frac{{{factor.numerator}}}{{{factor.denominator}}} \\cdot ({left[0]})", right[0], case.part(unit=None)
        )
    return _same(left[0], right[0], case.part(unit=None))


def _algebra_rule(answer: str, gold: str, case: Case) -> bool | None:
    """What needs algebra, by math-verify in a process of its own. Raises CouldNotTell."""
    if words.is_prose(answer) or words.is_prose(gold) or words.is_words(gold) != words.is_words(answer):
        return words.same_words(answer, gold)
    if sorted(LOST_BY_ALGEBRA.findall(answer)) != sorted(LOST_BY_ALGEBRA.findall(gold)):
        return False
    if LITERAL.fullmatch(answer) and LITERAL.fullmatch(gold):
        return False  # the same spelling was right before
    if ("°" in answer) != ("°" in gold) and "\\pi" in answer + gold:
        answer, gold = (text.replace("°", "\\cdot \\frac{\\pi}{180}") for text in (answer, gold))
    slack = nearness.slack(answer, gold, case.item)
    unequal = not slack and differ(sympy_worker.to_latex(answer), sympy_worker.to_latex(gold))
    if unequal or _letter_and_constant(answer, gold):
        return False
    left = case.deadline - time.monotonic()
    if left <= 0:
        raise CouldNotTell("timeout")
    outcome = sympy_worker.equal(gold, answer, left, slack)
    if outcome not in ("correct", "wrong"):
        raise CouldNotTell(outcome)
    return outcome == "correct"


def _letter_and_constant(answer: str, gold: str) -> bool:
    """Whether one side is a lone letter and the other a number."""
    for one, other in ((answer, gold), (gold, answer)):
        if len(one) == 1 and one.isalpha() and one not in "eEiIjπ" and constant(other) is not None:
            return True
    return False


_algebra_rule.__name__ = "math-verify"

RULES: Sequence[Rule] = (
    _choice,
    _same_text,
    _size,
    _statements,
    _yes_no,
    _number,
    _clock,
    _ratio,
    _words,
    _approximation,
    compound.interval,
    compound.collection,
    compound.equation,
    _with_unit,
    _algebra_rule,
)
