"""Finds benchmark questions that share n-grams of words with a question.

Case, width and punctuation are ignored; each Chinese, Japanese or Korean character is a word. Two questions overlap
when common n-grams cover enough of one of them. A question of fewer than n words overlaps only when it is identical,
arithmetic signs included.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from sophia_cli.decontamination.overlap import Overlap
from sophia_cli.prompts.image_marks import MARK

CJK_RANGES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{CJK_RANGES}]|[^\W_{CJK_RANGES}]+")
_SIGN = r"[+*/^<>=±×÷≤≥≠√]|(?<![^\W\d_])-|-(?![^\W\d_])"
"""Arithmetic signs; a hyphen between letters is not one."""
_WORD_OR_SIGN = re.compile(f"{_WORD.pattern}|{_SIGN}")
MAX_HOLDERS = 100
"""Most benchmark questions considered for one n-gram. Where more contain it, they are much alike."""


def split_words(text: str) -> list[str]:
    """Returns the words of a text, without what differs between two copies of it."""
    return _WORD.findall(_normalize(text))


def words_and_signs(text: str) -> tuple[str, ...]:
    """Returns the words and arithmetic signs of a text: f(-2) is not f(2), though the words are equal."""
    return tuple(_WORD_OR_SIGN.findall(_normalize(text).replace("\u2212", "-")))


def _normalize(text: str) -> str:
    return unicodedata.normalize("NFKC", MARK.sub(" ", text)).casefold()


class TextIndex:
    """The questions of a benchmark by their n-grams."""

    def __init__(self, questions: Iterable[str], run: int, share: float):
        self.run, self.share = run, share
        self.lengths: list[int] = []
        self.whole: dict[int, list[int]] = defaultdict(list)
        self.holders: dict[int, list[int]] = defaultdict(list)
        for number, question in enumerate(questions):
            words = split_words(question)
            self.lengths.append(len(words))
            if words:
                self.whole[hash(words_and_signs(question))].append(number)
            for name in set(self._ngram_hashes(words)):
                self.holders[name].append(number)

    def find_overlaps(self, question: str) -> list[Overlap]:
        """Returns the overlaps of a question: identical questions first, then the largest share, then similar length."""
        words = split_words(question)
        same = set(self.whole.get(hash(words_and_signs(question)), ()) if words else ())
        found = dict.fromkeys(same, 1.0)
        covered: dict[int, list[int]] = defaultdict(list)
        for position, name in enumerate(self._ngram_hashes(words)):
            for number in self.holders.get(name, ())[:MAX_HOLDERS]:
                covered[number].append(position)
        for number, positions in covered.items():
            shared = _covered_words(positions, self.run)
            share = min(1.0, shared / min(len(words), self.lengths[number]))
            if share >= self.share:
                found[number] = max(share, found.get(number, 0.0))
        nears = [Overlap(number, share=share, same=number in same) for number, share in found.items()]
        return sorted(
            nears, key=lambda near: (not near.same, -(near.share or 0), self._length_difference(near, words), near.number)
        )

    def _length_difference(self, near: Overlap, words: list[str]) -> int:
        return abs(self.lengths[near.number] - len(words))

    def _ngram_hashes(self, words: list[str]) -> list[int]:
        """Returns a hash of each n-gram, in order."""
        return [hash(tuple(words[start : start + self.run])) for start in range(len(words) - self.run + 1)]


def _covered_words(positions: list[int], run: int) -> int:
    """Returns how many words are covered by the n-grams that begin at these ascending positions."""
    total, end = 0, 0
    for position in positions:
        total += position + run - max(position, end)
        end = position + run
    return total
