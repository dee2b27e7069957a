"""Functions as people type them: `sqrt 13`, `根号13`, `lg 100`, `atan(2)`, `sin 30°`; and numbered roots."""

import re

_INVERSE = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_NUMBER = r"\d+(?:\.\d+)?"
_TRIGONOMETRIC = r"sin|cos|tan|cot|sec|csc"
_PATTERNS = (
    (re.compile(r"\\operatorname\s*\*?\s*\{\s*([a-z]+)\s*\}"), r"\\\1 "),
    (re.compile(rf"(?:√|根号下?|(?<![a-zA-Z\\])sqrt)\s*({_NUMBER}|[a-z](?![a-z]))"), r"\\sqrt{\1}"),
    (re.compile(r"(?:根号下?|(?<![a-zA-Z\\])sqrt)\s*[(（]([^()（）]*)[)）]"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![a-zA-Z])\\?lg(?![a-zA-Z])\s*"), r"\\log_{10} "),
    (re.compile(r"(?<![a-zA-Z\\])log\s*_?\s*10(?=\s*\()"), r"\\log_{10} "),
    (re.compile(r"(?<![a-zA-Z])\\?(asin|acos|atan)(?=\s*[\d({\\])"), lambda match: f"\\{_INVERSE[match[1]]} "),
    (re.compile(rf"(?<![a-zA-Z\\])(arc(?:sin|cos|tan)|{_TRIGONOMETRIC}|ln|log)(?=\s*[\d(\\])"), r"\\\1 "),
    (
        re.compile(r"(?<![a-zA-Z\\])(?!arc|a(?:sin|cos|tan))([a-zA-Z]{1,3})(sin|cos|tan)(?=\\[a-z]|\()"),
        r"\1 \\\2 ",
    ),  # `mgsinθ`
)
_NAMES = re.compile(r"operatorname|sqrt|根号|√|lg|lo|ln|sin|cos|tan|cot|sec|csc|bmod")
_DEGREES = re.compile(rf"\\({_TRIGONOMETRIC})\s*(?:({_NUMBER})\s*°|\(\s*({_NUMBER})\s*°\s*\)|\{{\s*({_NUMBER})\s*°\s*\}})")
_REMAINDER = re.compile(r"(\d{1,9})\s*\\bmod\s*(\d{1,9})")  # `2 \mod 5` is a residue class
_NUMBERED_ROOT = re.compile(r"(?<![A-Za-z\\])x_\{?([12])\}?(?=\s*=)")
_SAME_ROOTS = re.compile(r"x\s*=\s*x\s*=")


def spell_functions(text: str) -> str:
    r"""Returns a text with functions as LaTeX commands; degrees within a function become radians.

    `sin 30°` has no unit: the degree sign belongs to the argument.
    """
    if not _NAMES.search(text):  # most answers: one scan instead of nine
        return text
    for pattern, plain in _PATTERNS:
        text = pattern.sub(plain, text)
    if match := _REMAINDER.fullmatch(text.strip()):
        return str(int(match[1]) % int(match[2])) if int(match[2]) else text
    return _DEGREES.sub(lambda match: f"\\{match[1]}(\\frac{{{match[2] or match[3] or match[4]} \\pi}}{{180}})", text)


def without_root_numbers(answer: str, gold: str) -> tuple[str, str]:
    """Returns `x=1, x=3` for `x_1=1, x_2=3` where only one side numbers its roots. Where both do, x_1 and x_2 may be
    different unknowns.
    """
    if _numbers_roots(answer) == _numbers_roots(gold):
        return answer, gold
    plain = [_SAME_ROOTS.sub("x=", _NUMBERED_ROOT.sub("x", text)) for text in (answer, gold)]
    return plain[0], plain[1]


def _numbers_roots(text: str) -> bool:
    return "_" in text and {match[1] for match in _NUMBERED_ROOT.finditer(text)} == {"1", "2"}
