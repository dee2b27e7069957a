"""The rules that compare an answer with a gold, in the order of `RULES`; algebra comes last (Eq. 4).

A rule is a function (answer, gold, case) → True, False, or None if it does not apply. The first rule that applies
decides, and `verified_by` is its name. Algebra runs in a process of its own (`sympy_worker.py`).
"""

import re
import time
from collections.abc import Mapping
from fractions import Fraction

from sophia_cli.verifier import (
    calendar_and_duration,
    clock_and_ratio,
    formula,
    numbers,
    option_letters,
    structure_rules,
    structures,
    sympy_worker,
    tolerance,
    units,
    words,
)
from sophia_cli.verifier.float_eval import constant_value, values_differ
from sophia_cli.verifier.function_names import without_root_numbers
from sophia_cli.verifier.normalize import is_too_complex, normalize, strip_spaces
from sophia_cli.verifier.types import CannotDecide, GradingCase, Rule

MAX_PART_DEPTH = 5
"""Levels of nested parts (a list of tuples of sums) that are compared part by part."""
MAX_RELATIVE_GAP = 0.1
"""Relative gap beyond which `a ≈ b` is not an approximation."""
IGNORED_BY_ALGEBRA = re.compile(r"'|:|(?<=\d)_[{(\s]*\d+|\\partial ?\w?|mod(?![a-z])\s*\d*|\d [rR] \d")
"""What the grammar drops or misreads: f' is not f'', 3:30 is not a tenth, 12 in base 5 is not 12."""
LITERAL_NAME = re.compile(r"[A-Z]{2,}")
"""Names, which algebra would read as products: HHT is not HTH."""
DATE = re.compile(r"[12]\d{3}-\d{1,2}-\d{1,2}|[12]\d{3}-(?:0[1-9]|1[0-2])|[12]\d{3}-[12]\d{3}")
"""Dates and years, which algebra would read as differences."""


IMAGE_OPTION = re.compile(r"<(image \d+)>")
"""An option that is an image of the question. It has no value to compare."""


def apply_rules(answer: str, gold: str, case: GradingCase) -> tuple[str, str]:
    """Returns (outcome, rule) for two normalized texts: the first rule of `RULES` that applies."""
    answer, gold = without_root_numbers(answer, gold)
    try:
        for name, rule in RULES.items():
            right = rule(answer, gold, case)
            if right is not None:
                return "correct" if right else "wrong", name
    except CannotDecide as unknown:
        return unknown.outcome, "math-verify"
    except Exception:  # noqa: BLE001  (a rule that crashes on a text must not end the step)
        return "error", "a rule failed"
    return "wrong", "no rule"


def equal_parts(answer: str, gold: str, case: GradingCase) -> bool:
    """Tells whether two parts are equal by the same rules.

    Raises:
        CannotDecide: algebra has no verdict.
    """
    if case.depth > MAX_PART_DEPTH:
        return strip_spaces(answer) == strip_spaces(gold)
    for rule in RULES.values():
        right = rule(normalize(answer), normalize(gold), case)
        if right is not None:
            return right
    return False


