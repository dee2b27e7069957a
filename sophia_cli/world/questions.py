"""Questions about scenes with their gold answers. Each needs several steps.

A question has a kind (an entry of `KINDS`), a subject (the color, form, row or number it asks about) and a language;
some are multiple choice. `WORDING` holds the words of every kind in both languages. They keep their spelling, because
the models were trained on them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sophia_cli.world.scenes import COLORS, FORMS, ROWS, Scene, Shape

CHINESE_NAMES = {
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
CHOICE_LETTERS = "ABCD"


@dataclass(frozen=True)
class WorldQuestion:
    """A question and its gold answer (a letter where `choices` are given), with what the world knows about it."""

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


def ask_question(scene: Scene, rng: Random) -> WorldQuestion:
    """Returns a random question that the scene answers unambiguously."""
    answerable = None
    while answerable is None:
        kind = rng.choice(list(KINDS))
        answerable = KINDS[kind](scene, rng)
    subject, value = answerable
    language = "zh" if rng.random() < CHINESE_SHARE else "en"
    words = [CHINESE_NAMES.get(word, word) if language == "zh" else word for word in subject]
    text = WORDING[kind][language == "zh"].format(*words)
    answer = CHINESE_NAMES.get(value, value) if language == "zh" else value
    if kind == "compare" or rng.random() >= CHOICE_SHARE:
        return WorldQuestion(text, answer, kind, subject, value, language)
    choices = _make_choices(value, rng)
    shown = tuple(CHINESE_NAMES.get(choice, choice) if language == "zh" else choice for choice in choices)
    return WorldQuestion(text, CHOICE_LETTERS[choices.index(value)], kind, subject, value, language, shown)


Answerable = tuple[tuple[str, ...], str]


def _sum_by(names: tuple[str, ...], trait: Callable[[Shape], str], scene: Scene, rng: Random) -> Answerable | None:
    name = rng.choice(names)
    matching = [shape.digit for shape in scene if trait(shape) == name]
    return ((name,), str(sum(matching))) if len(matching) > 1 or (matching and rng.random() < 0.2) else None


def _sum_color(scene: Scene, rng: Random) -> Answerable | None:
    return _sum_by(COLORS, lambda shape: shape.color, scene, rng)


def _sum_form(scene: Scene, rng: Random) -> Answerable | None:
    return _sum_by(FORMS, lambda shape: shape.form, scene, rng)


def _sum_row(scene: Scene, rng: Random) -> Answerable | None:
    return _sum_by(ROWS, lambda shape: shape.row, scene, rng)


def _count_larger(scene: Scene, rng: Random) -> Answerable | None:
    bound = rng.randint(1, 8)
    return (str(bound),), str(sum(shape.digit > bound for shape in scene))


def _largest_shape(scene: Scene) -> Shape | None:
    top = max(shape.digit for shape in scene)
    winners = [shape for shape in scene if shape.digit == top]
    return winners[0] if len(winners) == 1 else None


def _largest_color(scene: Scene, rng: Random) -> Answerable | None:
    winner = _largest_shape(scene)
    return ((), winner.color) if winner else None


def _largest_form(scene: Scene, rng: Random) -> Answerable | None:
    winner = _largest_shape(scene)
    return ((), winner.form) if winner else None


def _digit_range(scene: Scene, rng: Random) -> Answerable | None:
    digits = [shape.digit for shape in scene]
    return (), str(max(digits) - min(digits))


def _compare_colors(scene: Scene, rng: Random) -> Answerable | None:
    first, second = rng.sample(COLORS, 2)
    sums = {name: sum(shape.digit for shape in scene if shape.color == name) for name in (first, second)}
    if 0 in sums.values() or sums[first] == sums[second]:
        return None
    return (first, second), max(sums, key=lambda name: sums[name])


KINDS: dict[str, Callable[[Scene, Random], Answerable | None]] = {
    "sum_colour": _sum_color,
    "sum_form": _sum_form,
    "sum_row": _sum_row,
    "count_larger": _count_larger,
    "largest_colour": _largest_color,
    "largest_form": _largest_form,
    "range": _digit_range,
    "compare": _compare_colors,
}


def _make_choices(value: str, rng: Random) -> list[str]:
    """Returns four options with the correct one among them: other names of its kind, or close numbers."""
    for names in (COLORS, FORMS):
        if value in names:
            return rng.sample(names, len(names))
    near = [str(number) for number in range(max(0, int(value) - 4), int(value) + 5) if str(number) != value]
    options = [value, *rng.sample(near, len(CHOICE_LETTERS) - 1)]
    return sorted(options, key=int)
