"""What an exporter is given: one example, with its images ready to go out, and helpers for chats as others write them.

An exporter is a file with
- `OUTPUT_KIND`: `lines` (JSONL), `folder` (JSONL with files beside it), `table` (one parquet file), `hub` (a folder of parquet);
- `SOURCE_KIND`: `trajectories` (those that are kept), `pairs` (right and wrong ones of an item), `items` (each once) or `any` (kept
  trajectories, or items where there are none);
- `EMBEDS_IMAGES`: whether images go out embedded unless the user says otherwise; `ALLOWS_PATHS = False`: they may not go out by path;
- `fields(example)`: a row.
"""

from dataclasses import dataclass
from typing import Any

from sophia_cli.errors import RecordError
from sophia_cli.records import Record, where_of

IMAGE_PLACEHOLDER = "<image>"
OTHER_PLACEHOLDERS = ("<video>", "<audio>")
"""What stands for media that these rows do not have."""


@dataclass(frozen=True)
class ExportExample:
    """One row to be: the record it is made of, the chat before the answer, and the answer with its weight.

    images, in order: absolute paths, URLs or data URIs; in tables {bytes, path} as `datasets` stores them. answer: None for
    an item that nobody answered. rejected: the answer of a wrong trajectory of the same item, in preference data. model:
    who is to be asked (`--model`).
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
        """The turns before the answer, images not in them."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]

    @property
    def prompt_with_placeholders(self) -> list[dict[str, str]]:
        """The turns before the answer with `<image>` where an image stands: before the question, unless it says where.

        Raises RecordError where the marks in a text are not those of its images.
        """
        count = self.user.count(IMAGE_PLACEHOLDER)
        texts = [text for text in (self.user, self.answer, self.rejected) if text]
        if other := next((mark for mark in OTHER_PLACEHOLDERS for text in texts if mark in text), None):
            fault = f"a text holds {other}, which stands for a file in this format"
            raise RecordError(f"{where_of(self.record)}: {fault}; mend the text")
        if count not in (0, len(self.images)) or any(
            IMAGE_PLACEHOLDER in (text or "") for text in (self.answer, self.rejected)
        ):
            fault = f"a text holds {IMAGE_PLACEHOLDER}, which stands for an image in this format"
            raise RecordError(f"{where_of(self.record)}: {fault}; there are {len(self.images)}; mend the text")
        marks = "" if count else IMAGE_PLACEHOLDER * len(self.images)
        return [*self.prompt_messages[:-1], {"role": "user", "content": marks + self.user}]


def assistant_turn(text: str | None, **more: Any) -> dict[str, Any]:
    """The turn of the model."""
    return {"role": "assistant", "content": text, **more}


def conversation_columns(example: ExportExample) -> dict[str, Any]:
    """The record's own fields, with its images in `images`, and the conversation in `messages`.

    Columns of the user's that have these names go out as `own_images` and `own_messages`.
    """
    taken = ("images", "messages")
    own = {f"own_{name}" if name in taken else name: value for name, value in example.record.items() if name != "image"}
    return {**own, "images": example.images, "messages": [*example.prompt_messages, assistant_turn(example.answer)]}
