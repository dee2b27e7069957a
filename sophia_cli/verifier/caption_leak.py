"""Detects whether a trajectory shows that its writer read a caption instead of seeing the image (`mentions_caption`).

A model that sees an image speaks about the image. "The description says", "according to the caption provided", "根据描述"
reveal the reader of a caption. A caption that is part of the figure, or the description of the problem, does not.
"""

import re

_HINTS = ("descri", "caption", "visual information", "描述", "视觉信息", "图片说明", "图像说明", "文字说明", "文本信息")
_AROUND = 90
"""Characters on each side of a hint that show what is meant."""

_MAX_HINTS = 200
"""Most occurrences of a hint that are examined."""

_SOURCE = r"(?:descriptions?|captions?)"
_SAYS = (
    r"(?:says?|said|states?|stated|mentions?|mentioned|gives?|given|provides?|tells?|indicates?|notes?|lists?|describes?|shows?"
    r"|specifies|specified|suggests?|includes?|contains?|reads?|implies|implied|does(?:n't| not)|didn't|did not"
    r"|is (?:unclear|ambiguous|vague|silent))"
)
_SEEN = r"(?:image|picture|visual|photo|scene|figure|diagram)"
_GIVEN = rf"(?:given|provided|supplied|above|following|textual|text|verbal|written|{_SEEN})"
_LEAK_PHRASES = re.compile(
    rf"\b(?:according to|based on|from|per|in|by|given|using|rely(?:ing)? on|only|just|reading|read|re-?read|see)\s+"
    rf"(?:only\s+)?(?:the|this|that|your|my|a)\s+(?:{_GIVEN}['’]?s?\s+){{0,2}}{_SOURCE}\b"
    rf"|\b(?:the|this|that|your)\s+(?:{_GIVEN}\s+){{1,2}}{_SOURCE}\b"
    rf"|\b(?:the|this|that|your)\s+{_SOURCE}\s+(?:(?:also|only|just|clearly|explicitly|actually|never)\s+)?{_SAYS}\b"
    rf"|\b(?:the|this|your)\s+{_SOURCE}\s+(?:of|for)\s+(?:the|this|an)\s+(?:image|picture|photo|scene|figure|diagram)\b"
    rf"|\b(?:the|this|your)\s+{_SOURCE}\s+(?:that\s+)?(?:i|we|you)\s+(?:was|were|have|had|am|are|got|gave|provided)\b"
    rf"|\b(?:was|were|is|are|as|been)\s+(?:only\s+|just\s+)?described\s+(?:in|by)\s+the\s+(?:text|prompt|description|caption|user)\b"
    rf"|\b(?:the|this|that)\s+{_SOURCE}\s+(?:provided|given|supplied|above|here|alone|itself)\b"
    rf"|\b(?:the|your)\s+{_SOURCE}\s*(?:$|[.,;:!?])"
    r"|\b(?:the|this|provided|given)\s+(?:provided\s+|given\s+)?visual\s+information\b",
    re.IGNORECASE,
)
_HARMLESS_PHRASES = re.compile(
    r"\b(?:job|course|product|problem|question|task|exercise|statement|word|event|experiment|item|menu|set|function)\s*(?:'s\s+)?descriptions?\b"
    r"|\bdescriptions?\s+(?:of|in|for)\s+(?:the|this|each|a|an|our|what|how)\s+(?:\w+\s+)?"
    r"(?:problem|question|task|exercise|method|process|function|motion|curve|relationship|terms?|variables?|experiment|situation|options?)\b"
    r"|\b(?:problem|question|exercise|options?|axioms?|theorem)\s+(?:is\s+|as\s+)?described\b"
    r"|\bcaptions?\s+(?:of|for|in|on|under|underneath|below|beneath|above|beside|at|next)\s+(?:the|this|that|each|a|an|figure|fig)\b"
    r"|\b(?:figure|fig|chart|table|graph|plot|photo|image|picture|cartoon|panel|diagram|map|its|a|each|small|printed|whose)(?:['’]s)?\s+captions?\b"
    r"|\bcaptions?\s+['\"“(]|\bcaptions?\s+(?:in|inside|within)\s+(?:the|this)\s+(?:image|figure|picture)\b"
    r"|\bcaptioned\b|\bdescri(?:be|bes|bing|ptive)\b|\bdescribed by (?:the )?(?:equation|function|formula|curve|law|line)\b",
    re.IGNORECASE,
)
_LEAK_PHRASES_CHINESE = re.compile(
    r"(?:根据|按照|依据|基于|从|由|参考|结合|如|看|阅读)(?:上述|以上|上面|给定|给出|提供|所给|已知|你|您|这段|这个|该|文字|文本|图片|图像|图中|画面|视觉|的){0,4}"
    r"(?:描述|文字说明|图片说明|图像说明|视觉信息|文本信息)"
    r"|(?:图片|图像|画面|文字|文本|视觉)的?(?:描述|文字说明)(?:中|里|说|提到|提及|指出|显示|表明|没有|未|给出|是)"
    r"|(?:描述|视觉信息|图片说明|图像说明)(?:中|里)?(?:说|提到|提及|指出|写道|没有提|没有说|没提|未提|未说|给出|告诉|表明|显示)"
    r"|(?:描述|视觉信息)(?:中|里)(?:的|并|没|未|有|也|还|只)"
)
_HARMLESS_PHRASES_CHINESE = re.compile(
    r"(?:题目|题干|题意|问题|选项|题|实验|定理|方程|函数|曲线|条件)(?:中|里)?(?:的)?(?:描述|文字说明)|描述(?:的是|了|为|函数|曲线|运动|物体|这|该|一)|下列(?:关于)?.{0,8}描述|描述(?:正确|错误)"
)


def mentions_caption(trajectory: str) -> bool:
    """Tells whether a trajectory mentions a description, a caption or visual information that it was given.

    Only the surroundings of a few words are examined, so a long trajectory costs a few searches.
    """
    folded = trajectory.casefold() if not trajectory.isascii() else trajectory.lower()
    for hint in _HINTS:
        at = folded.find(hint)
        for _ in range(_MAX_HINTS):
            if at < 0:
                break
            if _is_leak(folded, at, at + len(hint)):
                return True
            at = folded.find(hint, at + len(hint))
    return False


def _is_leak(text: str, start: int, end: int) -> bool:
    """Tells whether the hint at [start, end) is part of a leak phrase and of no harmless phrase."""
    left = max(0, start - _AROUND)
    around = text[left : end + _AROUND]
    inside = (start - left, end - left)
    guilty, innocent = (
        (_LEAK_PHRASES, _HARMLESS_PHRASES)
        if text[start:end].isascii()
        else (_LEAK_PHRASES_CHINESE, _HARMLESS_PHRASES_CHINESE)
    )
    return _pattern_covers(guilty, around, inside) and not _pattern_covers(innocent, around, inside)


def _pattern_covers(pattern: re.Pattern[str], text: str, inside: tuple[int, int]) -> bool:
    return any(match.start() < inside[1] and match.end() > inside[0] for match in pattern.finditer(text))
