"""Multiple choice: which options an answer names, by letter, by value, or by both."""

import re
from collections.abc import Callable

from sophia_cli.records import OPTION_LETTERS
from sophia_cli.verifier import answer_phrases, words
from sophia_cli.verifier.normalize import normalize, normalize_words, strip_spaces
from sophia_cli.verifier.numbers import read_quantity
from sophia_cli.verifier.tolerance import same_quantity

_PREFIX = (
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+|final\s+)?"
    r"(?:answer|option|choice|figure|image|picture|graph|pattern|diagram|point|container|shape|选项?|应选|故选|答案|图|点)"
    r"(?:\s+is|\s?:|是|为)?\s{0,3}){0,2}"
)
_ONE = re.compile(rf"{_PREFIX}[(\[{{]?\s*([A-Za-z])\s*[)\]}}]?", re.IGNORECASE | re.ASCII)
_LED = re.compile(
    rf"{_PREFIX}(?:[(\[{{]\s*([A-Za-z])\s*[)\]}}]|([A-Z])(?=\s*[.),。;]|:(?:\s|$)|\s+\(|\s*$|[^\x00-\x7f]|\s+-)|([A-Za-z])\))[\s.):,。;-]*(.*)",
    re.DOTALL,
)
_BETWEEN = r"(?:[\s,;&+/]|and\b|和|与|及){0,8}"
_SEVERAL = re.compile(rf"(?:\([A-Z]\){_BETWEEN}){{2,10}}|(?:[A-Z](?![A-Za-z]){_BETWEEN}){{2,10}}")
_GLUED = re.compile(r"[A-J]{2,8}")
_GUESS = re.compile(
    r"(?<![A-Za-z'\\])(?:\(([A-J])\)|([B-HJ]|A(?!\s[a-z]{4,}\b(?!\s+(?:is|because)))))(?!'?[A-Za-z])(?!\s*=)"
)
_CIRCLES = re.compile(r"(?:#\d{1,2},[\s,和与及]*)+")
_OTHER = re.compile(r"^\W*(?:or|and|not|no)\b[\s,(]+[A-J](?![A-Za-z])|^[B-J]$|\([B-J]\)$")
_TRAILING = re.compile(r".*\(([A-J])\)", re.DOTALL)
_LETTER_AND_TEXT = re.compile(r"([A-J])\s*\(?(.{1,200}?)\)?")
_DENIED = re.compile(
    r"[)*\"'\s]{0,3}(?:选项)?\s*(?:[?？]|吗|(?:is|are|was)\s+(?:not|incorrect|wrong|false)\b|是?错|不|以外|之外)"
)
_RIVAL = re.compile(
    r"\b(?:or|maybe|possibly|perhaps|alternatively|might|could|may|also)\b.{0,40}(?<![A-Za-z])[A-J](?![A-Za-z])"
    r"|(?<![A-Za-z])[A-J](?![A-Za-z]).{0,20}\balso\b|[或也].{0,20}[A-J]"
)
"""A second letter beside the first: `A, or maybe B` names no option."""
_REFUSED = re.compile(
    r"\b(?:not|never|wrong|incorrect|any|everything|anything but|all but|except|without|neither|cannot|can't|isn't|doesn't"
    r"|non|exclude[ds]?|eliminated?|ruled? out|least|considered|discard(?:ed)?|reject(?:ed)?)\b|不|排除",
    re.IGNORECASE,
)
_BAD = r"(?: wrong | false | incorrect | impossible )"
_DROPPED = r"(?: ruled | eliminated | excluded | rejected | discarded )"
_REJECTED = re.compile(
    rf"""\W*(?: [?？]
      | (?: 被?排除 | [，,]?\s*(?:但|可)?这?是?错 )
      | (?: cannot | can't | can\ not | isn't | doesn't | fails? | contradicts? | violates? | does\ not | is\ not
          | (?: is | was | are | were ) \ (?: {_BAD} | {_DROPPED} | too | out | the\ distractor | my\ first | a\ trap )
          | (?: can | has | could | may | must | is | was ) \ (?: be | been )? \s? {_DROPPED}
          | (?: seems | looks ) \ (?: too | wrong )
          | would\ be\ (?! the\ answer ) [^.;]* \b (?: if | but ) )\b
      | (?! \W* (?: because | since | as | for ) \b ) [^.;,]{{1,60}} \b is \ {_BAD} \W* $ )""",
    re.IGNORECASE | re.VERBOSE,
)
"""What follows a letter that is turned down: `(D) is wrong`, `(D) was my first guess`."""


def circled_numbers(text: str) -> frozenset[str] | None:
    """Returns the numbered statements of ①③ (`normalize` writes `#1,#3,`), else None."""
    whole = _CIRCLES.fullmatch(text.replace("#, ", "#,") + ("" if text.endswith(",") else ","))
    return frozenset(re.findall(r"#(\d{1,2})", text)) if whole else None


def letters_of(text: str) -> frozenset[str] | None:
    """Returns the options that a normalized text names by letters alone: `(B)`, `B, D`, `BD`, `option c`; else None."""
    if match := _ONE.fullmatch(text):
        return frozenset(match[1].upper())
    if _SEVERAL.fullmatch(text):
        return frozenset(re.findall(r"[A-Z]", text))
    if _GLUED.fullmatch(text) and list(text) == sorted(set(text)):
        return frozenset(text)
    return None


def led_letter(text: str) -> tuple[str, str] | None:
    """Returns the letter at the beginning of `B. 7` or `(b) 7`, and what follows it."""
    match = _LED.fullmatch(text)
    if match and _RIVAL.search(answer_phrases.NEGATED.split(match[4], maxsplit=1)[0]):
        return None
    if match and _REJECTED.match(match[4]):
        return None
    if match and (_OTHER.search(match[4]) or re.match(r"(?:是|选项)?(?:错|不(?!是\s*[A-J]))|[或和]", match[4])):
        return None
    return ((match[1] or match[2] or match[3]).upper(), match[4].strip()) if match else None


