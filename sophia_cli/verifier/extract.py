"""Finds the final answer of a response: after the thinking, the last box, else a final-answer phrase, else none. It never
guesses.

A response that consists of an answer, or whose last line does, or whose last sentence concludes with one, has an
answer too. A number in the middle of prose is not an answer. Only the last TAIL_CHARS characters are examined.
"""

import re
from dataclasses import dataclass

from sophia_cli.verifier import answer_phrases, wrappings
from sophia_cli.verifier.boxes import BOX, EMPTY_BOX, TAIL_CHARS, join_last_boxes, last_box
from sophia_cli.verifier.normalize import MAX_NORMALIZED_CHARS, normalize
from sophia_cli.verifier.option_letters import first_letter, is_rejected, letters_of

SENTENCE = re.compile(r"[A-Za-z]{2,} +(?:[A-Za-z]+ +)*[A-Za-z]{2,}|[\u4e00-\u9fff]{3,}")
"""Words of a sentence, or of a phrase."""
TEXT_MACRO = re.compile(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}")
SPECIAL = re.compile(r"(?:<\|[a-z_]{2,20}\|>|</s>).*", re.DOTALL)
LEADING_LETTER = re.compile(r"\*{0,2}\(([A-J])\)\*{0,2}(?=[\s.,:]|$)|([A-J])\.?[ ]*\n")
PARENTHESIZED_LETTER = re.compile(r"\(([A-J])\)")
FAREWELL = re.compile(
    r"I hope (?:it|this|that) [^.!?\n]{1,40}[.!]?(?:\s*(?:Please )?(?:let me know|feel free)\b[^.!?\n]{0,80}[.!]?)?$"
    r"|(?:Please )?(?:let me know|feel free)\b[^.!?\n]{0,80}[.!]?$",
    re.IGNORECASE,
)
NEAR_END_CHARS = 1500
"""Characters at the end that usually contain the phrase."""
# The longest farewell that FAREWELL matches.
FAREWELL_TAIL = 250
ASKED = re.compile(r"^A:\s+(?=\S)", re.MULTILINE)
"""The label of the answer in `Q: … A: 24`."""
BULLET = re.compile(r"^(?:[-•*]\s+(?=[A-Za-z(])|(?:=>|⇒|→|->)\s*)")
LABEL = re.compile(r"^\W{0,3}(?:Final |Total )?[A-Z][a-z]{3,15}\s?:\**\s*(?=\S)")
"""`Total: 24`, `**Perimeter:** 24 cm`."""
YES_OR_NO = re.compile(r"(yes|no)\b(?=\s*[.,!，。])", re.IGNORECASE)
SIMPLY = re.compile(r"^(?:equal to|equals|simply|just|exactly|therefore|thus)\s+", re.IGNORECASE)
NOT_BUT = re.compile(r"\bnot\s+[^\s,]{1,20},?\s+but\s+(?:rather\s+)?(?=[\d$(\\A-Z])")
HAN_NOT_BUT = re.compile(r"不是[^，。]{1,20}[，,]?\s*而是")
"""`The answer is not 16 but 17.`"""
SPACES = re.compile(r"[ \t]{3,}")
PROSE = re.compile(r"print\(|[^\W\d_]{2,}\W+[^\W\d_]{2,}|[一-鿿]{5}|[一-鿿]{2,}\d")
UNIT_AFTER = re.compile(r"%|°|(?:percent|pct|[a-z]{1,3}|[a-z]+s)\b")
UNIT_ALONE = re.compile(r"%|°|[a-zA-Zµ°]{1,3}[²³]?|(?:sq\.?|square|cubic) [a-z]{1,11}")
MAX_BARE_CHARS = 300
"""Longest line or response that may consist of an answer."""
SENTENCE_TAIL = 160
"""Characters at the end of a sentence that may contain its number."""