def same_choice(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares a letter or its option's value, on either side; without options, a gold that is a letter."""
    if case.choices:
        choices = list(case.choices)
        wanted, picked = option_letters.matching_options(gold, choices), option_letters.matching_options(answer, choices)
        if wanted is None:
            return None
        if picked is not None or option_letters.letters_of(answer):
            return picked == wanted
        option = choices[min(wanted)]
        if picture := IMAGE_OPTION.fullmatch(option):
            return answer.casefold() == picture[1]
        return len(wanted) == 1 and equal_parts(answer, _ratio_as_fraction(option, answer, choices), case.part_case())
    if not option_letters.is_letter_gold(gold):
        return None
    if answer.isalpha() and len(set(answer)) == len(answer) and sorted(answer) == sorted(gold):
        return True  # DB is BD
    order = re.findall("[A-J]", gold) if option_letters.letters_of(gold) else []
    if order != sorted(order):
        return re.findall("[A-J]", answer) == order  # D, B, C, A is a sequence
    wanted_letters = option_letters.letters_of(gold) or frozenset(gold.lstrip("(")[0])
    picked_letters = (
        option_letters.letters_of(answer) if len(answer) > 1 or answer.isupper() or case.expects_letter else None
    )
    if picked_letters is None and (found := option_letters.led_letter(answer)) and answer[0] in "([" + found[0]:
        picked_letters = frozenset(found[0])
    if picked_letters is None:
        return False if len(wanted_letters) == 1 and constant_value(answer) is not None else None
    return picked_letters == wanted_letters


def _ratio_as_fraction(option: str, answer: str, choices: list[str]) -> str:
    """Returns an option `5:12` as a fraction, where all options are ratios and the answer is not one."""
    are_times = all(re.fullmatch(r"\d{1,2}:\d\d", choice) for choice in choices)
    if ":" in answer or " to " in answer or are_times or not all(choice.count(":") == 1 for choice in choices):
        return option
    left, right = option.split(":")
    return f"\\frac{{{left.strip()}}}{{{right.strip()}}}"


def same_text(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares spellings without spaces. Case counts: m is not M."""
    same = strip_spaces(answer).lstrip("+") == strip_spaces(gold).lstrip("+") or _without_subscripts(
        answer
    ) == _without_subscripts(gold)
    return True if same else None


def _without_subscripts(text: str) -> str:
    """Returns CO2 for CO_2."""
    return re.sub(r"(?<=[A-Za-z])_\{?(\w+)\}?", r"\1", strip_spaces(text)) if "_" in text else strip_spaces(text)


def too_complex(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Rejects an answer that is empty, too long, too deep, or has too long numbers. An identical text was accepted
    before.
    """
    return False if not answer or is_too_complex(answer) else None


def same_statements(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares numbered statements, ①③ in any order."""
    left, right = option_letters.circled_numbers(answer), option_letters.circled_numbers(gold)
    return None if left is None and right is None else left == right


def same_polarity(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares yes and no, true and false, in English and Chinese."""
    wanted = words.yes_or_no(gold)
    if wanted is None or len(gold) > 12:
        return None
    found = words.yes_or_no(answer)
    return None if found is None else found == wanted


def same_number(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares two numbers with their units and percent signs, by the item's `tolerance`, `precision` and `unit`."""
    if case.answer_type == "text" and not case.choices and not gold[:1].isdigit():
        return None
    if answer.isalpha() and gold.isalpha() and numbers.is_ordinal_word(answer) != numbers.is_ordinal_word(gold):
        return False  # `five` is not `fifth`
    right = numbers.read_quantity(gold)
    left = numbers.read_quantity(answer)
    if left and right and tolerance.same_quantity(left, right, case.item):
        return True
    for one, other in ((answer, gold), (gold, answer)):
        comma = numbers.decimal_comma(one, case.uses_decimal_comma)
        if comma and (quantity := numbers.read_quantity(comma)) and (fixed := numbers.read_quantity(other)):
            pair = (quantity, fixed) if one is answer else (fixed, quantity)
            if tolerance.same_quantity(*pair, case.item):
                return True
    if (read := numbers.read_compound(answer)) or numbers.read_compound(gold):
        read, right = read or left, numbers.read_compound(gold) or right
        return tolerance.same_quantity(read, right, case.item) if read and right else None
    return False if left and right else None


def same_date(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares two dates, months or weekdays: 2024-03-05 and March 5, 2024."""
    left, right = calendar_and_duration.read_dates(answer), calendar_and_duration.read_dates(gold)
    # A month and a day of the month cannot be compared.
    if not left or not right or len(left) != len(right):
        return None
    is_same_kind = all(list(map(bool, one)) == list(map(bool, other)) for one, other in zip(left, right, strict=True))
    return left == right if is_same_kind else None


def same_duration(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares two durations of which one has several parts or is in Chinese: 1h15m and 75 min."""
    left, right = calendar_and_duration.read_duration(answer), calendar_and_duration.read_duration(gold)
    return left[0] == right[0] if left and right and (left[1] or right[1]) else None


def same_formula(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares two chemical formulas; subscripts, charges and the order of a reaction's species are spelling.

    Unequal ones may be algebra with subscripts: S_2 + S_1.
    """
    left, right = formula.read_formula(answer), formula.read_formula(gold)
    if left is None or right is None:
        return None
    if left == right:
        return True
    return False if formula.is_spelled_out(answer) and formula.is_spelled_out(gold) else None


def same_clock_time(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares two times of day, 3:30 PM and 15:30."""
    left, right = clock_and_ratio.read_clock(answer), clock_and_ratio.read_clock(gold)
    return None if left is None or right is None else clock_and_ratio.same_clock(left, right)


def same_ratio(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares two ratios, 2:4 and 1:2. A ratio of two numbers also equals its fraction, unless it may be a time of day."""
    left, right = clock_and_ratio.read_ratio(answer), clock_and_ratio.read_ratio(gold)
    if left and right:
        return clock_and_ratio.same_ratio(left, right)
    if clock_and_ratio.read_clock(answer if left else gold):
        return None
    ratio, other = (left, gold) if left else (right, answer)
    quantity = numbers.read_quantity(other)
    if not ratio or len(ratio) != 2 or not ratio[1] or quantity is None or quantity.unit:
        return None
    return quantity.value == ratio[0] / ratio[1]


def same_words(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares two texts without math: equal up to case, articles and punctuation."""
    if words.is_words(answer) and words.is_words(gold):
        return words.same_words(answer, gold)
    if words.figure_name(answer) and words.figure_name(gold):
        return words.figure_name(answer) == words.figure_name(gold)
    return words.same_words(answer, gold) if case.answer_type == "text" and words.is_prose(gold) else None


def same_approximation(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Accepts `exact ≈ decimal` if its exact side is right, or if its decimal is and the exact side rounds to it."""
    gold_sides, answer_sides = (
        structures.approximation_sides(structures.without_remark(gold)),
        structures.approximation_sides(answer),
    )
    bare = structures.without_remark(answer)
    if len(gold_sides) == 1 and len(answer_sides) == 1:
        return equal_parts(bare, gold_sides[0], case.deeper_case()) if (bare, gold_sides[0]) != (answer, gold) else None
    if _far_apart(answer_sides):
        return False
    deeper = case.deeper_case()
    for wanted in gold_sides[len(gold_sides) > 1 and structures.is_name(gold_sides[0]) :]:
        named = structures.named_value(answer_sides[0])
        exact = named[1] if named else answer_sides[0]
        if structures.is_name(exact) and len(answer_sides) == 2:
            exact = answer_sides[1]
        if equal_parts(exact, wanted, deeper):
            return True
        if len(answer_sides) == 2 and exact != answer_sides[1] and equal_parts(answer_sides[1], wanted, deeper):
            decimal = numbers.read_quantity(answer_sides[1])
            return decimal is not None and equal_parts(
                exact, answer_sides[1], case.part_case(tolerance=tolerance.half_unit(decimal))
            )
    return False


def _far_apart(answer_sides: list[str]) -> bool:
    """Tells whether the two sides of `100 ≈ 7` do not approximate each other."""
    values = [constant_value(side) for side in answer_sides]
    if len(values) != 2 or values[0] is None or values[1] is None:
        return False
    return abs(values[0] - values[1]) > MAX_RELATIVE_GAP * max(abs(values[0]), abs(values[1]))


def same_with_unit(answer: str, gold: str, case: GradingCase) -> bool | None:
    r"""Compares expressions with a unit, `3\sqrt{2} cm`, in the gold's unit."""
    left, right = units.split_unit(answer), units.split_unit(gold)
    wanted = right[1] or units.canonical_unit(str(case.item.get("unit") or ""))
    if not (left[1] or right[1]) or ("\\pi" in answer + gold and units.DEGREE in (left[1], right[1])):
        return None
    if not all(unit or constant_value(head) is not None for head, unit in (left, right)):
        return None  # mg in \\frac{mg}{2} is m times g
    if left[1] and wanted and left[1] != wanted:
        factor = units.convert_value(Fraction(1), left[1], wanted)
        if factor is None:
            return units.same_unit_words(left[1], wanted) and equal_parts(left[0], right[0], case.deeper_case())
        return equal_parts(
            f"\\frac{{{factor.numerator}}}{{{factor.denominator}}} \\cdot ({left[0]})", right[0], case.part_case(unit=None)
        )
    return equal_parts(left[0], right[0], case.part_case(unit=None))


def same_by_algebra(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares what needs algebra, by math-verify in a process of its own.

    Raises:
        CannotDecide: algebra has no verdict.
    """
    if words.is_prose(answer) or words.is_prose(gold) or words.is_words(gold) != words.is_words(answer):
        return words.same_words(answer, gold)
    if sorted(IGNORED_BY_ALGEBRA.findall(answer)) != sorted(IGNORED_BY_ALGEBRA.findall(gold)):
        return False
    if (LITERAL_NAME.fullmatch(answer) and LITERAL_NAME.fullmatch(gold)) or DATE.fullmatch(answer) or DATE.fullmatch(gold):
        return False  # an identical text was accepted before
    if ("°" in answer) != ("°" in gold) and "\\pi" in answer + gold:
        answer, gold = (text.replace("°", "\\cdot \\frac{\\pi}{180}") for text in (answer, gold))
    slack = tolerance.algebra_tolerance(answer, gold, case.item)
    unequal = not slack and values_differ(sympy_worker.to_latex(answer), sympy_worker.to_latex(gold))
    if unequal or _letter_and_constant(answer, gold):
        return False
    left = case.deadline - time.monotonic()
    if left <= 0:
        raise CannotDecide("timeout")
    outcome = sympy_worker.algebraically_equal(gold, answer, left, slack)
    if outcome not in ("correct", "wrong"):
        raise CannotDecide(outcome)
    return outcome == "correct"


def _letter_and_constant(answer: str, gold: str) -> bool:
    """Tells whether one side is a single letter and the other a number."""
    for one, other in ((answer, gold), (gold, answer)):
        if len(one) == 1 and one.isalpha() and one not in "eEiIjπ" and constant_value(other) is not None:
            return True
    return False


RULES: Mapping[str, Rule] = {
    "choice": same_choice,
    "same_text": same_text,
    "size": too_complex,
    "statements": same_statements,
    "yes_no": same_polarity,
    "date": same_date,
    "duration": same_duration,
    "clock": same_clock_time,
    "number": same_number,
    "formula": same_formula,
    "ratio": same_ratio,
    "words": same_words,
    "approximation": same_approximation,
    "interval": structure_rules.same_interval,
    "collection": structure_rules.same_collection,
    "equation": structure_rules.same_equation,
    "with_unit": same_with_unit,
    "math-verify": same_by_algebra,
}
"""The rules in order. The key is the `verified_by` of a record."""
