"""Reads structured answers: equations, intervals and inequalities, sets, lists, tuples and matrices, plus-minus.

Each function splits a normalized text into its parts, which are texts again. The rules compare the parts.
"""

import re
from dataclasses import dataclass

from sophia_cli.verifier.float_eval import constant_value
from sophia_cli.verifier.normalize import has_balanced_braces, split_top_level, strip_spaces

_EQUALS = r"(?<![<>!:])=(?!=)"
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|\\[a-zA-Z]+|\w)")
_CALL = re.compile(r"(?<=[A-Za-z])\s*\([\d,.\s-]+\)")
_NUMBERED = re.compile(r"(?<=\\angle)\s*\d+")
_NAME = re.compile(r"[A-Za-z\\|'(),:/{}\s一-鿿]+")
_NAME_START = re.compile(r"[A-Za-z一-鿿]")
_MEMBER = re.compile(r"^\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?\s*\\in(?![a-z])\s*")
_REMARK = re.compile(
    r"""\s* [(（] \s*
    (?: about | approximately | approx\.? | roughly | 约 | i\.e\.? | in\  | which | since
      | because | \\approx | ≈ | rounded | to\ the )
    [^()（）]* [)）] \s* $""",
    re.IGNORECASE | re.VERBOSE,
)
_APPROX = re.compile(r"\\approx|\\simeq|\\doteq")


def without_remark(text: str) -> str:
    """Removes a remark in parentheses at the end, `(about 18.9 cards)`."""
    return _REMARK.sub("", text)


def approximation_sides(text: str) -> list[str]:
    """Returns the two sides of `exact ≈ decimal`; the text alone without exactly one such sign."""
    parts = [part.strip() for part in _APPROX.split(text)]
    return parts if len(parts) == 2 and parts[0] and parts[1] else [text]


def equation_sides(text: str) -> list[str]:
    """Splits an equation, or a chain of them, at the equal signs outside all brackets."""
    return [part.strip() for part in split_top_level(text, _EQUALS)]


def is_name(text: str) -> bool:
    r"""Tells whether a side of an equation is only a name: `x`, `f(x)`, `AB`, `\angle ABC`, `(p,q)`, `A:B`."""
    bare = _NUMBERED.sub("", _CALL.sub("", _SUBSCRIPT.sub("", text))).strip()
    return bool(_NAME.fullmatch(bare) and _NAME_START.search(bare)) and not re.search(
        r"\\(?:sqrt|pi|infty|sum|int|begin)", bare
    )


def name_key(text: str) -> str:
    """Returns a name in one spelling: `a_n` for `a_{n}`."""
    return re.sub(r"_\{(\w)\}", r"_\1", strip_spaces(text))


def named_value(text: str) -> tuple[str, str] | None:
    """Returns (`x`, `5`) for `x = 5`, `5 = x` and `x = 2+3 = 5`; None for any other text."""
    parts = equation_sides(text)
    if len(parts) < 2 or not all(parts) or _is_contradiction(parts):
        return None
    if any(re.search(rf"[\s,;]{re.escape(parts[0])}$", part) for part in parts[1:-1]):
        return None  # x = 3, x = 4
    if is_name(parts[0]) or (len(parts) > 2 and any(is_name(part) for part in parts[:-1])):
        return parts[0], parts[-1]
    if len(parts) == 2 and is_name(parts[1]):
        return parts[1], parts[0]
    if all(re.search(r"\d", part) and not re.search(r"(?<![\\A-Za-z])[a-zA-Z](?![A-Za-z])", part) for part in parts):
        return "", parts[-1]  # 35 + 70 = 105
    return None