@dataclass(frozen=True)
class Extraction:
    """The candidate answers, best first. only_if_right: the text may not state an answer at all, so it counts only if it
    is right.
    """

    answers: tuple[str, ...]
    only_if_right: bool = False


def extract_answer(text: str, by_letter: bool = False) -> Extraction | None:
    """Returns the final answer of a text that follows the thinking, or None. by_letter: the question asks for a letter."""
    text = wrappings.without_tokens(text)
    boxed = last_box(text)
    if boxed is not None:
        return _from_wrapping(boxed, by_letter) if boxed.strip() else None
    if found := wrappings.json_answer(_without_farewell(text.strip())):
        return _from_wrapping(found, by_letter)
    if EMPTY_BOX.search(text):
        return None
    # Runs of spaces make some of the patterns below quadratic.
    text = SPACES.sub("  ", text[-TAIL_CHARS:])
    if "<|" in text or "</s>" in text:
        text = SPECIAL.sub("", text)
    text = NOT_BUT.sub("", HAN_NOT_BUT.sub("是", _without_farewell(text.strip())))
    if "A:" in text and (not by_letter or YES_OR_NO.match(ASKED.sub("", text))):
        text = ASKED.sub("", text)
    if tagged := wrappings.tagged_answer(text):
        return _from_wrapping(tagged, by_letter)
    return _from_prose(text, by_letter)


def _from_prose(text: str, by_letter: bool) -> Extraction | None:
    return (
        _after_phrase(text, by_letter)
        or _chosen_letter(text, by_letter)
        or (_leading_letter(text) if by_letter else None)
        or _whole_response(text)
        or _last_line(text)
    )


def _from_wrapping(content: str, by_letter: bool) -> Extraction:
    """Returns what stands in a box or a tag; a sentence there is read as it is outside."""
    content = content.strip()
    content = wrappings.json_answer(content) or content
    if len(content) > MAX_BARE_CHARS or not SENTENCE.search(content):
        return Extraction((content,))
    inner = _from_prose(TEXT_MACRO.sub(r"\1", content), by_letter)
    return Extraction(tuple(dict.fromkeys((content, *(inner.answers if inner else ())))))


def _without_farewell(text: str) -> str:
    """Removes `I hope this helps!` and similar sentences at the end."""
    tail = text[-FAREWELL_TAIL:]
    if "I hope" not in tail and "know" not in tail and "free" not in tail:
        return text
    return text[:-FAREWELL_TAIL] + FAREWELL.sub("", tail).rstrip()


def gold_answer(gold: str) -> str:
    """Returns the answer in a gold, which may be a whole solution: the content of its last boxes, or what follows its
    phrase.
    """
    if (joined := join_last_boxes(gold)) is not None:
        return joined
    announced = re.match(r"(?:the )?(?:final |correct )?answer\b", gold, re.IGNORECASE)
    if announced or "####" in gold or len(gold) > 60 or "\n" in gold:
        found = _after_phrase(gold, by_letter=bool(re.search(r"\([A-J]\)|\n[A-J] ", gold)))
        if found:
            return found.answers[0]
    return gold


def _after_phrase(text: str, by_letter: bool) -> Extraction | None:
    """Returns what follows the last final-answer phrase, to the end of its sentence; searches near the end first."""
    if len(text) > 2 * NEAR_END_CHARS and (near := _after_phrase(text[-NEAR_END_CHARS:], by_letter)):
        return near
    folded = text.casefold()
    ends = [
        match.end()
        for hints, phrase in answer_phrases.PHRASES
        if any(hint in folded for hint in hints)
        for match in phrase.finditer(text)
        if not answer_phrases.DENIED.search(text[max(0, match.start() - 60) : match.start()])
    ]
    backward = [(match.end(), next(filter(None, match.groups()))) for match in answer_phrases.BACKWARD.finditer(text)]
    if backward and backward[-1][0] > max(ends, default=0):
        return Extraction((backward[-1][1],))
    return _phrase_readings(text[max(ends) : max(ends) + 4 * MAX_NORMALIZED_CHARS].strip(), by_letter) if ends else None


