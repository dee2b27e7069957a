"""The final answer of a response: after the thinking, the last box, else a final-answer phrase, else none (no guess).

A response that is nothing but an answer, or whose last line is, has given it too. A number in the middle of prose is no
answer. Everything looks only at the last `TAIL` characters, and no expression here backtracks.
"""

import re
from dataclasses import dataclass

from sophia_cli.records import THINK_CLOSE, THINK_OPEN
from sophia_cli.verifiers._tidy import LONGEST

TAIL = 20_000
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$.,]{1,40})")
TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)

_IS = r"\s{0,3}(?:\*\*|:|：|=|(?:is|are|was|would be|should be|must be|will be|is therefore|is thus)(?:\s{1,3}(?:therefore|thus|indeed|simply|clearly|:))?(?![a-z]))[\s:：*]{0,9}"
_SAYS = r"(?:是|为|应为|应该是|就是|:|：|=)\s{0,3}"
PHRASES = (
    (("answer", "solution"), re.compile(rf"(?<![a-z])(?:final\s{{1,3}})?(?:answer|solution)(?:\s{{1,3}}(?:choice|option|here|to (?:the|this) (?:question|problem)|of (?:the|this) (?:question|problem)))?{_IS}(?=\S)", re.IGNORECASE)),
    (("correct", "right", "best", "matching", "appropriate"), re.compile(rf"(?<![a-z])(?:correct|right|best|matching|appropriate)\s{{1,3}}(?:answer|option|choice|statement|letter)(?:\s{{1,3}}[a-z]+){{0,4}}?{_IS}(?=\S)", re.IGNORECASE)),
    (("answer", "reply"), re.compile(r"(?<![a-z])(?:answer|reply)\s{1,3}(?=\$|\\\(|\\\[|\()", re.IGNORECASE)),
    (("答案", "选项", "结果", "答"), re.compile(rf"(?:最终答案|正确答案|参考答案|答案|正确选项|结果|答)\s{{0,3}}{_SAYS}[\s*]{{0,9}}(?=\S)")),
    (("选",), re.compile(r"(?:故选|应选|因此选|所以选|选择|故答案为|选)\s{0,3}(?:项|择)?\s{0,3}[:：]?\s{0,3}(?=[(（\[]?[A-Za-z\d])")),
    (("####",), re.compile(r"####\s*(?=\S)")),
    (("réponse", "antwort", "respuesta", "risposta", "resposta", "ответ", "答え", "정답", "الإجابة", "उत्तर"), re.compile(r"(?:réponse|antwort|respuesta|risposta|resposta|ответ|答え|정답|الإجابة|उत्तर)(?:\s{1,3}\w+)?\s{0,3}(?:est|ist|es|è|é|is|:|：|는|は)\s{0,3}(?=\S)", re.IGNORECASE)),
)  # fmt: skip
"""What stands before a final answer; each with words of which one must be there, as looking for those is cheap."""
BACKWARD = re.compile(
    r"(?:\$([^$\n]{1,300})\$|\\\((.{1,300}?)\\\)|\*\*([^*\n]{1,200})\*\*)\s+is\s+(?:our|the)\s+(?:final\s+|correct\s+)?(?:answer|solution)",
    re.IGNORECASE,
)

_CLOSING = re.compile(r"(?<=[a-z\d)\]}$*%°\"'])[.!?](?=\s+[A-Z<\[(*\\]|\s*$|\s*<)|[。！？\n]")
_ENDING = re.compile(_CLOSING.pattern + r"|\s(?=(?:So|Therefore|Thus|Hence)\b)|(?=因此|所以，|综上)")
_BECAUSE = re.compile(
    r",?\s+(?:because|since|as (?=it|the|he|she|this)|which|due to|so that|given that)\b|,\s*(?:so|and|but|it|as|because|since|which|not)\s|，"
)
_MATHS = re.compile(r"\$\$(.+?)\$\$|(?<![\\\d])\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\*\*([^*\n]+)\*\*", re.DOTALL)
_THEREFORE = re.compile(
    r"^\W*(?:(?:and )?(?:therefore|thus|so|hence|consequently|in conclusion|finally|as a result|overall|we (?:find|get|have|conclude|obtain))"
    r"|因此|所以|故|综上|于是|那么|结论|从而|可得|得出|donc|alors|en conclusion|por lo tanto|also|daher|इसलिए|لذا|поэтому)",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"(?:\b(?:is|are|equals|be|by|to|of)\b|[=:：是为有]|等于|\bto\b)\s*((?:approximately |about |约|大约)?[-+$€£¥]?\s?[\d.]*\d(?:[,. ]?\d)*(?:/\d+)?\s?[^\d\s.。!;；,，()（）][^\d.。!;；,，()（）]{0,20}|[-+$€£¥]?\s?[\d.]*\d(?:[,. ]?\d)*(?:/\d+)?)\s*(?:[(（][^()（）]{0,60}[)）])?\s*[.。!]*\s*$"
)
_CHOSEN = re.compile(
    r"(?<![a-z])(?:it's|it is|it must be|choose|select|pick|go with|would be|must be)\s{1,3}(?:option|choice|answer|letter)?\s{0,3}"
    r"[(\[*]{0,3}(?-i:([A-HJ]))(?![A-Za-z'])[)\]*]{0,3}",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.])[-+$€£]{0,2}\d(?:[\d,]*\d)?(?:\.\d+)?(?:/\d+)?\s?%?")
