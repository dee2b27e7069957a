"""Compares words: yes and no, and answers that are text."""

import re

from sophia_cli.verifier.normalize import normalize_words

_YES = frozenset("yes true correct 是 是的 对 对的 正确 真 ✓ oui ja sí да".split())
_NO = frozenset("no false incorrect wrong not 否 不 不是 错 错误 不对 不正确 假 ✗ non nein нет".split())
_STATEMENT = re.compile(r"^(?:it|this|the statement) is (?=\w+\W*$)", re.IGNORECASE)
_LEADING_WORD = re.compile(r"[^\W\d_]+|[✓✗]")
_BARE = re.compile(r"[^\W\d_][^\W\d_'.-]*(?:[\s,/&-]+[^\W\d_][^\W\d_'.-]*){0,40}[.!?]?")
_MATHS_WORDS = re.compile(
    r"^(?:pi|e|i|infinity|inf|oo|sin|cos|tan|log|ln|sqrt|alpha|beta|theta|and|or|mod|max|min)$", re.IGNORECASE
)


def yes_or_no(text: str) -> bool | None:
    """Returns True for yes, False for no, None for neither. `Yes, because …` is yes; `No idea` is neither."""
    if text in ("\\sqrt", "\\times"):  # √ and ×, as `normalize` writes them
        return text == "\\sqrt"
    text = _STATEMENT.sub("", text)
    head = _LEADING_WORD.match(text.strip("\"'( "))
    if not head:
        return None
    word, rest = head[0].casefold(), text.strip("\"'( ")[head.end() :].lstrip()
    others = {other.casefold() for other in _LEADING_WORD.findall(rest)}
    if others and others <= _YES | _NO | {"or", "and", "或", "和"}:
        return None  # yes, no
    if rest and not re.match(r"[,.;:!，。；：)\n]|-\s", rest):
        return None
    return True if word in _YES else False if word in _NO else None


def is_words(text: str) -> bool:
    """Tells whether a normalized text is words without math: no digits, operators, or single symbols."""
    if not _BARE.fullmatch(text):
        return False
    tokens = re.findall(r"[^\W\d_]+", text)
    if re.search(r"[一-鿿぀-ヿ가-힯؀-ۿЀ-ӿऀ-ॿ]", text):
        return True
    if len(tokens) == 1:
        return len(text) >= 3 and not _MATHS_WORDS.match(text) and bool(re.search(r"[aeiouyAEIOUY]", text))
    return any(len(token) >= 3 and not _MATHS_WORDS.match(token) for token in tokens)


_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}|[^\W\d_a-zA-Z]{2,}")


_LABEL = re.compile(r"(?:^|\s)(?:is|are)\s|^[A-Z](?: [A-Z])* \d|^\([A-Z]\) .{1,60} \([A-Z]\) ")


def is_prose(text: str) -> bool:
    """Tells whether a normalized text has words, or labels as in `F E 40`, `(A) 5 (B) 6`, that algebra would read as
    products.
    """
    if _LABEL.search(text):
        return True
    found = [word for word in _WORD.findall(text) if not _MATHS_WORDS.match(word)]
    return len(found) > 1 or bool(found and re.search(r"[一-鿿]{2}", found[0]))


_INNER_CAPITAL = re.compile(r"[A-Za-z0-9][a-z0-9]*[A-Z][A-Za-z0-9]{0,6}$")


def same_words(answer: str, gold: str) -> bool:
    """Tells whether two texts are the same words, ignoring case, articles and punctuation."""
    if _INNER_CAPITAL.match(gold):
        return answer.replace(" ", "") == gold  # CaO, NaOH, AOB
    return _plain_words(answer) == _plain_words(gold)


_FIGURE = re.compile(r"(?:\\(angle|triangle|overline|overrightarrow|widehat)\s*)?\{?([A-Z]{2,4})\}?")


def figure_name(text: str) -> tuple[str, str] | None:
    """Returns an angle, triangle or segment by its points in one direction: ∠ABC is ∠CBA and not ∠BAC."""
    match = _FIGURE.fullmatch(text)
    if not match or not match[1]:
        return None
    points = match[2]
    spelled = "".join(sorted(points)) if match[1] == "triangle" else min(points, points[::-1])
    return match[1], spelled if match[1] != "overrightarrow" else points


_HAN = str.maketrans("一二三四五六七八九两", "1234567892")
_SYNONYMS = {"星期": "周", "礼拜": "周"}
_WHOLE_SYNONYMS = {
    **dict.fromkeys(("no solution", "no solutions", "方程无解", "无实数解", "空集", "the empty set", "empty set"), "无解"),
    **dict.fromkeys(("does not exist", "dne"), "不存在"),
}


def _plain_words(text: str) -> str:
    for one, other in _SYNONYMS.items():
        text = text.replace(one, other)
    text = re.sub(r"(?<=[一-鿿])\s+|\s+(?=[一-鿿])", "", text).translate(_HAN)
    plain = re.sub(r"[\s.,!?;:'’-]+", " ", normalize_words(text)).strip()
    return _WHOLE_SYNONYMS.get(plain, plain)