def _phrase_readings(rest: str, by_letter: bool) -> Extraction | None:
    """Returns the candidates in what follows a phrase: its only span of math, else the sentence, cut before its reasons."""
    rest = SIMPLY.sub("", rest)
    sentence = _first_sentence(rest)
    if re.match(r"[?？]|吗", rest[len(sentence) :]) or re.match(r"\s*\n\s*(?:or\b|或)", rest[len(sentence) :]):
        return Extraction((rest[: len(sentence) + 60],))  # a question, or two rival answers
    short = answer_phrases.REASONS.split(sentence, maxsplit=1)[0]
    if by_letter and (named := _letters_named(sentence)):
        return Extraction((named,))
    if by_letter and (lines := LETTER_LINES.match(rest)):
        return Extraction((", ".join(lines[0].split()),))
    if not by_letter and _has_rival(sentence, short):
        return Extraction((sentence,))
    found: list[str] = []
    leading = answer_phrases.MATH_SPAN.match(rest)
    if leading and len(math_spans(short)) <= 1:
        found.append(next(filter(None, leading.groups())))
        unit = short[leading.end() :].strip(" ")
        if UNIT_AFTER.match(unit):
            found.insert(0, f"{found[0]} {unit}")
    if by_letter and (letter := first_letter(sentence)):
        several = letters_of(normalize(short))
        found.append(short if several and len(several) > 1 else letter)
    found += [short, sentence]
    parts = re.split(r"\bis\b|[=是为]", short)
    found += parts[-1:] if len(parts) > 1 else []
    if len(math_spans(sentence)) == 1:
        found += math_spans(sentence)
    found += _only_number(sentence)
    if answer_phrases.NEGATED.search(short) or answer_phrases.HEDGED.search(parts[-1]):
        found = [short, sentence]
    answers = tuple(dict.fromkeys(answer.strip() for answer in found if answer.strip()))
    return Extraction(answers) if answers else None


LETTER_LINES = re.compile(r"(?:\(?[A-J]\)?[.)]?[ ]*(?:\n\s*|$)){2,10}")


def _letters_named(sentence: str) -> str | None:
    """Returns the letters of `both A and C`; the sentence itself for rivals, `A or B`; None for a single letter."""
    standing = list(STANDING.finditer(sentence))
    if standing and (negated := answer_phrases.NEGATED.search(sentence, standing[0].end())):
        standing = [match for match in standing if match.end() <= negated.start()]  # D, it can't be A or B
    if len({match[1] or match[2] for match in standing}) < 2:
        return None
    chosen = answer_phrases.CHOSEN.findall(sentence)
    if chosen:
        return str(chosen[-1])
    gaps = [sentence[one.end() : other.start()] for one, other in zip(standing[:-1], standing[1:], strict=True)]
    after = sentence[standing[-1].end() :]
    if any(
        answer_phrases.RIVAL_ANSWERS.search(gap) or (OPPOSED.search(gap) and answer_phrases.RIVAL_ANSWERS.search(after))
        for gap in gaps
    ):
        return sentence
    if all(JOINED.search(gap) for gap in gaps):
        return ", ".join(match[1] or match[2] for match in standing)
    return None


OPPOSED = re.compile(r"\b(?:but|however|though)\b|但")
STANDING = re.compile(r"(?<![A-Za-z'\\])(?:\(([A-J])\)|([B-HJ]|A(?!\s[a-z]{4,}\s[a-z])))(?!'?[A-Za-z])(?!\s*=)")
"""A letter that may name an option: not the A of `A rectangle is`."""
JOINED = re.compile(
    r"^[\s*)\"'.]*(?:and|&|和|与|及|、|,)(?:\s*and)?\s*(?:options?|choices?)?[\s*(\"']*$|(?:\band|和|与|及)\s*[*(\"']*$"
)


