"""Patterns of how a final answer is announced, in English, Chinese and a few other languages. `extract.py` uses them.

Repetitions are bounded, or separated from what follows by their first character, and only the end of a text is
searched, so that a hostile text cannot make a search slow.
"""

import re

_ANNOUNCEMENT = r"""
    \s{0,3}
    (?: \*\* | : | ： | =
      | (?: is | are | was | were | (?: would | should | must | will | (?: has | seems | appears )\ to )\ be )
        (?: \s{1,3} (?: therefore | thus | indeed | simply | clearly | : ) )?
        (?![a-z])
    )
    [\s:：*]{0,9} (?=\S)
"""
_FLAGS = re.IGNORECASE | re.VERBOSE

PHRASES: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = (
    (
        ("ans", "solution", "result", "choice", "option"),
        re.compile(
            rf"""(?<![a-z]) (?<! wrong\  ) (?<! incorrect\  ) (?: final\s{{1,3}} )?
            (?: answers? | ans\.? | solutions?
              | (?<= final\  ) result | (?: (?<= my\  ) | (?<= final\  ) ) choice | (?<= selected\  ) option )
            (?: \s{{1,3}} (?: choice | option | here | (?: to | of | for )\ (?: the | this )\ (?: question | problem ) ) )?
            {_ANNOUNCEMENT}""",
            _FLAGS,
        ),
    ),
    (
        ("correct", "right", "best", "matching", "appropriate"),
        re.compile(
            rf"""(?<![a-z]) (?: correct | right | best | matching | appropriate ) \s{{1,3}}
            (?: answers? | options? | choices? | statements? | letters? | one ) (?: \s{{1,3}} [a-z]+ ){{0,4}}?
            {_ANNOUNCEMENT}""",
            _FLAGS,
        ),
    ),
    (("answer",), re.compile(r"^\#{1,6} [ *]{0,4} (?: final\  )? answer [ *:]{0,4} \n{1,3} (?=\S)", _FLAGS | re.MULTILINE)),
    (("answer", "reply"), re.compile(r"(?<![a-z]) (?: answer | reply ) \s{1,3} (?= \$ | \\\( | \\\[ | \( )", _FLAGS)),
    (
        ("答案", "选项", "结果", "答", "正确", "题意"),
        re.compile(
            r"""(?: 最终答案 | 正确答案 | 参考答案 | 答案 | 正确的?选项 | 结果 | 答
                  | (?: 正确 | 符合题意 )的 (?: 选项 | 结论 | 说法 )? (?= [是为] ) ) [\s*】]{0,4}
            (?: 应该是 | 应为 | 就是 | 是 | 为 | : | ： | = ) [\s*:：]{0,9} (?=\S)
            | 【 \s? 答案 \s? 】 [\s*:：]{0,9} (?=\S) | (?: ^ | \n ) \#{1,6}\s? 答案 \s* \n{1,3} (?=\S)""",
            re.VERBOSE,
        ),
    ),
    (
        ("选",),
        re.compile(
            r"(?<! 不 ) (?: 故选 | 应选 | 选择 | 选 ) \s{0,3} [项择]? \s{0,3} [:：]? \s{0,3} (?= [(（\[]? [A-Za-z\d] )",
            re.VERBOSE,
        ),
    ),
    (("####",), re.compile(r"####\s*(?=\S)")),
    (
        ("réponse", "antwort", "respuesta", "risposta", "resposta", "ответ", "答え", "정답", "الإجابة", "उत्तर"),
        re.compile(
            r"""(?: réponse | antwort | respuesta | risposta | resposta | ответ | 答え | 정답 | الإجابة | उत्तर )
            (?: \s{1,3} \w+ )? \s{0,3} (?: est | ist | es | è | é | is | : | ： | は | 는 ) \s{0,3} (?=\S)""",
            _FLAGS,
        ),
    ),
)
"""What precedes a final answer. Each pattern has words of which one must occur, because that check is cheap."""

BACKWARD = re.compile(
    r"""(?: \$ ([^$\n]{1,300}) \$ | \\\( (.{1,300}?) \\\) | \*\* ([^*\n]{1,200}) \*\* )
    \s+ is \s+ (?: our | the ) \s+ (?: final\s+ | correct\s+ )? (?: answer | solution )""",
    _FLAGS,
)
"""`$x > 5$ is our answer`."""