def is_rejected(rest: str) -> bool:
    """Tells whether what follows a letter turns it down or adds a second one: `(D) is wrong`, `A, or maybe B`."""
    before_denial = answer_phrases.NEGATED.split(rest, maxsplit=1)[0]
    return bool(_REJECTED.match(rest) or _OTHER.search(rest) or _RIVAL.search(before_denial))


def first_letter(text: str) -> str | None:
    """Returns the first separate capital letter that is not rejected: D of `for sure D, it can't be A`."""
    match = _GUESS.search(text)
    if not match or _REFUSED.search(text[: match.start()]) or _DENIED.match(text[match.end() :]):
        return None
    return match[1] or match[2]


def is_letter_gold(gold: str) -> bool:
    """Tells whether a gold without options is a letter or several: `B`, `(D) Alina`, `BD`."""
    if re.fullmatch(r"\(?[A-J]\)?|\([A-J]\)\s.{1,200}|[A-J]\s[A-Z][a-z].{1,200}", gold, re.DOTALL):
        return True
    return bool(_SEVERAL.fullmatch(gold) and set(re.findall("[A-Z]", gold)) <= set("ABCDEFGHIJ")) or bool(
        _GLUED.fullmatch(gold) and list(gold) == sorted(set(gold))
    )


def matching_options(text: str, choices: list[str]) -> frozenset[int] | None:
    """Returns the indexes of the options that a normalized text names; None if it names none."""
    letters = letters_of(text)
    exact = _by_value(text, choices)
    if exact is not None and (letters is None or choices != [OPTION_LETTERS[index] for index in range(len(choices))]):
        spelled = letters and _letter_indexes(letters, len(choices))
        return spelled if spelled and len(text) == 1 and text.isupper() and len(spelled) == 1 else frozenset({exact})
    if letters is None and (agreeing := _by_polarity(text, choices)) is not None:
        return frozenset({agreeing})
    if letters and (named := _letter_indexes(letters, len(choices))):
        return named
    if (led_option := _led_option(text, choices)) is not None:
        return frozenset({led_option})
    if (last := _TRAILING.fullmatch(text)) and not _LED.fullmatch(text) and not _REFUSED.search(text):
        return _letter_indexes(frozenset(last[1]), len(choices))
    several = re.split(r"\s*(?:,|;|\band\b|和|与)\s*", text)
    if len(several) > 1 and all(part for part in several):
        found = [_by_value(part, choices) for part in several]
        if None not in found:
            return frozenset(index for index in found if index is not None)
    return None


def _by_polarity(text: str, choices: list[str]) -> int | None:
    """Returns the only option that says yes, or no, as the text does."""
    yes = words.yes_or_no(text)
    agreeing = [index for index, choice in enumerate(choices) if yes is not None and words.yes_or_no(choice) == yes]
    return agreeing[0] if len(agreeing) == 1 else None


def _led_option(text: str, choices: list[str]) -> int | None:
    """Returns the option of the letter at the beginning. `A: no` is a label of the answer where option A says yes."""
    match = _LED.fullmatch(text)
    if match is None:
        spelled = _LETTER_AND_TEXT.fullmatch(text)
        index = OPTION_LETTERS.find(spelled[1]) if spelled else len(choices)
        return (
            index
            if spelled and index < len(choices) and normalize_words(spelled[2]) == normalize_words(choices[index])
            else None
        )
    index = OPTION_LETTERS.find((match[1] or match[2] or match[3]).upper())
    if index >= len(choices):
        return _by_value(normalize(match[4]), choices)
    value = normalize(match[4])
    said = words.yes_or_no(value) if text.startswith("A:") else None
    if said is not None and words.yes_or_no(choices[index]) not in (None, said):
        return _by_polarity(value, choices)
    is_its_text = bool(value) and normalize_words(value) == normalize_words(choices[index])
    return index if is_its_text or led_letter(text) else None


def _letter_indexes(letters: frozenset[str], count: int) -> frozenset[int] | None:
    indexes = frozenset(OPTION_LETTERS.index(letter) for letter in letters)
    return indexes if max(indexes) < count else None


def _by_value(text: str, choices: list[str]) -> int | None:
    """Returns the only option with the value of the text: the same spelling, else the same words, else the same number."""
    for same in (_same_spelling(text), _same_folded(text), _same_number(text)):
        found = [index for index, choice in enumerate(choices) if same(choice)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _same_spelling(text: str) -> Callable[[str], bool]:
    spelled = strip_spaces(text)
    return lambda choice: strip_spaces(choice) == spelled


def _same_folded(text: str) -> Callable[[str], bool]:
    folded = normalize_words(text)
    return lambda choice: normalize_words(choice) == folded and (words.is_words(choice) or words.is_prose(choice))


def _same_number(text: str) -> Callable[[str], bool]:
    number = read_quantity(text)
    if number is None:
        return lambda choice: False
    return lambda choice: (other := read_quantity(choice)) is not None and same_quantity(number, other, {})


def option_texts(choices: list[str]) -> list[str]:
    """Returns the normalized options, without the letters that some data sets put before them."""
    tidied = [normalize(choice) for choice in choices]
    led = [led_letter(choice) for choice in tidied]
    if len(tidied) > 1 and all(found and found[1] and found[0] == OPTION_LETTERS[index] for index, found in enumerate(led)):
        return [normalize(found[1]) for found in led if found]
    return tidied
