"""Images in text: a question may say with marks where its images are (contract.md, "Images in text").

Every step that shows a question to a vision model, training and every export use `place_images`, so the prompt that is
trained is the prompt that is asked. A reasoner, which sees no image, gets `without_marks`.
"""

import re
from collections.abc import Sequence
from typing import Any

from sophia_cli.errors import RecordError

# <image>, <image1>, <image 1>, <image_1>, <img1>, <img_1>, <img_a2f>, and Phi's <|image_1|>. Not InternVL's own
# <IMG_CONTEXT>, nor Llama's <|image|>: models refuse their placeholders in a text.
MARK = re.compile(r"(?i:<image(?:[ _:]?(\d{1,3}))?\s?/?>|<img(\d{1,3})>)|<img_([A-Za-z0-9_-]{1,40})>|<\|image_(\d{1,3})\|>")

_HAN = re.compile(r"[\u4e00-\u9fff]")


def place_images(text: str, images: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """Returns a text and its images as parts of a chat message, each image where its mark is.

    Plain marks (`<image>`) are the images in order, and there must be as many. Numbered marks name an image, from 1 or
    from 0; images that no mark names come first, as all images do in a text without marks.

    Args:
        text: The text, with or without marks.
        images: References, or whatever an export writes for an image.
        where: Where the text was read, for errors.

    Raises:
        RecordError: the marks do not fit the images.
    """
    return place_in_texts([text], images, where)[0]


def place_in_texts(texts: Sequence[str], images: Sequence[Any], where: str) -> list[list[dict[str, Any]]]:
    """Returns the parts of several texts that share images, such as the turns of a chat. Images that no mark names come
    before the first text.

    Raises:
        RecordError: the marks do not fit the images.
    """
    indexes = _marked_images("".join(texts), len(images), where)
    left = iter(indexes)
    placed = []
    for text in texts:
        marks = list(MARK.finditer(text))
        end, plain, parts = 0, not any(map(_mark_name, marks)), []
        for mark in marks:
            parts += [*_text_part(text[end : mark.start()], plain), _image_part(images[next(left)])]
            end = mark.end()
        placed.append(parts + _text_part(text[end:], plain))
    unmarked = [_image_part(image) for index, image in enumerate(images) if index not in indexes]
    return [unmarked + placed[0], *placed[1:]]


def _mark_name(mark: re.Match[str]) -> str:
    """Returns the number or name in a mark; an empty text for `<image>`."""
    return next((name for name in mark.groups() if name), "")


def without_marks(text: str, images: int) -> str:
    """Returns the text for a model that sees no image. A mark within a sentence becomes words."""
    found = list(MARK.finditer(text))
    if not found:
        return text
    try:
        indexes = _marked_images(text, images, "")
    except RecordError:  # a step that shows the images names it
        indexes = list(range(len(found)))
    parts, end = [], 0
    for mark, index in zip(found, indexes, strict=True):
        within = _is_within_sentence(MARK.sub("", text[: mark.start()]), MARK.sub("", text[mark.end() :]))
        before = text[: mark.start()].rstrip()
        named, numbered = ("图片", f"图片{index + 1}") if _HAN.match(before[-1:]) else ("the image", f"image {index + 1}")
        word = "" if not within else named if images <= 1 else numbered
        parts += [text[end : mark.start()], word]
        end = mark.end()
    return "".join([*parts, text[end:]]).strip()


def _is_within_sentence(before: str, after: str) -> bool:
    """Tells whether a mark between these texts stands for a noun. Otherwise it only says that the image is there: alone on
    its line, before the first sentence, or after the last.
    """
    if (not before.strip() or before.endswith("\n")) and not re.match(r" ?[a-z,]", after):
        return False
    return bool(after.strip()) or not before.rstrip().endswith((".", "?", "!", ":", "。", "？", "！", "："))


def _marked_images(text: str, count: int, where: str) -> list[int]:
    """Returns the index of the image that each mark names."""
    names = [_mark_name(match) for match in MARK.finditer(text)]
    if not names:
        return []
    numbers = [int(name) for name in names if name.isdigit()]
    if len(numbers) == len(names):
        first = 0 if 0 in numbers else 1
        if max(numbers) - first < count:
            return [number - first for number in numbers]
        fault = f"<image {max(numbers)}> is marked"
    elif not numbers and not any(names):
        if len(names) == count:
            return list(range(count))
        fault = f"{len(names)} images are marked"
    else:
        # <img_a2f>: each name is an image, in the order of their first marks.
        distinct = list(dict.fromkeys(names))
        if not numbers and all(names) and len(distinct) == count:
            return [distinct.index(name) for name in names]
        fault = f"{len(distinct)} images are marked in several ways"
    raise RecordError(f"{where}: {fault} in the text, and there are {count} images; fix the marks or `image`")


def _image_part(image: Any) -> dict[str, Any]:
    return {"type": "image", "image": image}


def _text_part(text: str, plain: bool) -> list[dict[str, Any]]:
    """Returns a piece of text as a part. A line break beside a plain mark belongs to the mark (`<image>\\nHow many?`): the
    chat template separates image and text.
    """
    text = text.strip("\n") if plain else text
    return [{"type": "text", "text": text}] if text.strip() else []