CHOSEN_FIRST = re.compile(
    r"""(?<![A-Za-z]) \(? ([A-J]) \)? (?: \s+ is \s+ (?: therefore\s+ )? (?: the\s+ )? (?: correct | right | best )
          | \s+ (?: matches | fits ) \b | \s? (?: 选项 )? \s? 是? (?: 正确 | 符合题意 ) )""",
    re.VERBOSE,
)
"""`Option B is the correct answer`."""

SEVERAL_FIRST = re.compile(
    r"(?<![A-Za-z])([A-J](?:\s?(?:,|, and|and|&)\s?[A-J])+)\s+are\s+(?:both\s+)?(?:the\s+)?(?:correct|right|true)"
)
"""`A and C are correct`."""

CHOSEN = re.compile(
    r"""(?<![a-z])
    (?: it's | it\ is | choose | select | pick | go\ with | (?: would | must | has\ to )\ be
      | is\ (?: therefore | thus | hence ) | corresponds\ to | matches | only\ option )
    \s{1,3} (?: option | choice | answer | letter )? \s{0,3}
    [(\[*]{0,3} (?-i:([A-HJ])) (?![A-Za-z']) [)\]*]{0,3}""",
    _FLAGS,
)
"""`I think it's B`. The letter I is left out, because it is a pronoun."""

SENTENCE_END = re.compile(
    r"""(?<= [a-z\d)\]}$*%°"'] ) [.!?] (?= \s+ [A-Z<\[(*\\] | \s*$ | \s*< )  |  [。！？\n]""",
    re.VERBOSE,
)
NEW_SENTENCE = re.compile(
    SENTENCE_END.pattern + r" | \s (?= (?: So | Therefore | Thus | Hence ) \b )  |  (?= 因此 | 所以， | 综上 )", re.VERBOSE
)

REASONS = re.compile(
    r"""
    \s* \( (?: the | which | that | between | from | in )\s [^()]{0,80} \) [.\s]* $
    | ,?\s+ or\s+ (?: equivalently | about | approximately | roughly | simply )\b
    | ,\s* (?: the | an? | i\.e\. | that\ is | rounded | where | when | if | using )\s
    | ,?\s+ (?: because | since | as\ (?= it | the | he | she | this ) | which | due\ to | so\ that | given\ that ) \b
    | ,\s* (?: so | and | but | it | as | because | since | which | not ) \s
    | ， (?! [^（(]* [)）] )""",
    re.VERBOSE,
)
"""Where the answer in a sentence ends and its reasons begin."""

NEGATED = re.compile(
    r"""\b (?: not | never | cannot | neither | reject | impossible | wrong | incorrect | least\ likely ) \b | n't\b
    | 不(?: 是 | 可能 | 认为 | 等于 | 能 | 会 | 对 | 正确 | 成立 | 为 | 选 | 应 ) | 错""",
    _FLAGS,
)
"""What negates a sentence, wherever it occurs."""

UNASSERTED = re.compile(
    r"""^\W* (?: no | none | nobody | nothing | few | if\b(?!.*\bthen\b) | suppose | who )\b
    | \b (?: doubt | whether | almost | could | first\ guess | opposite )\b""",
    _FLAGS,
)
"""What shows that a sentence only mentions a value."""

HEDGED = re.compile(
    r"""\b (?: than | at\ least | at\ most | between | (?: over | under | above | below )\ \$?\d | either | square | cube
          | root | twice | half | reciprocal | multiple | product | sum | terms? | less | step | anything | after | before
          | multiplying )\b
    | 不 | 大于 | 小于 | 超过 | 至少 | 至多 | 以上 | 以下 | 之间 | 分之
    | 的 (?: 平方 | 立方 | 一半 | 倒数 | 相反数 | 倍数 )""",
    _FLAGS,
)
"""What shows that the number in a predicate is not the answer."""

DENIED = re.compile(
    r"""(?: n't | \b(?: not | wrong | least\ likely | unlikely | at\ first | people\ (?: think | say )
          | says? ) )\b [^,.;:!?\n，。；：]{0,40} $
    | 不 (?: 能 | 会 | 该 | 应 | 可 | 认为 | 要 ) [^，。；：\n]{0,8} $""",
    _FLAGS,
)
"""What precedes a phrase that does not announce an answer: `I don't think the`, `我不认为`."""

