"""Normalizes answers and golds to one spelling before any rule sees them.

Unicode math and full-width forms become LaTeX or ASCII; LaTeX loses what changes only its looks. Texts are capped
before they come here. Nothing is evaluated.
"""

import re
import unicodedata
from functools import lru_cache

from sophia_cli.verifier.function_names import FUNCTION_NAMES, spell_functions

MAX_NORMALIZED_CHARS = 4096
"""Longest answer that is normalized. A longer one is right only if it equals the gold."""

CACHE_SIZE = 300
"""Longest text that is cached, in characters."""

MAX_DEPTH, MAX_DIGITS = 64, 256
"""Nesting, and digits in a row, beyond which algebra is not asked."""

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉₊₋"
_RUN_OF_SUPER = re.compile(f"[{_SUPERSCRIPTS}]+")
_RUN_OF_SUB = re.compile(f"[{_SUBSCRIPTS}]+")
_VULGAR_FRACTION = re.compile(r"(\d?)\s*([¼-¾⅐-⅞])")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-zπ]|\((?:[^()]{1,200})\))?")
_ROOT_ORDER = {"√": "", "∛": "[3]", "∜": "[4]"}

_GREEK = {
    letter: f"\\{name} "
    for letter, name in zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩϕ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
        "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega phi".split(),
        strict=True,
    )
}
_SIGNS = {
    **_GREEK,
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-",
    "×": "\\times ", "✕": "\\times ", "⋅": "\\cdot ", "·": "\\cdot ", "∙": "\\cdot ", "÷": "/", "∕": "/", "⁄": "/",
    "≤": "\\le ", "≥": "\\ge ", "≦": "\\le ", "≧": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ", "≠": "\\ne ",
    "≈": "\\approx ", "≒": "\\approx ", "≃": "\\approx ", "≅": "\\cong ", "≡": "\\equiv ",
    "∞": "\\infty ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "Ø": "\\emptyset ", "±": "\\pm ",
    "∓": "\\mp ", "∠": "\\angle ", "△": "\\triangle ", "⊥": "\\perp ", "∥": "\\parallel ", "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "∑": "\\sum ", "∏": "\\prod ", "∫": "\\int ", "→": "\\to ", "⇒": "\\to ",
    "∴": "",
    "∶": ":", "︰": ":", "′": "'", "″": "''", "’": "'", "‘": "'", "“": '"', "”": '"', "£": "£", "℃": "°C", "℉": "°F",
    "掳": "°", "º": "°", "˚": "°",
    "、": ", ", "【": "[", "】": "]", "〈": "(", "〉": ")", "⟨": "(", "⟩": ")", "…": "\\ldots ",
    "\u00a0": " ", "\u3000": " ",
}  # fmt: skip
_TRANSLATE = str.maketrans(_SIGNS)
_ASCII_SUPER = {
    **{mark: str(index) for index, mark in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    "⁺": "+",
    "⁻": "-",
    "⁽": "(",
    "⁾": ")",
    "ⁿ": "n",
}
_ASCII_SUB = {**{mark: str(index) for index, mark in enumerate("₀₁₂₃₄₅₆₇₈₉")}, "₊": "+", "₋": "-"}

_LOOKS = re.compile(
    r"\\(?:left|right)(?![A-Za-z])\.?|\\color\s*\{[a-z]+\}"
    r"|\\(?:[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it|!|large|Large|LARGE|huge|small)(?![A-Za-z])"
)
_SPACES = re.compile(r"(?<!\\)\\(?:quad|qquad|enspace|thinspace|,|;|:| |>)|~|\s+")
_PLAIN = (
    (re.compile(r"(?<=\d)又(?=\d|\\frac)"), " "),
    (re.compile(r"^(?:(?:negative|minus)\s+(?=[\d.\\])|负(?=\d))", re.IGNORECASE), "-"),
    (re.compile(r"^零下\s*(\d+(?:\.\d+)?)\s*(?:度|摄氏度|°C)?$"), r"-\1°C"),
    (re.compile(r"(?<=\d) and (?:a|one) half\b"), ".5"),
    (re.compile(r"(?<=\d)\.{3,}$"), r"\\ldots"),
    (re.compile(r"(?<![\w)])\*\*([^*\s][^*]{0,200}?)\*\*(?!\w)"), r"\1"),
    (re.compile(r"(?<=\d) ?\^ ?\{? ?(?:st|nd|rd|th) ?\}?(?![A-Za-z])"), ""),
    (re.compile(r"(?<=\d)(?: ?\{:\} ?| : | :(?=\d\d\b))(?=\d)"), ":"),
    (re.compile(r"<=|=<"), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\^\s*°|(?<=\d)\s*\^\s*(?:\{\s*o\s*\}|o(?![A-Za-z]))"), "°"),
    (re.compile(r"^(?:the )?(?:point |点|坐标[为是]?)\s*(?:[A-Z]\s*)?(?=\()", re.IGNORECASE), ""),
    (re.compile(r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
)
_LATEX = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\leq(?:slant|q)?(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\geq(?:slant|q)?(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])|\\not\s*="), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|\\circ(?=\s*[CFc]?\s*$)"), "°"),
    (re.compile(r"\\(?:colon|mathrel\{:\})(?![A-Za-z])"), ":"),
    (re.compile(r"\\(?:[lr]?vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\var(phi|epsilon|theta)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"\\[dl]?dots[cm]?(?![A-Za-z])"), r"\\ldots "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:pounds|textsterling)(?![A-Za-z])"), "£"),
    (re.compile(r"\\vec\s*(?:\{([a-zA-Z])\}|([a-zA-Z])(?![a-zA-Z]))"), r"\1\2"),
    (re.compile(r"(?<![\w}/])(\d{1,9})/(\d{1,9}) ?(?=\\pi)"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<=[\d}])\{([A-Za-z]{3,})\}$"), r" \1"),
    (re.compile(r"\^\s*\{?\s*\\prime\s*\}?|\\prime"), "'"),
    (re.compile(r"\\[&#_]"), lambda match: match[0][1]),
    (re.compile(r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d)"), ""),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d|\\[a-z]+)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d|[a-zA-Z]|\\[a-z]+)"), r"\1{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*(\\[a-z]+|[a-zA-Z])(?![a-z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s+\{"), r"\\frac{"),
    (re.compile(r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z])|\\[a-z]+)"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\s+([{\[])"), r"\\sqrt\1"),
    (re.compile(r"(\\sqrt\[\w\])\s*(\w)"), r"\1{\2}"),
)
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathnormal|boldsymbol|bm"
    r"|textup|underline|emph|ensuremath|ce)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_BOXED = re.compile(r"\\f?box(?:ed)?\s*\{(.*)\}", re.DOTALL)
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]")
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b\u000e-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_CIRCLED = re.compile("[①-⑳]")


