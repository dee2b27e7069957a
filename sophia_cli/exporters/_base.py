"""What an exporter gets: one example with its images ready to be written, and helpers for chats.

An exporter is a file that defines:

- `OUTPUT_KIND`: `lines` (JSONL), `folder` (JSONL with extra files), `table` (one parquet file) or `hub` (a folder of
  parquet)
- `SOURCE_KIND`: `trajectories` (the kept ones), `pairs` (correct and wrong), `items` (each once), or `any` (kept
  trajectories, or items where there are none)
- `EMBEDS_IMAGES`: whether images are embedded by default. `ALLOWS_PATHS = False`: they may not be written as paths
- `row_fields(example)`: a row
- optionally `TYPED_COLUMNS` (tables), `FILE_NAME` and `EXTRA_FILES` (folders)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sophia_cli.errors import RecordError
from sophia_cli.records import Record, where_of

IMAGE_PLACEHOLDER = "<image>"
OTHER_PLACEHOLDERS = ("<video>", "<audio>")
"""Placeholders of media that these rows do not have."""


@dataclass(frozen=True)
class ExportExample:
    """One row to write.

    Attributes:
        record: The record it is made of.
        name: Its id.
        system: The system prompt.
        content: The user's turn, images in their places: parts as in `place_images`. An image is a path, URL or data
            URI; in tables {bytes, path} as `datasets` stores it.
        answer: None for an item without an answer.
        weight: The weight of the answer.
        rejected: The wrong answer of a preference pair.
        model: The model to ask (`--model`).
        as_parts: Every turn is a list of parts: a column of a data set cannot hold texts and lists, so the whole file has
            them where one row needs them.
    """

    record: Record
    name: str
    system: str
    content: list[dict[str, Any]]
    answer: str | None = None
    weight: float = 1.0
    rejected: str | None = None
    model: str = ""
    as_parts: bool = False

    @property
    def images(self) -> list[Any]:
        """The images in the order of their places."""
        return [part["image"] for part in self.content if part["type"] == "image"]

    @property
    def prompt_messages(self) -> list[dict[str, Any]]:
        """The turns before the answer for trainers that fill in `images`: they put images before a user's text, and at the
        image parts of a user's list of parts.
        """
        system = [self._turn("system", self.system)] if self.system else []
        if not self.as_parts:
            return [*system, {"role": "user", "content": "".join(p["text"] for p in self.content if p["type"] == "text")}]
        parts = [{"type": "image"} if part["type"] == "image" else part for part in self.content]
        return [*system, {"role": "user", "content": parts}]

    def answer_turn(self, text: str | None) -> dict[str, Any]:
        """The assistant's turn, beside `prompt_messages`."""
        return self._turn("assistant", text)

    def _turn(self, role: str, text: str | None) -> dict[str, Any]:
        as_list = self.as_parts and text is not None
        return {"role": role, "content": [{"type": "text", "text": text}] if as_list else text}

    @property
    def prompt_with_placeholders(self) -> list[dict[str, str]]:
        """The turns before the answer, with `<image>` in the place of each image.

        Raises:
            RecordError: a text contains a placeholder of this format.
        """
        texts = [part["text"] for part in self.content if part["type"] == "text"] + [self.answer or "", self.rejected or ""]
        for mark in (IMAGE_PLACEHOLDER, *OTHER_PLACEHOLDERS):
            if any(mark in text for text in texts):
                fault = f"a text contains {mark}, a placeholder of this format"
                raise RecordError(f"{where_of(self.record)}: {fault}; fix the text")
        user = "".join(IMAGE_PLACEHOLDER if part["type"] == "image" else part["text"] for part in self.content)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": user}]


def has_inner_images(content: Sequence[Mapping[str, Any]]) -> bool:
    """Tells whether an image is after a text, so that a trainer must be told the places of the images."""
    kinds = [part["type"] for part in content]
    return "image" in kinds[kinds.index("text") :] if "text" in kinds else False


def assistant_turn(text: str | None, **more: Any) -> dict[str, Any]:
    """Returns the assistant's turn."""
    return {"role": "assistant", "content": text, **more}


def conversation_columns(example: ExportExample) -> dict[str, Any]:
    """Returns the record's own fields with its images in `images` and the conversation in `messages`.

    Columns of the user with these names become `own_images` and `own_messages`.
    """
    taken = ("images", "messages")
    own = {f"own_{name}" if name in taken else name: value for name, value in example.record.items() if name != "image"}
    return {**own, "images": example.images, "messages": [*example.prompt_messages, example.answer_turn(example.answer)]}