def sort_by_name(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Returns `x = 3, y = 4` for `y = 4, x = 3`; parts that are not all named stay unchanged."""
    named = [named_value(part) for part in parts]
    if not all(named):
        return parts
    return tuple(part for _, part in sorted(zip([found[0] for found in named if found], parts, strict=True)))


def _is_contradiction(parts: list[str]) -> bool:
    """Tells whether two sides of a chain are different constants: `6 = 5` states nothing."""
    values = [value for value in map(constant_value, parts) if value is not None]
    return any(abs(value - values[-1]) > 1e-6 * max(abs(value), abs(values[-1])) for value in values)


def without_membership(text: str) -> str:
    r"""Returns `[0, 1]` for `x \in [0, 1]`."""
    return _MEMBER.sub("", text)


def other_points(one: str, other: str) -> bool:
    """Tells whether two texts are about different points: P(2, 3) and Q(2, 3)."""
    names = [_POINT.match(text) for text in (one, other)]
    return bool(names[0] and names[1] and names[0][0].strip() != names[1][0].strip())


def other_members(one: str, other: str) -> bool:
    """Tells whether two texts are about different variables: x ∈ [0, 1] and y ∈ [0, 1]."""
    names = [_MEMBER.match(text) for text in (one, other)]
    first, second = (match and name_key(match[0].split("\\in")[0]) for match in names)
    return bool(first and second and first != second)


def plus_minus(text: str) -> list[str] | None:
    r"""Returns both values of a text with one `\pm`; None without."""
    if text.count("\\pm") != 1 or "\\mp" in text:
        return None
    head, tail = text.split("\\pm")
    if "," in text:
        return None
    plus = "+" if head.strip() and not re.search(r"[=({\[,]\s*$", head) else ""
    return [f"{head}{plus}{tail}".strip(), f"{head}-{tail}".strip()]


@dataclass(frozen=True)
class Interval:
    """An interval between two texts. An infinite end is `-inf` or `inf`, and open."""

    low: str
    high: str
    low_closed: bool = False
    high_closed: bool = False


_REALS = re.compile(r"\\mathbb\s*\{?R\}?|(?i:all real numbers|all reals|the real numbers)|全体实数|一切实数|任意实数|实数集")
_INTERVAL = re.compile(r"([\[(\]])(.+)([\])\[])", re.DOTALL)
_RELATION = r"\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|<|>"
_BUILDER = re.compile(r"\\?\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\{?R\}?|\\in\s*R)?\s*[|:]\s*(.+?)\\?\}")


def read_intervals(text: str) -> tuple[str, list[Interval]] | None:
    """Returns the variable (empty if none) and the intervals of a union, an interval, or inequalities; else None."""
    if built := _BUILDER.fullmatch(text):
        text = built[1].strip()
    member = _MEMBER.match(text)
    variable = strip_spaces(member[0].split("\\in")[0]) if member else ""
    text = without_membership(text)
    if _REALS.fullmatch(text):
        return variable, [Interval("-inf", "inf")]
    found: list[Interval] = []
    if (both := _read_intersection(text)) is not None:
        return both
    for part in split_top_level(text, r"\\cup(?![a-z])|∪|\bor\b|或"):
        one = _read_interval(part.strip()) or _read_point(part.strip()) or _read_inequality(part.strip())
        if one is None:
            return None
        name, these = one
        if name and variable and name_key(name) != name_key(variable):
            return None
        variable = variable or name
        found += these
    return variable, found


def _read_interval(text: str) -> tuple[str, list[Interval]] | None:
    match = _INTERVAL.fullmatch(text)
    if not match:
        return None
    ends = [part.strip() for part in split_top_level(match[2], "[,;]")]
    if len(ends) != 2 or not all(ends):
        return None
    return "", [_make_interval(ends[0], ends[1], match[1] == "[", match[3] == "]")]


def _read_point(text: str) -> tuple[str, list[Interval]] | None:
    match = re.fullmatch(r"\\?\{([^,{}]+)\\?\}", text)
    return ("", [Interval(match[1].strip(), match[1].strip(), True, True)]) if match else None


def _make_interval(low: str, high: str, low_closed: bool, high_closed: bool) -> Interval:
    low, high = _read_endpoint(low), _read_endpoint(high)
    return Interval(low, high, low_closed and low != "-inf", high_closed and high != "inf")


def _read_endpoint(text: str) -> str:
    plain = strip_spaces(text).lower().replace("\\", "")
    return {"infty": "inf", "+infty": "inf", "-infty": "-inf", "+inf": "inf", "infinity": "inf", "+infinity": "inf"}.get(
        plain, {"-infinity": "-inf", "oo": "inf", "+oo": "inf", "-oo": "-inf"}.get(plain, text)
    )


def _read_inequality(text: str) -> tuple[str, list[Interval]] | None:
    signs = re.findall(_RELATION, text)
    parts = [part.strip() for part in re.split(_RELATION, text)]
    if not signs or not all(parts) or "=" in text:
        return None
    if len(parts) == 2:
        return _half_line(parts[0], signs[0].strip(), parts[1])
    if len(parts) == 3 and is_variable(parts[1]) and "\\ne" not in signs:
        low, name, high = parts
        if signs[0] in (">", "\\ge") and signs[1] in (">", "\\ge"):
            return name, [_make_interval(high, low, signs[1] == "\\ge", signs[0] == "\\ge")]
        if signs[0] in ("<", "\\le") and signs[1] in ("<", "\\le"):
            return name, [_make_interval(low, high, signs[0] == "\\le", signs[1] == "\\le")]
    return None


def _half_line(left: str, sign: str, right: str) -> tuple[str, list[Interval]] | None:
    if (inside := re.fullmatch(r"\|([^|]+)\|", left)) and is_variable(inside[1]) and sign != "\\ne":
        closed = sign in ("\\le", "\\ge")
        minus = right[1:] if right.startswith("-") else f"-{right}" if len(right) < 2 or right.isalnum() else f"-({right})"
        if sign in ("<", "\\le"):
            return inside[1], [Interval(minus, right, closed, closed)]
        return inside[1], [_make_interval("-inf", minus, False, closed), _make_interval(right, "inf", closed, False)]
    if not is_variable(left):
        if not is_variable(right):
            return None
        left, right = right, left
        sign = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}.get(sign, sign)
    if is_variable(right):
        return None
    if sign == "\\ne":
        return left, [Interval("-inf", right), Interval(right, "inf")]
    if sign in ("<", "\\le"):
        return left, [_make_interval("-inf", right, False, sign == "\\le")]
    return left, [_make_interval(right, "inf", sign == "\\ge", False)]


def _read_intersection(text: str) -> tuple[str, list[Interval]] | None:
    r"""Reads `x > 1 and x < 2` as one interval, `x > 1, x \ne 3` as two."""
    parts = [part.strip() for part in split_top_level(text, r"\band\b|且|,|\\text\{and\}|\\land")]
    halves = [_read_inequality(part) for part in parts]
    if len(parts) != 2 or None in halves:
        return None
    (name, first), (other, second) = [half for half in halves if half is not None]
    if name_key(name) != name_key(other):
        return None
    if len(first) == 2:
        first, second = second, first
    if len(first) != 1:
        return None
    one = first[0]
    if len(second) == 2:  # \\ne
        point = second[0].high
        return name, [Interval(one.low, point, one.low_closed), Interval(point, one.high, False, one.high_closed)]
    two = second[0]
    if one.low == "-inf" and two.high == "inf":
        one, two = two, one
    if one.high == "inf" and two.low == "-inf":
        return name, [Interval(one.low, two.high, one.low_closed, two.high_closed)]
    return None


def is_variable(text: str) -> bool:
    r"""Tells whether a text is one variable or function value: `x`, `x_1`, `\theta`, `f(x)`, `AB`."""
    bare = _SUBSCRIPT.sub("", text).strip()
    return bool(re.fullmatch(r"[A-Za-z]{1,3}'?(?:\s*\([a-z]\))?|\\[a-zA-Z]+", bare)) and bare not in ("\\infty", "\\pi", "e")


@dataclass(frozen=True)
class Collection:
    """Parts with a `kind`: tuple, bracket or matrix (ordered), set (in braces) or list (bare), which are unordered."""

    kind: str
    parts: tuple[str, ...]


_MATRIX = re.compile(
    r"[\[(]?\s*\\begin\{(?:[pbB]?matrix|smallmatrix|array)\}(?:\{[lcr|\s]*\})?(.*?)\\end\{\w+\}\s*[\])]?", re.DOTALL
)
_AND = r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])|和|或|与"
_BARE = rf",|;|{_AND}"


def read_collection(text: str) -> Collection | None:
    """Returns the parts of a tuple, set, list or matrix (a tuple of tuples; a vector is a tuple), else None."""
    if text in ("\\emptyset", "空集", "{}", "\\{\\}", "[]", "()") or _NOTHING.fullmatch(text):
        return Collection("set", ())
    if rows := _read_matrix(text) or _case_lines(text) or _integer_set(text):
        return rows
    text = _POINT.sub("", text)
    for opening, closing, kind in (("\\{", "\\}", "set"), ("{", "}", "set"), ("\\langle", "\\rangle", "tuple")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            return _make_collection(kind, text[len(opening) : -len(closing)], "[,;]")
    if text.startswith("[[") and text.endswith("]]"):
        text = "(" + text[1:-1].replace("[", "(").replace("]", ")") + ")"
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and _is_wrapped(text):
        inside = _make_collection("bracket" if text[0] + text[-1] == "[]" else "tuple", text[1:-1], "[,;]")
        return inside if inside and (len(inside.parts) > 1 or text[0] == "[" or text[1:-1].rstrip().endswith(",")) else None
    for at in (";", _AND):
        sizes = {len(split_top_level(group, ",")) for group in split_top_level(text, at)}
        if len(sizes) == 1 and sizes != {1} and len(split_top_level(text, at)) > 1:
            return _make_collection("list", text, at)
    bare = _make_collection("list", text, _BARE)
    return bare if bare and len(bare.parts) > 1 else None


_NOTHING = re.compile(r"(?:there (?:is|are) )?no (?:real )?(?:solutions?|roots?)|(?:方程)?无(?:实数)?解", re.IGNORECASE)
_POINT = re.compile(r"^[A-Z]'?\s*(?=\([^()]*,[^()]*\)$)")
_CASES = re.compile(r"(?:\\?\{\s*)?\\begin\{(?:cases|aligned|array)\}(?:\{[lcr|\s]*\})?(.*?)\\end\{\w+\}", re.DOTALL)
_WHOLE = re.compile(r",?\s*(?:[a-z]\s*)?\\in\s*\\mathbb\s*\{?Z\}?")


def _case_lines(text: str) -> Collection | None:
    """Returns the lines of a system of equations."""
    match = _CASES.fullmatch(text)
    if not match or "\\begin" in match[1]:
        return None
    rows = [row.replace("&", "").strip(" ,;") for row in match[1].split("\\\\")]
    return Collection("list", tuple(row for row in rows if row))


def _integer_set(text: str) -> Collection | None:
    r"""Returns the few integers of `\{x \mid -1 \le x < 4, x \in \mathbb{Z}\}`."""
    built = re.fullmatch(r"\\?\{\s*[a-z]\s*(.*?)\\?\}", text)
    if not built or not _WHOLE.search(built[1]):
        return None
    found = read_intervals(_WHOLE.sub("", built[1]).strip(" |:"))
    if not found or len(found[1]) != 1 or not re.fullmatch(r"-?\d{1,6},-?\d{1,6}", f"{found[1][0].low},{found[1][0].high}"):
        return None
    span = found[1][0]
    numbers = range(int(span.low) + (not span.low_closed), int(span.high) + span.high_closed)
    return Collection("set", tuple(map(str, numbers))) if len(numbers) <= MAX_INTEGERS else None


# `x in [1, 10**9]` of integers would otherwise be written out.
MAX_INTEGERS = 64


def _make_collection(kind: str, text: str, at: str) -> Collection | None:
    parts: list[str] = []
    for part in (part.strip() for part in split_top_level(text, at)):
        if not part:
            continue
        parts += plus_minus(part) or [part]
    if kind in ("set", "list"):
        parts = list({part.replace(" ", ""): part for part in parts}.values())
    return Collection(kind, tuple(parts)) if parts and has_balanced_braces(text) else None


def _is_wrapped(text: str) -> bool:
    """Tells whether the first bracket of a text closes at its end."""
    depth = 0
    for index, mark in enumerate(text):
        depth += (mark in "([{") - (mark in ")]}")
        if depth == 0:
            return index == len(text) - 1
    return False


def _read_matrix(text: str) -> Collection | None:
    match = _MATRIX.fullmatch(text)
    if not match or "\\begin" in match[1]:
        return None
    rows = [row.strip() for row in re.split(r"\\\\(?:\[[^\]]*\])?", match[1])]
    cells = [tuple(cell.strip() for cell in row.split("&")) for row in rows if row]
    if not cells or len({len(row) for row in cells}) != 1:
        return None
    if len(cells) == 1 or len(cells[0]) == 1:
        flat = tuple(cell for row in cells for cell in row)
        return Collection("tuple", flat)
    return Collection("matrix", tuple(f"({','.join(row)})" for row in cells))