def normalize(text: str) -> str:
    """Returns a text in its normalized spelling, from at most MAX_NORMALIZED_CHARS characters."""
    return _normalize(text) if len(text) <= CACHE_SIZE else _normalize.__wrapped__(text)


@lru_cache(maxsize=8192)
def _normalize(text: str) -> str:
    text = text.strip()
    if not text.isascii():
        text = _from_unicode(text)
    elif text.isalnum() and not FUNCTION_NAMES.search(text):
        return text
    text = _INVISIBLE.sub("", text.replace("\x0crac", "\\frac").replace("\x08egin", "\\begin"))
    if "\\" in text:
        text = _from_latex(text)
    text = _without_dollars(text)
    for pattern, plain in (*_PLAIN, *_LATEX) if "\\" in text or "{" in text else _PLAIN:
        text = pattern.sub(plain, text)
    text = spell_functions(text)
    return _without_wrapping(" ".join(text[: 2 * MAX_NORMALIZED_CHARS].split()))[: MAX_NORMALIZED_CHARS + 1]


def _from_unicode(text: str) -> str:
    text = _CIRCLED.sub(lambda match: f"#{ord(match[0]) - 0x245F},", text)  # NFKC would turn ①③ into one number
    text = _RUN_OF_SUPER.sub(lambda match: "^{" + "".join(_ASCII_SUPER[mark] for mark in match[0]) + "}", text)
    text = _RUN_OF_SUB.sub(lambda match: "_{" + "".join(_ASCII_SUB[mark] for mark in match[0]) + "}", text)
    text = _VULGAR_FRACTION.sub(_replace_vulgar_fraction, text)
    text = _ROOT.sub(_replace_root, text)
    return unicodedata.normalize("NFKC", text.translate(_TRANSLATE)).translate(_TRANSLATE)


