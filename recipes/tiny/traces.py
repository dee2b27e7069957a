"""The reasoning that `tiny-reasoner` learnt: how to answer a question about a described scene, each step spelt out.

These texts are used on *descriptions* alone. `tiny-vlm` never saw one about an image before SOPHIA.
"""

from sophia_cli.world.questions import CHINESE_NAMES, CHOICE_LETTERS, WorldQuestion
from sophia_cli.world.scenes import Scene, Shape, describe_scene


def reason_aloud(scene: Scene, question: WorldQuestion) -> str:
    """The whole trajectory: `<think>…</think>` and an answer in a box.

    It begins by saying what there is, in the words of a description: a model that can describe an image can begin so too.
    """
    steps = [describe_scene(scene), *STEPS[question.kind](scene, *question.subject)]
    if question.language == "zh" and question.value in CHINESE_NAMES:
        steps.append(f"{question.value} is {CHINESE_NAMES[question.value]}.")
    if question.choices:
        steps.append(_scan_choices(question))
    thinking = "\n".join(steps)
    return f"<think>\n{thinking}\n</think>\n{direct_answer(question)}"


def direct_answer(question: WorldQuestion) -> str:
    """The final sentence alone, as a model says it that does not think."""
    return (
        f"答案是\\boxed{{{question.answer}}}。"
        if question.language == "zh"
        else f"The answer is \\boxed{{{question.answer}}}."
    )


def _scan_choices(question: WorldQuestion) -> str:
    wanted = CHINESE_NAMES.get(question.value, question.value) if question.language == "zh" else question.value
    marks = [
        f"{letter}. {choice} is {wanted}? {'yes' if choice == wanted else 'no'}."
        for letter, choice in zip(CHOICE_LETTERS, question.choices, strict=True)
    ]
    return " ".join(marks)


def _running_sum(shapes: list[tuple[str, bool, int]]) -> tuple[str, int]:
    """Each shape is asked whether it counts, and the sum so far is carried along."""
    total, steps = 0, []
    for phrase, counts, digit in shapes:
        if counts:
            steps.append(f"{phrase}? yes, {total} + {digit} = {total + digit}.")
            total += digit
        else:
            steps.append(f"{phrase}? no.")
    return " ".join(steps), total


def _sum_colour(scene: Scene, name: str) -> list[str]:
    text, total = _running_sum([(f"{shape}: {shape.color} is {name}", shape.color == name, shape.digit) for shape in scene])
    return [text, f"The sum is {total}."]


def _sum_form(scene: Scene, name: str) -> list[str]:
    text, total = _running_sum([(f"{shape}: {shape.form} is {name}", shape.form == name, shape.digit) for shape in scene])
    return [text, f"The sum is {total}."]


def _sum_row(scene: Scene, name: str) -> list[str]:
    marks = [(f"{shape.position} {shape}: {shape.row} is {name}", shape.row == name, shape.digit) for shape in scene]
    text, total = _running_sum(marks)
    return [text, f"The sum is {total}."]


def _count_larger(scene: Scene, bound: str) -> list[str]:
    count, steps = 0, []
    for shape in scene:
        larger = shape.digit > int(bound)
        count += larger
        steps.append(f"{shape} > {bound}? {f'yes, {count}' if larger else 'no'}.")
    return [" ".join(steps), f"The count is {count}."]


def _running_extreme(scene: Scene, sign: str) -> tuple[str, Shape]:
    best, steps = scene[0], [f"{scene[0]} first."]
    for shape in scene[1:]:
        beats = shape.digit > best.digit if sign == ">" else shape.digit < best.digit
        steps.append(f"{shape} {sign} {best.digit}? {'yes' if beats else 'no'}, ")
        best = shape if beats else best
        steps[-1] += f"{best}."
    return " ".join(steps), best


def _largest_colour(scene: Scene) -> list[str]:
    text, best = _running_extreme(scene, ">")
    return [text, f"The largest is {best}, so {best.color}."]


def _largest_form(scene: Scene) -> list[str]:
    text, best = _running_extreme(scene, ">")
    return [text, f"The largest is {best}, so {best.form}."]


def _range(scene: Scene) -> list[str]:
    upper, largest = _running_extreme(scene, ">")
    lower, smallest = _running_extreme(scene, "<")
    return [upper, lower, f"The difference is {largest.digit} - {smallest.digit} = {largest.digit - smallest.digit}."]


def _compare(scene: Scene, first: str, second: str) -> list[str]:
    lines, totals = [], {}
    for name in (first, second):
        marks = [(f"{shape}: {shape.color} is {name}", shape.color == name, shape.digit) for shape in scene]
        text, totals[name] = _running_sum(marks)
        lines.append(text)
    larger = max(totals, key=lambda name: totals[name])
    sign = ">" if larger == first else "<"
    return [*lines, f"{totals[first]} {sign} {totals[second]}, so {larger}."]


STEPS = {
    "sum_colour": _sum_colour,
    "sum_form": _sum_form,
    "sum_row": _sum_row,
    "count_larger": _count_larger,
    "largest_colour": _largest_colour,
    "largest_form": _largest_form,
    "range": _range,
    "compare": _compare,
}
