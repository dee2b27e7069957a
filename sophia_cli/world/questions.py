"""Questions about scenes, with their gold answers: each needs several steps, none is settled by one glance.

A question has a kind (one entry of `KINDS`), a subject (the colour, form, row or number it asks about) and a language;
some are multiple choice. Every kind's words in both languages stand in one place, `WORDING`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sophia_cli.world.scenes import COLOURS, FORMS, ROWS, Scene, Shape

CHINESE = {
    "red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色",
    "circle": "圆形", "square": "方形", "triangle": "三角形", "star": "星形",
    "top": "上面", "middle": "中间", "bottom": "下面",
}  # fmt: skip

WORDING = {
    "sum_colour": ("What is the sum of the numbers on the {0} shapes?", "{0}图形上的数字之和是多少?"),
    "sum_form": ("What is the sum of the numbers on the {0} shapes?", "{0}上的数字之和是多少?"),
    "sum_row": ("What is the sum of the numbers in the {0} row?", "{0}一行的数字之和是多少?"),
    "count_larger": ("How many shapes have a number larger than {0}?", "有多少个图形的数字大于{0}?"),
    "largest_colour": ("What colour is the shape with the largest number?", "数字最大的图形是什么颜色?"),
    "largest_form": ("What form has the shape with the largest number?", "数字最大的图形是什么形状?"),
    "range": (
        "What is the difference between the largest and the smallest number?",
        "最大的数字与最小的数字之差是多少?",
    ),
    "compare": (
        "Which shapes have the larger sum, the {0} ones or the {1} ones?",
        "{0}和{1}的图形,哪种的数字之和更大?",
    ),
}

CHINESE_SHARE = 0.2
CHOICE_SHARE = 0.25
LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A question and its gold answer (a letter where `choices` are given), with what the world knows of it."""

    text: str
    answer: str
    kind: str
    subject: tuple[str, ...]
    value: str
    """The answer before it became a Chinese word or a letter: what the reasoning arrives at."""
    language: str
    choices: tuple[str, ...] = ()

    @property
    def answer_type(self) -> str:
        if self.choices:
            return "choice"
        return "integer" if self.answer.isdigit() else "text"


def ask(scene: Scene, rng: Random) -> Question:
    """A random question that the scene answers without doubt."""
    answerable = None
    while answerable is None:
        kind = rng.choice(list(KINDS))
        answerable = KINDS[kind](scene, rng)
    subject, value = answerable
    language = "zh" if rng.random() < CHINESE_SHARE else "en"
    words = [CHINESE.get(word, word) if language == "zh" else word for word in subject]
    text = WORDING[kind][language == "zh"].format(*words)
    answer = CHINESE.get(value, value) if language == "zh" else value
    if kind == "compare" or rng.random() >= CHOICE_SHARE:
        return Question(text, answer, kind, subject, value, language)
    choices = _choices(value, rng)
    shown = tuple(CHINESE.get(choice, choice) if language == "zh" else choice for choice in choices)
    return Question(text, LETTERS[choices.index(value)], kind, subject, value, language, shown)


Answerable = tuple[tuple[str, ...], str]


def _sum_by(names: tuple[str, ...], trait: Callable[[Shape], str], scene: Scene, rng: Random) -> Answerable | None:
    name = rng.choice(names)
    matching = [shape.digit for shape in scene if trait(shape) == name]
    return ((name,), str(sum(matching))) if len(matching) > 1 or (matching and rng.random() < 0.2) else None


def _sum_colour(scene: Scene, rng: Random) -> Answerable | None:
    return _sum_by(COLOURS, lambda shape: shape.colour, scene, rng)


def _sum_form(scene: Scene, rng: Random) -> Answerable | None:
    return _sum_by(FORMS, lambda shape: shape.form, scene, rng)


def _sum_row(scene: Scene, rng: Random) -> Answerable | None:
    return _sum_by(ROWS, lambda shape: shape.row, scene, rng)


def _count_larger(scene: Scene, rng: Random) -> Answerable | None:
    bound = rng.randint(1, 8)
    return (str(bound),), str(sum(shape.digit > bound for shape in scene))


def _largest(scene: Scene) -> Shape | None:
    top = max(shape.digit for shape in scene)
    winners = [shape for shape in scene if shape.digit == top]
    return winners[0] if len(winners) == 1 else None


def _largest_colour(scene: Scene, rng: Random) -> Answerable | None:
    winner = _largest(scene)
    return ((), winner.colour) if winner else None


def _largest_form(scene: Scene, rng: Random) -> Answerable | None:
    winner = _largest(scene)
    return ((), winner.form) if winner else None


def _range(scene: Scene, rng: Random) -> Answerable | None:
    digits = [shape.digit for shape in scene]
    return (), str(max(digits) - min(digits))


def _compare(scene: Scene, rng: Random) -> Answerable | None:
    first, second = rng.sample(COLOURS, 2)
    sums = {name: sum(shape.digit for shape in scene if shape.colour == name) for name in (first, second)}
    if 0 in sums.values() or sums[first] == sums[second]:
        return None
    return (first, second), max(sums, key=lambda name: sums[name])


KINDS: dict[str, Callable[[Scene, Random], Answerable | None]] = {
    "sum_colour": _sum_colour,
    "sum_form": _sum_form,
    "sum_row": _sum_row,
    "count_larger": _count_larger,
    "largest_colour": _largest_colour,
    "largest_form": _largest_form,
    "range": _range,
    "compare": _compare,
}


def _choices(value: str, rng: Random) -> list[str]:
    """Four options, the right one among them: the other names of its sort, or numbers close to it."""
    for names in (COLOURS, FORMS):
        if value in names:
            return rng.sample(names, len(names))
    near = [str(number) for number in range(max(0, int(value) - 4), int(value) + 5) if str(number) != value]
    options = [value, *rng.sample(near, len(LETTERS) - 1)]
    return sorted(options, key=int)