def _has_rival(sentence: str, short: str) -> bool:
    """Tells whether a second answer follows: `12, but 13 also works`."""
    rest = sentence[len(short) :] or sentence
    if answer_phrases.RESTATED.search(rest):
        return False
    return bool(re.match(r",?\s*(?:but|or|however|though)\b|[，,]?\s*(?:或|也|但)", rest)) and bool(
        answer_phrases.RIVAL_ANSWERS.search(rest) and re.search(r"\d", rest)
    )


def _first_sentence(text: str) -> str:
    """Returns the first sentence of a text, without its period."""
    text = text.strip()
    end = answer_phrases.SENTENCE_END.search(text)
    return (text[: end.start()] if end else text)[:MAX_NORMALIZED_CHARS].strip()


def math_spans(text: str) -> list[str]:
    """Returns the spans of math and the bold words of a text; a bold heading with a colon is not one."""
    return [
        next(filter(None, match.groups()))
        for match in answer_phrases.MATH_SPAN.finditer(text)
        if not match[5] or not re.match(r"\s*[:：]", text[match.end() :])
    ]


def _chosen_letter(text: str, by_letter: bool) -> Extraction | None:
    """Returns the letter of `I think it's B`, `so I choose (C)`."""
    if by_letter and (several := answer_phrases.SEVERAL_FIRST.findall(text)):
        return Extraction((several[-1],))
    found = (answer_phrases.CHOSEN.findall(text) or answer_phrases.CHOSEN_FIRST.findall(text)) if by_letter else []
    return Extraction((found[-1],)) if found else None


def _leading_letter(text: str) -> Extraction | None:
    """Returns D of a response that begins with `(D)`, or with D on a line of its own, and then explains. A list of options
    names none.
    """
    head = LEADING_LETTER.match(text)
    rest = text[head.end() :].strip() if head else ""
    if not head or not rest or is_rejected(rest):
        return None
    letter = next(filter(None, head.groups()))
    others = set(PARENTHESIZED_LETTER.findall(rest)) - {letter}
    in_last = set(PARENTHESIZED_LETTER.findall(_split_sentences(rest)[-1])) - {letter}
    return None if len(others) > 1 or in_last else Extraction((letter,))


def _whole_response(text: str) -> Extraction | None:
    """Returns a response that consists of an answer; a sentence counts only if it is the gold."""
    whole = text.strip()
    if not whole or len(whole) > MAX_BARE_CHARS or "\n\n" in whole or BOX.search(whole):  # an unclosed box
        return None
    if answer_phrases.THEREFORE.match(whole):
        return None
    whole = BULLET.sub("", whole)
    if answer_phrases.BARE_ANSWER.fullmatch(whole) or not PROSE.search(whole):
        return Extraction((LABEL.sub("", whole),))
    if len(_split_sentences(whole)) > 1:
        said = YES_OR_NO.match(whole)
        return Extraction((said[1],), only_if_right=True) if said else None
    return Extraction((whole, *_concluded_value(whole), *_said_of_subject(whole)), only_if_right=True)


def _split_sentences(text: str) -> list[str]:
    parts, start = [], 0
    for match in answer_phrases.NEW_SENTENCE.finditer(text):
        parts.append(text[start : match.end()].strip())
        start = match.end()
    return [part for part in [*parts, text[start:].strip()] if part]


def _last_line(text: str) -> Extraction | None:
    """Returns the last line if it consists of an answer, else what the last sentence concludes."""
    lines = [line.strip() for line in text[-4 * MAX_NORMALIZED_CHARS :].splitlines() if line.strip()]
    if not lines:
        return None
    if len(lines[-1]) <= MAX_BARE_CHARS and answer_phrases.BARE_ANSWER.fullmatch(lines[-1]):
        return Extraction((lines[-1],))
    sentences = _split_sentences(lines[-1])
    if sentences and re.fullmatch(r"\([A-J]\)\.?", sentences[-1]):
        return Extraction((sentences[-1],))
    concluded = _concluded_value(sentences[-1]) if sentences else []
    if concluded or not sentences:
        return Extraction(tuple(concluded)) if concluded else None
    said = _said_of_subject(sentences[-1])
    return Extraction(tuple(said), only_if_right=True) if said else None


