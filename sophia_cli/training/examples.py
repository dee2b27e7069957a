"""Turns records into training rows: the prompt, the answer to learn, and its weight.

The caption is *not* in the prompt (Eq. 7), only the image and the question. The system prompt is the slow-thinking one
when the answer thinks, else the model's default (method.md, settings).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from sophia_cli.errors import RecordError
from sophia_cli.models.thinking import to_think_tags
from sophia_cli.prompts import load_prompt, question_text
from sophia_cli.prompts.image_marks import MARK, place_images, place_in_texts
from sophia_cli.records import (
    GRADING_FIELDS,
    THINK_CLOSE,
    THINK_OPEN,
    Record,
    image_list,
    is_finite,
    need_number,
    need_text,
    record_name,
    where_of,
    with_step_names,
)


@dataclass(frozen=True)
class TrainExample:
    """One training row.

    Attributes:
        name: Its id, for messages.
        messages: The prompt; images are parts of it, in order.
        answer: The text to learn.
        weight: Its weight (Eq. 6).
        behavior_logp: log µ of the answer; None where sampling did not store it.
        source: The file it comes from, for the plan.
        rejected: The wrong answer of a pair.
        item: For a question that the policy answers itself: what the verifier needs. There is no answer then.
    """

    name: str
    messages: list[dict[str, Any]]
    answer: str
    weight: float
    behavior_logp: float | None = None
    source: str = ""
    rejected: str | None = None
    item: dict[str, Any] | None = None

    @property
    def images(self) -> list[str]:
        contents = [message["content"] for message in self.messages if isinstance(message["content"], list)]
        return [part["image"] for parts in contents for part in parts if part["type"] == "image"]


def trajectory_row(record: Record, style: str) -> TrainExample:
    """Makes the row of a graded trajectory with its weight (Eq. 6).

    Raises:
        RecordError: a field is missing or bad.
    """
    answer = to_think_tags(need_text(record, "trajectory", "`sophia reason` writes it"))
    need_text(record, "question", "the source must give it")
    chat = prompt_messages(question_text(record), image_list(record), answer, style, where_of(record))
    behavior_logp = need_number(record, "trajectory_logprob") if record.get("trajectory_logprob") is not None else None
    return TrainExample(record_name(record), chat, answer, record_weight(record), behavior_logp)


def pair_row(right: Record, wrong: Record, style: str) -> TrainExample:
    """Makes the row of a correct and a wrong trajectory of the same item.

    Raises:
        RecordError: a field is missing or bad.
    """
    row = trajectory_row(Record({**right, "weight": 1.0}, right.where), style)
    name = f"{row.name} rather than {record_name(wrong)}"
    rejected = to_think_tags(need_text(wrong, "trajectory", "`sophia reason` writes it"))
    return replace(row, name=name, rejected=rejected, behavior_logp=None)


def question_row(record: Record, style: str) -> TrainExample:
    """Makes the row of a question that the policy answers itself, with the slow-thinking prompt.

    Raises:
        RecordError: a field is missing or bad.
    """
    need_text(record, "question", "the source must give it")
    if record.get("answer") is None:
        raise RecordError(f"{where_of(record)}: field `answer` is missing; without it, answers cannot be graded")
    item = {name: record[name] for name in ("answer", *GRADING_FIELDS) if record.get(name) is not None}
    chat = prompt_messages(question_text(record), image_list(record), THINK_OPEN, style, where_of(record))
    return TrainExample(str(record["id"]), chat, "", 1.0, item=item)


def record_weight(record: Record) -> float:
    """Returns the finite number in `weight`.

    Raises:
        RecordError: it is something else.
    """
    weight = record.get("weight")
    if is_finite(weight):
        return float(weight)
    raise RecordError(f"{where_of(record)}: field `weight` is not a number; `sophia propagate` writes it")


def mixed_row(record: Record, style: str) -> TrainExample:
    """Makes a row of other data: a chat (`messages`, optional `images`), a caption, or a question and an answer.

    A record with a trajectory beside its caption gives the caption. So kept records teach the captions that earned
    their reward.

    Raises:
        RecordError: the record is none of these.
    """
    record = with_step_names(record)
    if "messages" in record:
        return _chat_row(record, style)
    if "caption" in record:
        answer = need_text(record, "caption", "`sophia caption` writes it")
        return TrainExample(
            record_name(record),
            prompt_messages(load_prompt("caption", style), image_list(record), answer, style, where_of(record)),
            answer,
            1.0,
        )
    answer = to_think_tags(_answer_text(record))
    need_text(record, "question", "a mixed-in row needs `messages`, `caption`, or `question` and `answer`")
    return TrainExample(
        record_name(record),
        prompt_messages(question_text(record), image_list(record), answer, style, where_of(record)),
        answer,
        1.0,
    )


def _answer_text(record: Record) -> str:
    """Returns the answer of a mixed-in row; a number is written as JSON has it.

    Raises:
        RecordError: it is missing, or neither text nor number.
    """
    answer = record.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)
    return need_text(record, "answer", "a mixed-in row needs `messages`, `caption`, or `question` and `answer`")


def prompt_messages(text: str, images: list[str], answer: str, style: str, where: str = "?") -> list[dict[str, Any]]:
    """Returns the prompt: the system prompt that the answer calls for, and the text with its images.

    Raises:
        RecordError: the marks in the text do not fit the images.
    """
    return [*_system_message(answer, style), {"role": "user", "content": place_images(text, images, where)}]


def system_prompt(answer: str, style: str) -> str:
    """Returns the slow-thinking system prompt for an answer that thinks, else an empty one (method.md, settings)."""
    return load_prompt("slow_thinking", style) if THINK_OPEN in answer else ""


def _system_message(answer: str, style: str) -> list[dict[str, Any]]:
    prompt = system_prompt(answer, style)
    return [{"role": "system", "content": prompt}] if prompt else []


def _chat_row(record: Record, style: str) -> TrainExample:
    """Makes a row of TRL-style `messages` that end with the assistant; `images` fill the image parts, or precede the
    first turn.
    """
    messages, images = record["messages"], image_list(record)
    if not _is_chat(messages):
        raise RecordError(f"{where_of(record)}: field `messages` is not a chat that ends with an assistant text; fix it")
    answer = to_think_tags(_content_text(messages[-1]["content"]))
    chat = _chat_with_images(messages[:-1], images, where_of(record))
    if not any(message["role"] == "system" for message in chat):
        chat = [*_system_message(answer, style), *chat]
    return TrainExample(record_name(record), chat, answer, 1.0)


def _chat_with_images(turns: list[dict[str, Any]], images: list[str], where: str) -> list[dict[str, Any]]:
    """Returns turns whose image parts, or marks in their texts, are the images in order; without either, the images come
    first.

    Raises:
        RecordError: there are more or fewer marks than images.
    """
    left = iter(images)
    chat = [{"role": turn["role"], "content": _fill_parts(turn["content"], left)} for turn in turns]
    rest = list(left)
    texts = [text for turn in chat for text in _texts_of(turn["content"])]
    if not any(map(MARK.search, texts)):
        first = next(turn for turn in chat if turn["role"] == "user")
        if rest:
            first["content"] = [*({"type": "image", "image": image} for image in rest), *_as_parts(first["content"])]
        return chat
    placed = iter(place_in_texts(texts, rest, where))
    for turn in chat:
        parts = [
            filled for part in _as_parts(turn["content"]) for filled in (next(placed) if part["type"] == "text" else [part])
        ]
        has_images = any(part["type"] == "image" for part in parts)
        turn["content"] = parts if has_images or not isinstance(turn["content"], str) else turn["content"]
    return chat


def _as_parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _texts_of(content: str | list[dict[str, Any]]) -> list[str]:
    return [part["text"] for part in _as_parts(content) if part["type"] == "text"]


def _is_chat(messages: Any) -> bool:
    """Tells whether these are turns of text and images with a user turn, ending with the assistant."""
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        return False
    roles = [turn.get("role") for turn in messages]
    contents = [turn.get("content") for turn in messages]
    whole = all(isinstance(c, str) or (isinstance(c, list) and all(map(_is_content_part, c))) for c in contents)
    named = all(role in ("system", "user", "assistant") for role in roles)
    return whole and named and "user" in roles[:-1] and roles[-1] == "assistant" and bool(_content_text(contents[-1]))


def _fill_parts(content: Any, images: Iterator[Any]) -> Any:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for part in content:
        if part.get("type") == "image":
            parts.append({"type": "image", "image": str(part.get("image") or next(images, ""))})
        elif part.get("type") == "image_url":  # OpenAI's notation
            parts.append({"type": "image", "image": str(part["image_url"]["url"])})
        else:
            parts.append({"type": "text", "text": str(part["text"])})
    return parts


def _is_content_part(part: Any) -> bool:
    """Tells whether a content part is a text or an image, in any of the usual notations."""
    if not isinstance(part, dict):
        return False
    link = part.get("image_url")
    as_link = isinstance(link, dict) and isinstance(link.get("url"), str)
    kinds = {"image": True, "image_url": as_link, "text": isinstance(part.get("text"), str)}
    return kinds.get(str(part.get("type")), False)


def _content_text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def tags_balance(answer: str) -> bool:
    """Tells whether thinking opens and closes once, in order, or not at all."""
    opens, closes = answer.count(THINK_OPEN), answer.count(THINK_CLOSE)
    return opens == closes and opens <= 1 and answer.find(THINK_OPEN) <= answer.find(THINK_CLOSE)


def draw_rows(rows: list[TrainExample], ratio: float | None, base: int, seed: int) -> list[TrainExample]:
    """Returns the rows of a `--mix` file: all of them, or `ratio` × `base` drawn by the seed."""
    if ratio is None:
        return rows
    wanted = round(ratio * base)
    return Random(f"mix/{seed}").sample(rows, wanted) if wanted <= len(rows) else rows


def row_texts(row: TrainExample) -> Iterable[str]:
    """Yields every text of a row, to search for control tokens."""
    for message in row.messages:
        content = message["content"]
        yield from ([content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"])
    yield row.answer