_BARE = re.compile(
    r"[-+−]?\s?[$€£¥]?\s?[\d.,]*\d[\d.,]*\s?\S{0,12}|\(?[A-Ja-j]\)?[.:]?|\$[^$\n]+\$|\\\(.{1,300}\\\)|\\\[.{1,300}\\\]|\*\*[^*\n]+\*\*"
)


@dataclass(frozen=True)
class Extraction:
    """The readings of the final answer, best first. only_if_right: it is a sentence that may state no answer at all."""

    answers: tuple[str, ...]
    only_if_right: bool = False


def after_thinking(response: str) -> str | None:
    """The text after the last closed thinking; the whole text when nobody thought; None when the thinking never closes."""
    before, closed, rest = response.rpartition(THINK_CLOSE)
    if closed:
        return None if THINK_OPEN in rest else rest
    return None if THINK_OPEN in response else response


def extract(text: str, by_letter: bool = False) -> Extraction | None:
    """The final answer of a text that follows the thinking, or None. by_letter: a letter is what the question asks for."""
    text = text[-TAIL:]
    if "<|" in text or "</s>" in text:
        text = re.sub(r"(?:<\|[a-z_]{2,20}\|>|</s>).*", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*I hope (?:it|this) (?:is correct|helps)[.!]?\s*$", "", text)
    boxed = last_box(text)
    if boxed is not None:
        return Extraction((boxed.strip(),)) if boxed.strip() else None
    tags = TAG.findall(text)
    if tags and tags[-1].strip():
        return (
            extract(tags[-1], by_letter) or Extraction((tags[-1].strip(),))
            if "\\boxed" in tags[-1]
            else Extraction((tags[-1].strip(),))
        )
    return (
        _after_phrase(text, by_letter)
        or (_chosen(text) if by_letter else None)
        or _whole(text)
        or _last_line(text, by_letter)
    )


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{…}` whose braces balance. Linear in the length of the text."""
    starts = [match.end() for match in BOX.finditer(text)]
    outermost = None
    for start in reversed(starts[-200:]):
        content = _balanced(text, start)
        if content is not None:
            if outermost is None or start + len(content) >= outermost[1]:
                outermost = (content, start + len(content))
            elif outermost:
                break
    if outermost is not None:
        return outermost[0]
    bare = BARE_BOX.findall(text)
    return bare[-1] if bare else None


def _balanced(text: str, start: int) -> str | None:
    depth = 1
    for match in re.compile(r"\\[\\{}]|[{}]").finditer(text, start, start + 4 * LONGEST):
        mark = match[0]
        if len(mark) > 1:
            continue
        depth += 1 if mark == "{" else -1
        if depth == 0:
            return text[start : match.start()]
    return None


def gold_answer(gold: str) -> str:
    """The answer in a gold that is a whole solution: its last boxes (joined where only a word or two is between), or after ####."""
    boxes = [
        (match.start(), match.end(), content)
        for match in BOX.finditer(gold)
        if (content := _balanced(gold, match.end())) is not None
    ]
    if boxes:
        start, _, joined = boxes[-1]
        for earlier in reversed(boxes[:-1]):
            between = gold[earlier[1] + len(earlier[2]) + 1 : start]
            if len(re.findall(r"\w+", between)) > 3 or len(between) > 40:
                break
            start, joined = earlier[0], f"{earlier[2]}, {joined}"
        return joined
    if re.match(r"(?:the )?(?:final |correct )?answer\b", gold, re.IGNORECASE) and (found := _after_phrase(gold, False)):
        return found.answers[0]
    if "####" in gold:
        return gold.rsplit("####", 1)[1]
    if len(gold) > 60 or "\n" in gold:
        found = _after_phrase(gold, by_letter=bool(re.search(r"\([A-J]\)|\n[A-J] ", gold)))
        if found:
            return found.answers[0]
    return gold


def _after_phrase(text: str, by_letter: bool) -> Extraction | None:
    """What follows the last final-answer phrase, to the end of its sentence."""
    folded = text.casefold()
    ends = [
        match.end() for hints, phrase in PHRASES if any(hint in folded for hint in hints) for match in phrase.finditer(text)
    ]
    backward = [(match.end(), next(group for group in match.groups() if group)) for match in BACKWARD.finditer(text)]
    if backward and (not ends or backward[-1][0] > max(ends)):
        return Extraction((backward[-1][1],))
    if not ends:
        return None
    rest = text[max(ends) : max(ends) + 4 * LONGEST].strip()
    return _readings(rest, by_letter)


def _readings(rest: str, by_letter: bool) -> Extraction | None:
    """The readings of what follows a phrase: its maths or bold, else the sentence, cut before its reasons."""
    found: list[str] = []
    maths = _MATHS.match(rest)
    if maths:
        found.append(next(group for group in maths.groups() if group))
        tail = rest[maths.end() :].lstrip(" ")
        if tail[:1] == "%" or re.match(r"(?:percent|pct|%|°|[a-z]{1,3}\b|[a-z]+s\b)", tail):
            found.insert(0, found[0] + " " + _sentence(tail))
    sentence = _sentence(rest)
    if by_letter and (letter := _first_letter(sentence)):
        found.append(letter)
    if sentence:
        found.append(_BECAUSE.split(sentence, maxsplit=1)[0])
        found.append(sentence)
        found += [spans[-1] for spans in [_maths_of(sentence)] if len(spans) == 1]
        if re.search(r"\bis\b|[=是为]", sentence):
            found.append(re.split(r"\bis\b|[=是为]", sentence)[-1])
        found += _only_number(sentence)
    answers = tuple(dict.fromkeys(answer.strip() for answer in found if answer.strip()))
    return Extraction(answers) if answers else None


def _sentence(text: str) -> str:
    """The first sentence of a text, without its full stop."""
    line = text.strip()
    end = _CLOSING.search(line)
    return (line[: end.start()] if end else line)[:LONGEST].strip()


def _maths_of(text: str) -> list[str]:
    return [
        next(group for group in match.groups() if group)
        for match in _MATHS.finditer(text)
        if not match[5] or not re.match(r"\s*[:：]", text[match.end() :])  # a heading in bold
    ]


def _first_letter(sentence: str) -> str | None:
    from sophia_cli.verifiers._letters import first_letter

    return first_letter(sentence)


def _chosen(text: str) -> Extraction | None:
    """The letter of `I think it's B`, `so I choose (C)`."""
    found = _CHOSEN.findall(text)
    return Extraction((found[-1],)) if found else None


def _whole(text: str) -> Extraction | None:
    """A response that is nothing but an answer; one that is a sentence counts only where it is the gold."""
    whole = text.strip()
    if not whole or len(whole) > 300 or "\n\n" in whole:
        return None
    if _BARE.fullmatch(whole) or not re.search(r"[^\W\d_]{2,}\W+[^\W\d_]{2,}|[一-鿿]{5}", whole):
        return Extraction((whole,))
    return (
        None
        if _THEREFORE.match(whole) or len(_sentences(whole)) > 1
        else Extraction((whole, *_concluded(whole)), only_if_right=True)
    )


def _sentences(text: str) -> list[str]:
    parts, start = [], 0
    for match in _ENDING.finditer(text):
        parts.append(text[start : match.end()].strip())
        start = match.end()
    return [part for part in [*parts, text[start:].strip()] if part]


def _last_line(text: str, by_letter: bool) -> Extraction | None:
    """The last line when it is nothing but an answer, else what the last sentence concludes."""
    lines = [line.strip() for line in text[-4 * LONGEST :].splitlines() if line.strip()]
    if not lines:
        return None
    if _BARE.fullmatch(lines[-1]):
        return Extraction((lines[-1],))
    sentences = _sentences(lines[-1])
    concluded = _concluded(sentences[-1]) if sentences else []
    return Extraction(tuple(concluded)) if concluded else None


def _concluded(sentence: str) -> list[str]:
    """What a closing sentence states: its only maths or bold, or the number that it ends with after `is` or `=`."""
    maths = _maths_of(sentence)
    concludes = _THEREFORE.match(sentence)
    if len(maths) == 1 or (maths and concludes):
        return [maths[-1]]
    stated = _STATED.search(sentence)
    if stated:
        return [stated[1]]
    return _only_number(sentence) if concludes else []


def _only_number(sentence: str) -> list[str]:
    """The number of a sentence that holds no other."""
    found = _NUMBER.findall(sentence)
    return [found[0].strip()] if len(found) == 1 else []