def _replace_vulgar_fraction(match: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", match[2]).split("\u2044")
    return f"{match[1]}\\frac{{{top}}}{{{bottom}}}"


def _replace_root(match: re.Match[str]) -> str:
    under = match[2] or ""
    under = under[1:-1] if under.startswith("(") else under
    return f"\\sqrt{_ROOT_ORDER[match[1]]}" + (f"{{{under}}}" if under else "")


def _from_latex(text: str) -> str:
    if "\\\\begin" in text or ("\\\\" in text and "\\begin" not in text):  # escaped twice, like JSON inside JSON
        text = re.sub(r"\\\\(?=[A-Za-z{}%$!,;:()\[\]\\ ])", r"\\", text)
    text = text.replace("\\$", "\x01")
    text = re.sub(r"(?<=\d),\\!\s*(?=\d{3})", ",", text)
    text = _DELIMITERS.sub(" ", text)
    text = _LOOKS.sub("", text)
    text = _SPACES.sub(" ", text)
    for _ in range(3):
        text, changes = _WRAPPED.subn(r" \1 ", text)
        if not changes:
            break
    return re.sub(r"\{\s+", "{", re.sub(r"(?<!\\)\s+\}", "}", text))


def _without_dollars(text: str) -> str:
    r"""Removes the `$` of LaTeX; keeps a dollar that is money (`\$5`, a single one beside a number)."""
    count = text.count("$")
    if count == 1 and re.search(r"(?<![\w\\}])\$\s*[\d.]|\d\s*\$", text):
        return text.replace("\x01", "$")
    return text.replace("$", " " if count else "").replace("\x01", "$")


_OUTER = re.compile(
    r"^[=&]\s*|^(?:the )?(?:final )?answer(?: is)?\s*:?\s+(?=\S)|^答案\s*[:：是为]\s*(?=\S)"
    r"|[.。,，;；:：~]+$|\\\\$|(?<!\\)\\$",
    re.IGNORECASE,
)
_STARS, _EMPHASIS = re.compile(r"^\*{2,}|\*{2,}$"), re.compile(r"^(\*|__)([^*]*)\1$")


def _without_wrapping(text: str) -> str:
    """Removes a box, quotes, Markdown and final punctuation around the whole text."""
    for _ in range(8):
        before = text
        text = text.strip().strip("`").strip()
        text = _OUTER.sub("", text).strip()
        if "*" in text or "_" in text:
            text = _EMPHASIS.sub(r"\2", _STARS.sub("", text))
        if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0]:
            text = text[1:-1]
        if (boxed := _BOXED.fullmatch(text)) and has_balanced_braces(boxed[1]):
            text = boxed[1]
        if (
            len(text) > 1
            and text[0] == "{"
            and text[-1] == "}"
            and not re.search(r"[,|:]", text)
            and has_balanced_braces(text[1:-1])
        ):
            text = text[1:-1]
        if text == before:
            break
    return text


def has_balanced_braces(text: str) -> bool:
    """Tells whether the braces of a text close in order."""
    depth = 0
    for mark in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if depth < 0:
            return False
    return depth == 0


_BETWEEN_DIGITS = re.compile(r"(?<=\d),? +(?=\d)")
_SHORT = re.compile(r"([_^])\{(\w)\}")


def strip_spaces(text: str) -> str:
    """Returns a normalized text without spaces, to compare spellings."""
    return _SHORT.sub(r"\1\2", _BETWEEN_DIGITS.sub(";", text).replace(" ", ""))


_PUNCTUATION = re.compile(r"[^\w\s%°$/+*^<>=-]|_|\s+")
_ARTICLE = re.compile(r"(?:^|(?<= ))(?:the|a|an) +")


@lru_cache(maxsize=1024)
def normalize_words(text: str) -> str:
    """Returns a normalized text to compare words: no case, articles or punctuation."""
    return " ".join(_ARTICLE.sub("", _PUNCTUATION.sub(" ", text.casefold()).strip()).split())


def is_too_complex(text: str) -> bool:
    """Tells whether an answer is too long, too deep, or has numbers too long for algebra."""
    return (
        len(text) > MAX_NORMALIZED_CHARS
        or re.search(rf"\d{{{MAX_DIGITS + 1}}}", text) is not None
        or _bracket_depth(text) > MAX_DEPTH
    )


def _bracket_depth(text: str) -> int:
    depth = deepest = 0
    for mark in text:
        if mark in "({[":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in ")}]":
            depth -= 1
    return deepest


def split_top_level(text: str, at: str) -> list[str]:
    """Splits a text at the separators in `at` that are outside all brackets."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\begin|\\end|\\[{}]|[(){}\[\]]|" + at, text):
        mark = match[0]
        if mark in ("\\begin", "(", "{", "[", "\\{"):
            depth += 1
        elif mark in ("\\end", ")", "}", "]", "\\}"):
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]