RIVAL_ANSWERS = re.compile(
    r"""\b(?: or | maybe | possibly | perhaps | alternatively | unsure | either | also | might | could | (?-i: may )
           | in\ fact )\b
    | 或 | 也""",
    _FLAGS,
)
"""What adds a second answer beside the first."""

RESTATED = re.compile(
    r"\b(?:or|but)\s+(?:equivalently|about|approximately|roughly|simply|note|in other words|in decimal)\b|也就是|也即"
)
"""What repeats the first answer instead of adding a second: `12, or equivalently 24/2`."""

MATH_SPAN = re.compile(
    r"""\$\$ (.+?) \$\$ | (?<![\\\d]) \$ (.+?) (?<!\\) \$ (?!\d) | \\\( (.+?) \\\) | \\\[ (.+?) \\\]
    | \*\* ([^*\n]+) \*\*""",
    re.DOTALL | re.VERBOSE,
)
"""A span of math, or bold text (group 5)."""

THEREFORE = re.compile(
    r"""^\W*
    (?: (?: and\ )? (?: therefore | thus | so | hence | consequently | in\ conclusion | finally | as\ a\ result | overall
                      | we\ (?: find | get | have | conclude | obtain ) )
      | 因此 | 所以 | 故 | 综上 | 于是 | 那么 | 结论 | 从而 | 可得 | 得出
      | donc | alors | en\ conclusion | por\ lo\ tanto | also | daher | इसलिए | لذا | поэтому )""",
    _FLAGS,
)

_VALUE = r"[-+$€£¥]{0,2}\s?\.?\d+(?:[,.\ ]\d+)*(?:[/:]\d+)?"
STATED_VALUE = re.compile(
    rf"""
    (?: \b (?: is (?: \ (?: thus | therefore | hence ) )? | are | equals | be | shows? | reads? | gives? | needs? | costs?
            | (?: equal | comes? | leads | adds\ up | sums\ up | simplifies | evaluates | reduces | amounts | rounds
                | closest )\ to
            | (?: given | represented )\ by
            | (?: total | length | area | width | height | volume | perimeter | value | score | average | result
                | distance | speed | cost | price | measure | probability | answer | maximum | minimum )\ of
          ) \b | (?<!\d)[:：] | [=是为有] | 等于 ) \s*
    ( (?: approximately\  | about\  | 约 | 大约 )? {_VALUE} 
      (?: \s? [^\d\s.。!;；,，()（）:/] [^\d.。!;；,，()（）]{{0,20}} )? )
    \s* (?: [(（] [^()（）]{{0,60}} [)）] )? \s* [.。!]* \s*$""",
    re.VERBOSE,
)
"""The number, with its unit, at the end of a sentence: `… = 4000 kg.`, `…是192公斤。`"""

TRUTH_VALUE = re.compile(r"\b(?:is|are)\s+(?:therefore\s+|thus\s+|hence\s+)?(true|false)\W*$", re.IGNORECASE)
"""`So the statement is true.`"""

PREDICATE = re.compile(r"(?:\b(?:is|are|was|were|equals|has|have|be)\b|[=是为有])")
"""Where the predicate of a sentence begins."""

_NAMED = r"(?: [A-Za-z]\w? \s?=\s? )? -?\d{1,20}(?:[./]\d{1,20})?"
SEVERAL_VALUES = re.compile(
    rf"""( {_NAMED} (?: \s? (?: , | 、 | or | and | 或者? | 和 ) \s? {_NAMED} ){{1,7}} ) \s?[.。]? $""", re.VERBOSE
)
"""`x = 12 or x = 13`, at the end of a sentence."""

NUMBER = re.compile(r"(?<![A-Za-z\d_.^])[-+$€£]{0,2}\d(?:[\d,]*\d)?(?:\.\d+)?(?:[/:]\d+)?\s?%?")
BARE_ANSWER = re.compile(
    r"""[-+−]?\s? [$€£¥]? \s? [.,]?\d[\d.,]* \s? \S{0,12}
    | \(? [A-Ja-j] \)? [.:]? | \$[^$\n]+\$ | \\\(.{1,300}\\\) | \\\[.{1,300}\\\] | \*\*[^*\n]+\*\*""",
    re.VERBOSE,
)
"""A line that consists of an answer."""
