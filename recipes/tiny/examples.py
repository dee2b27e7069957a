"""Training examples of both embedded models: chats about scenes of the training fold, generated on the fly.

In the file: the streams of examples. Not in it: the reasoning texts (`traces.py`) and the tokens (`loop.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

from PIL import Image

from recipes.tiny.traces import direct_answer, reason_aloud
from sophia_cli.prompts import fill_template, load_prompt, question_text
from sophia_cli.world.drawing import draw_image
from sophia_cli.world.questions import WorldQuestion, ask_question
from sophia_cli.world.scenes import DIFFICULTIES, TRAINING_FOLD, Difficulty, Scene, describe_scene, draw_scene

STYLE = "short"
SPREAD = Difficulty(2, 6, 0.0)


@dataclass
class Example:
    """One chat: the messages before the answer, the answer, and the image, if any."""

    messages: list[dict[str, Any]]
    answer: str
    image: Image.Image | None = None


def scenes(seed: int) -> Iterator[tuple[Random, Scene, WorldQuestion]]:
    """Yields scenes of the training fold without end, each with a question. Most have three to five shapes."""
    for number in count():
        rng = Random(f"tiny/{seed}/{number}")
        scene = draw_scene(rng, TRAINING_FOLD, SPREAD if rng.random() < 0.3 else DIFFICULTIES["medium"])
        yield rng, scene, ask_question(scene, rng)


def asked(question: WorldQuestion) -> str:
    """Returns the question as a model reads it, with its options."""
    return question_text({"question": question.text, "choices": list(question.choices)})


def text_reasoning(seed: int, system: float = 0.0, worked_example: bool = True) -> Iterator[Example]:
    """Yields text-only reasoning: a description and a question in, a trajectory out.

    Args:
        seed: Draws the scenes.
        system: Share of the examples that carry the slow-thinking system prompt.
        worked_example: False drops the part of the prompt before the last question. That saves a third of the tokens.
    """
    template = load_prompt("reason", STYLE)
    if not worked_example:
        template = template[template.rindex("Question:") :]
    for rng, scene, question in scenes(seed):
        content = fill_template(template, {"question": asked(question), "caption": describe_scene(scene)})
        messages = [{"role": "user", "content": content}]
        yield Example(_with_system(messages, rng, system), reason_aloud(scene, question))


def captions(seed: int, grain: tuple[float, float]) -> Iterator[Example]:
    """Yields captioning examples: an image in, its true description out.

    In half of them a question precedes the request, so that the skill does not depend on one prompt.

    Args:
        seed: Draws the scenes.
        grain: Lowest and highest standard deviation of the image noise, 0-255.
    """
    for rng, scene, question in scenes(seed):
        text = load_prompt("caption", STYLE)
        distracted = rng.random() < 0.5
        content = [{"type": "image"}, {"type": "text", "text": f"{asked(question)}\n{text}" if distracted else text}]
        messages = [{"role": "user", "content": content}]
        image = draw_image(scene, rng.uniform(*grain), str(rng.random()))
        yield Example(_with_system(messages, rng, 0.5) if distracted else messages, describe_scene(scene), image)


def direct_questions(seed: int, grain: tuple[float, float]) -> Iterator[Example]:
    """Yields direct answers: an image and a question in, the bare answer out, without reasoning."""
    for rng, scene, question in scenes(seed):
        content = [{"type": "image"}, {"type": "text", "text": asked(question)}]
        messages = _with_system([{"role": "user", "content": content}], rng, 0.5)
        image = draw_image(scene, rng.uniform(*grain), str(rng.random()))
        yield Example(messages, direct_answer(question), image)


def _with_system(messages: list[dict[str, Any]], rng: Random, share: float) -> list[dict[str, Any]]:
    if rng.random() >= share:
        return messages
    return [{"role": "system", "content": load_prompt("slow_thinking", STYLE)}, *messages]


def corpus(size: int) -> Iterator[str]:
    """Yields texts that contain every word of the world and its prompts, for the tokenizer."""
    for name in ("caption", "reason", "slow_thinking"):
        yield load_prompt(name, STYLE)
    yield "system user assistant"
    for _, scene, question in (row for row, _ in zip(scenes(0), range(size), strict=False)):
        yield from (describe_scene(scene), asked(question), reason_aloud(scene, question), direct_answer(question))
