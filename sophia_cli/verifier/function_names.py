"""Functions as people type them: `sqrt 13`, `根号13`, `lg 100`, `atan(2)`, `sin 30°`; and numbered roots."""

import re

from sophia_cli.verifier.han import han_number

_INVERSE = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_NUMBER = r"\d+(?:\.\d+)?"
_TRIGONOMETRIC = r"sin|cos|tan|cot|sec|csc"
_NESTED = r"((?:[^()]|\([^()]*\))*)"
_PATTERNS = (
    (re.compile(r"\\operatorname\s*\*?\s*\{\s*([a-z]+)\s*\}"), r"\\\1 "),
    (re.compile(r"(?<![a-zA-Z])(?:math|np|numpy)\.(?=sqrt|sin|cos|tan|log)"), ""),
    (re.compile(r"^(?:the )?square root of (?=[\da-z])"), "sqrt "),
    (re.compile(rf"(?:√|根号下?|(?<![a-zA-Z\\])sqrt)\s*({_NUMBER}|[a-z](?![a-z]))"), r"\\sqrt{\1}"),
    (re.compile(r"根号([二三五六七八])"), lambda match: f"\\sqrt{{{'二三四五六七八'.index(match[1]) + 2}}}"),
    (
        re.compile(r"(\d+|[二三四五六七八九])分之(\\sqrt\{\d+\})"),
        lambda match: f"\\frac{{{match[2]}}}{{{han_number(match[1]) or match[1]}}}",
    ),
    (re.compile(rf"(?:根号下?|(?<![a-zA-Z\\])sqrt)\s*[(（]{_NESTED}[)）]"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![a-zA-Z\\])sqrt(?=\{)"), r"\\sqrt"),
    (re.compile(rf"(?<![a-zA-Z\\])cbrt\s*\({_NESTED}\)"), r"\\sqrt[3]{\1}"),
    (re.compile(rf"(?<![a-zA-Z\\])abs\s*\({_NESTED}\)"), r"|\1|"),
    (re.compile(r"(?<![a-zA-Z])\\?(arc)?tg(?![a-zA-Z])"), lambda match: f"\\{match[1] or ''}tan "),
    (re.compile(r"(?<![a-zA-Z])\\?ctg(?![a-zA-Z])"), r"\\cot "),
    (re.compile(r"(?<![a-zA-Z])\\?lg(?![a-zA-Z])\s*"), r"\\log_{10} "),
    (re.compile(r"(?<![a-zA-Z\\])log\s*_?\s*(\d+)(?=\s*\()"), r"\\log_{\1} "),
    (re.compile(r"(?<![a-zA-Z])\\?(asin|acos|atan)(?=\s*[\d({])"), lambda match: f"\\{_INVERSE[match[1]]} "),
    (re.compile(rf"(?<![a-zA-Z\\])(arc(?:sin|cos|tan|cot)|{_TRIGONOMETRIC}|ln|log)(?=\s*[\d(\\])"), r"\\\1 "),
    (re.compile(r"(?<![a-zA-Z\\])(sin|cos|tan|ln)([xyABC])(?![a-zA-Z])"), r"\\\1 \2"),
    (re.compile(r"(?<![a-zA-Z\\])(?!arc)([a-zA-Z]{1,3})(sin|cos|tan)(?=\\[a-z]|[\d(])"), r"\1 \\\2 "),  # `mgsinθ`
)
FUNCTION_NAMES = re.compile(r"operatorname|sq|cbrt|根号|√|tg|lg|log|ln|sin|cos|tan|cot|sec|csc|mod|abs")
_DEGREES = re.compile(rf"\\({_TRIGONOMETRIC})\s*(?:({_NUMBER})\s*°|\(\s*({_NUMBER})\s*°\s*\)|\{{\s*({_NUMBER})\s*°\s*\}})")
_REMAINDER = re.compile(r"(\d{1,9})\s*(?:\\b)?mod\s*(\d{1,9})")  # `2 \mod 5` is a residue class
_NUMBERED_ROOT = re.compile(r"(?<![A-Za-z\\])([a-z])_?\{?([12])\}?(?=\s*=)")
_SAME_ROOTS = re.compile(r"([a-z])\s*=\s*\1\s*=")


def spell_functions(text: str) -> str:
    r"""Returns a text with functions as LaTeX commands; degrees within a function become radians.

    `sin 30°` has no unit: the degree sign belongs to the argument.
    """
    if not FUNCTION_NAMES.search(text):  # most answers: one scan instead of nine
        return text
    for pattern, plain in _PATTERNS:
        text = pattern.sub(plain, text)
    match = _REMAINDER.fullmatch(text.strip())
    if match and int(match[1]) >= int(match[2]) > 0:  # `3 mod 7` is a residue class
        return str(int(match[1]) % int(match[2]))
    return _DEGREES.sub(lambda match: f"\\{match[1]}(\\frac{{{match[2] or match[3] or match[4]} \\pi}}{{180}})", text)


def without_root_numbers(answer: str, gold: str) -> tuple[str, str]:
    """Returns `x=1, x=3` for `x_1=1, x_2=3` where only one side numbers its roots. Where both do, x_1 and x_2 may be
    different unknowns.
    """
    names, others = _numbered_roots(answer), _numbered_roots(gold)
    if bool(names) == bool(others):
        return answer, gold
    plain = [_SAME_ROOTS.sub(r"\1=", _NUMBERED_ROOT.sub(r"\1", text)) for text in (answer, gold)]
    return plain[0], plain[1]


def _numbered_roots(text: str) -> set[tuple[str, str]]:
    """Returns the numbered unknowns of a text, if they are the roots of one."""
    found = set(_NUMBERED_ROOT.findall(text)) if "1" in text and "=" in text else set()
    letters, numbers = {letter for letter, _ in found}, {number for _, number in found}
    return found if len(letters) == 1 and numbers == {"1", "2"} else set()