def _said_of_subject(sentence: str) -> list[str]:
    """Returns `May` of `The wettest month is May.`; it counts only if it is the gold."""
    if _is_no_claim(sentence) or len(sentence) > MAX_BARE_CHARS:
        return []
    last = answer_phrases.PREDICATE.split(sentence)[-1].strip(" .。!")
    is_text = last and last != sentence and not re.search(r"[=+^\\]", last)
    return [last] if is_text and not answer_phrases.RIVAL_ANSWERS.search(sentence) else []


def _is_no_claim(sentence: str) -> bool:
    return bool(answer_phrases.NEGATED.search(sentence) or answer_phrases.UNASSERTED.search(sentence))


def _concluded_value(sentence: str) -> list[str]:
    """Returns what a closing sentence states: its only math or bold span, or the number at its end after `is` or `=`."""
    if _is_no_claim(sentence):
        return []
    concludes = answer_phrases.THEREFORE.match(sentence)
    if (
        concludes
        and (bare := sentence[concludes.end() :].strip(" ,，:："))
        and (answer_phrases.BARE_ANSWER.fullmatch(bare.rstrip(".。")) or bare.rstrip(".").casefold() in ("yes", "no"))
    ):
        return [bare]
    maths = math_spans(sentence)
    if maths:
        return _concluded_maths(sentence, maths, bool(concludes))
    tail = sentence[-SENTENCE_TAIL:]
    if several := answer_phrases.SEVERAL_VALUES.search(tail):
        return [several[1]]
    if stated := answer_phrases.STATED_VALUE.search(tail) or answer_phrases.TRUTH_VALUE.search(tail):
        return [stated[1]]
    predicate = answer_phrases.PREDICATE.split(sentence)[-1]
    return _only_number(sentence) if concludes and not answer_phrases.HEDGED.search(predicate) else []


def _concluded_maths(sentence: str, maths: list[str], concludes: bool) -> list[str]:
    """Returns the math or bold span that a closing sentence states: the only one, or the last one where it concludes;
    `or` joins two.
    """
    spans = list(answer_phrases.MATH_SPAN.finditer(sentence))
    predicate = answer_phrases.PREDICATE.split(sentence[: spans[-1].start()])[-1]
    if answer_phrases.HEDGED.search(predicate):
        return []
    if len(spans) > 1 and re.fullmatch(r"\s*(?:or|and|或者?|和|,|、)\s*", sentence[spans[-2].end() : spans[-1].start()]):
        return [" or ".join(maths)] if len(maths) == len(spans) else []
    if len(maths) == 1 or concludes or _ends_with_maths(sentence):
        unit = sentence[spans[-1].end() :].strip(" .。")
        return [f"{maths[-1]} {unit}"] if UNIT_ALONE.fullmatch(unit) else [maths[-1]]
    return []


def _ends_with_maths(sentence: str) -> bool:
    """Tells whether a sentence ends in `… is $x$.`"""
    last = list(answer_phrases.MATH_SPAN.finditer(sentence))[-1]
    before, after = sentence[: last.start()].rstrip(), sentence[last.end() :]
    return bool(re.search(r"(?:\b(?:is|are|be|equals)|[是为:：])$", before)) and not re.search(r"\w", after)


def _only_number(sentence: str) -> list[str]:
    """Returns the only number of a sentence."""
    found = answer_phrases.NUMBER.findall(sentence)
    return [found[0].strip()] if len(found) == 1 else []
