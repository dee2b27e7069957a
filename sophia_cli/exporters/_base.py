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
        system, user: The prompt, without images.
        images: In order: absolute paths, URLs or data URIs; in tables {bytes, path} as `datasets` stores them.
        answer: None for an item without an answer.
        weight: The weight of the answer.
        rejected: The wrong answer of a preference pair.
        model: The model to ask (`--model`).
    """

    record: Record
    name: str
    system: str
    user: str
    images: list[Any]
    answer: str | None = None
    weight: float = 1.0
    rejected: str | None = None
    model: str = ""

    @property
    def prompt_messages(self) -> list[dict[str, str]]:
        """The turns before the answer, without images."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]

    @property
    def prompt_with_placeholders(self) -> list[dict[str, str]]:
        """The turns before the answer with `<image>` for each image: before the question, unless the question places
        them.

        Raises:
            RecordError: the placeholders in a text do not match its images.
        """
        count = self.user.count(IMAGE_PLACEHOLDER)
        texts = [text for text in (self.user, self.answer, self.rejected) if text]
        if other := next((mark for mark in OTHER_PLACEHOLDERS for text in texts if mark in text), None):
            fault = f"a text contains {other}, a placeholder of this format"
            raise RecordError(f"{where_of(self.record)}: {fault}; fix the text")
        if count not in (0, len(self.images)) or any(
            IMAGE_PLACEHOLDER in (text or "") for text in (self.answer, self.rejected)
        ):
            fault = f"a text contains {IMAGE_PLACEHOLDER}, the image placeholder of this format"
            raise RecordError(f"{where_of(self.record)}: {fault}, and there are {len(self.images)} images; fix the text")
        marks = "" if count else IMAGE_PLACEHOLDER * len(self.images)
        return [*self.prompt_messages[:-1], {"role": "user", "content": marks + self.user}]


def assistant_turn(text: str | None, **more: Any) -> dict[str, Any]:
    """Returns the assistant's turn."""
    return {"role": "assistant", "content": text, **more}


def conversation_columns(example: ExportExample) -> dict[str, Any]:
    """Returns the record's own fields with its images in `images` and the conversation in `messages`.

    Columns of the user with these names become `own_images` and `own_messages`.
    """
    taken = ("images", "messages")
    own = {f"own_{name}" if name in taken else name: value for name, value in example.record.items() if name != "image"}
    return {**own, "images": example.images, "messages": [*example.prompt_messages, assistant_turn(example.answer)]}
