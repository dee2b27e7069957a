"""Rules for answers made of parts: intervals, tuples and sets, equations. All rules compare the parts."""

from collections.abc import Callable
from typing import Any

from sophia_cli.verifier import numbers, structures
from sophia_cli.verifier.types import CannotDecide, GradingCase

# Sets are compared pair by pair, so the time grows with the square.
MAX_SET_SIZE = 64
ORDERED_KINDS = {"tuple", "bracket", "matrix"}
INCOMPATIBLE_KINDS = ({"bracket", "set"}, {"matrix", "list"}, {"matrix", "set"})
"""[2, 5] is an interval and {2, 5} is not; a matrix is more than its rows."""


def same_interval(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares intervals, unions of them, and equivalent inequalities: 0 < x < 1 is (0, 1)."""
    if case.answer_type in ("list", "tuple"):
        return None
    left, right = structures.read_intervals(answer), structures.read_intervals(gold)
    if left is None or right is None:
        return None
    if left[0] and right[0] and structures.name_key(left[0]) != structures.name_key(right[0]):
        return None
    if len(left[1]) != len(right[1]):
        return None
    return _match_parts(left[1], right[1], lambda one, other: _same_interval_span(one, other, case))


def _same_interval_span(one: structures.Interval, other: structures.Interval, case: GradingCase) -> bool:
    closed = (one.low_closed, one.high_closed) == (other.low_closed, other.high_closed)
    return closed and _same_end(one.low, other.low, case) and _same_end(one.high, other.high, case)


def _same_end(one: str, other: str, case: GradingCase) -> bool:
    infinite = ("inf", "-inf")
    return one == other if one in infinite or other in infinite else case.equal_parts(one, other, case.part_case())


def same_collection(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares tuples and matrices in order, sets and lists in any order. A single value equals a set of one."""
    if structures.other_members(answer, gold) or structures.other_points(answer, gold):
        return False
    answer, gold = structures.without_membership(answer), structures.without_membership(gold)
    left, right = _parts_of(answer), _parts_of(gold)
    if left is None and right is None:
        return None
    if left is None or right is None:
        return _value_and_collection(answer, gold, left, right, case)
    if len(left.parts) != len(right.parts) or len(left.parts) > MAX_SET_SIZE:
        return False
    if {left.kind, right.kind} in INCOMPATIBLE_KINDS and case.answer_type != "list":
        return False
    golds = [(part, _part_tolerance(case, index, len(right.parts))) for index, part in enumerate(right.parts)]

    def same(part: str, wanted: tuple[str, Any]) -> bool:
        return case.equal_parts(part, wanted[0], case.part_case(tolerance=wanted[1]))

    if _differently_named(left.parts, right.parts):
        orders = [
            (left.parts, golds),
            (structures.sort_by_name(left.parts), [(part, None) for part in structures.sort_by_name(right.parts)]),
        ]
        return any(all(same(part, wanted) for part, wanted in zip(*order, strict=True)) for order in orders)
    if {left.kind, right.kind} & ORDERED_KINDS or case.answer_type == "tuple":
        return all(same(part, wanted) for part, wanted in zip(left.parts, golds, strict=True))
    return _match_parts(list(left.parts), golds, same)


def _differently_named(answers: tuple[str, ...], golds: tuple[str, ...]) -> bool:
    """Tells whether only one side names its parts, with different letters: 3, 2 is the wrong order for a = 2, b = 3."""
    named = [[structures.named_value(part) for part in parts] for parts in (answers, golds)]
    if all(named[0]) == all(named[1]):
        return False
    names = [found[0] for side in named if all(side) for found in side if found]
    return len({name[:1] for name in names}) == len(names)


def _value_and_collection(
    answer: str, gold: str, left: structures.Collection | None, right: structures.Collection | None, case: GradingCase
) -> bool | None:
    """Compares one value with several: right for a set of one, or where all parts of a list equal the gold."""
    if structures.named_value(gold if right is None else answer):
        return None
    if right is not None:
        return len(right.parts) == 1 and case.equal_parts(answer, right.parts[0], case.part_case())
    if left is None or not left.parts or (left.kind in ORDERED_KINDS and len(left.parts) > 1):
        return False
    return all(case.equal_parts(part, gold, case.part_case()) for part in left.parts)


def _parts_of(text: str) -> structures.Collection | None:
    if numbers.read_quantity(text) is not None:
        return None  # 65,536 is one number
    found = structures.read_collection(text)
    if found is None and (values := structures.plus_minus(text)):
        named = structures.named_value(values[0])
        minus = structures.named_value(values[1])
        return structures.Collection("list", (named[1], minus[1]) if named and minus else tuple(values))
    return found


def _part_tolerance(case: GradingCase, index: int, count: int) -> Any:
    """Returns the tolerance of part `index`, where the item has one for each."""
    given = case.item.get("tolerance")
    return given[index] if isinstance(given, list) and len(given) == count else given


def _match_parts(answers: list[Any], golds: list[Any], same: Callable[[Any, Any], bool]) -> bool:
    """Tells whether the answers can be matched to the golds, each to an equal one.

    Raises:
        CannotDecide: algebra has no verdict on a pair.
    """
    left = list(answers)
    for gold in golds:
        unknown: CannotDecide | None = None
        for index, answer in enumerate(left):
            try:
                if same(answer, gold):
                    del left[index]
                    break
            except CannotDecide as error:
                unknown = error
        else:
            if unknown:
                raise unknown
            return False
    return True


def same_equation(answer: str, gold: str, case: GradingCase) -> bool | None:
    """Compares `x = 5` with 5, and 5 with `x = 5`. Equations that name different things are left to algebra."""
    left, right = structures.named_value(answer), structures.named_value(gold)
    if left and right:
        if structures.name_key(left[0]) == structures.name_key(right[0]):
            return case.equal_parts(left[1], right[1], case.part_case())
        return None
    if left and len(structures.equation_sides(gold)) == 1:
        return case.equal_parts(left[1], gold, case.deeper_case())
    if right and len(structures.equation_sides(answer)) == 1:
        return case.equal_parts(answer, right[1], case.deeper_case())
    return False if (len(structures.equation_sides(answer)) > 1) != (len(structures.equation_sides(gold)) > 1) else None
