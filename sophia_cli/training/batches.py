"""Rows to tokens: input ids, and labels that supervise the answer's own tokens and its end token alone."""

from dataclasses import dataclass
from typing import Any

import torch

from sophia_cli.errors import RecordError
from sophia_cli.images import open_image
from sophia_cli.records import THINK_OPEN
from sophia_cli.training.rows import Row, tags_balance, texts_of

IGNORED = -100
"""The label of a token that is not supervised."""


@dataclass(frozen=True)
class Example:
    """One row in tokens: ids and labels (T each), pixels (tiles x 3 x H x W) or None, and the weight."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None
    weight: float


class Left(Exception):
    """Why a row is left out whole: its cause, in words that can be counted."""


class Encoder:
    """Turns rows into examples with a policy's processor. Images are opened anew each time: pixels are not kept."""

    def __init__(self, processor: Any, max_length: int):
        self.processor, self.tokenizer, self.max_length = processor, processor.tokenizer, max_length
        names = ("image_token", "start_image_token", "end_image_token", "video_token")
        self.placeholders = {token for name in names if isinstance(token := getattr(processor, name, None), str)}
        self.controls = set(self.tokenizer.all_special_tokens) - self.placeholders
        self.end = _end_of_turn(self.tokenizer)

    def encode(self, row: Row) -> Example:
        """The row in tokens. Raises Left with the cause when it cannot be trained on whole."""
        self._check_texts(row)
        try:
            images = [open_image(image) for image in row.images]
        except RecordError as error:
            raise Left("image does not open") from error
        prompt = self.tokenizer.apply_chat_template(row.messages, add_generation_prompt=True, tokenize=False)
        answer = row.answer
        if prompt.rstrip().endswith(THINK_OPEN):  # the template has opened the thinking
            answer = answer.removeprefix(THINK_OPEN).lstrip("\n")
        inputs = self.processor(images=images or None, text=[prompt], return_tensors="pt")
        prompt_ids = inputs["input_ids"][0]
        answer_ids = torch.tensor([*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.end])
        if len(prompt_ids) + len(answer_ids) > self.max_length:
            raise Left("too long")
        labels = torch.cat([torch.full_like(prompt_ids, IGNORED), answer_ids])
        return Example(torch.cat([prompt_ids, answer_ids]), labels, inputs.get("pixel_values"), row.weight)

    def _check_texts(self, row: Row) -> None:
        texts = list(texts_of(row))
        if any(token in text for token in self.placeholders for text in texts):
            raise Left("image placeholder in the text")
        if any(token in text for token in self.controls for text in texts):
            raise Left("control token in the text")
        if not row.answer.strip():
            raise Left("empty answer")
        if not tags_balance(row.answer):
            raise Left("unbalanced thinking tags")

    def collate(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """A batch, padded on the right: input_ids, attention_mask, labels (B x T), weights (B), pixel_values if any."""
        examples = [self.encode(row) for row in rows]
        longest = max(len(example.input_ids) for example in examples)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.end
        batch = {
            "input_ids": torch.stack([_padded(example.input_ids, longest, pad) for example in examples]),
            "attention_mask": torch.stack([_padded(torch.ones_like(example.input_ids), longest, 0) for example in examples]),
            "labels": torch.stack([_padded(example.labels, longest, IGNORED) for example in examples]),
            "weights": torch.tensor([example.weight for example in examples]),
        }
        pixels = [example.pixel_values for example in examples if example.pixel_values is not None]
        return {**batch, "pixel_values": torch.cat(pixels)} if pixels else batch


def _padded(values: torch.Tensor, length: int, fill: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)), value=fill)


def _end_of_turn(tokenizer: Any) -> int:
    """The token that ends the assistant's turn: the chat template's own, else the tokenizer's end token."""
    probe = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "\x00"}]
    tail = tokenizer.apply_chat_template(probe, tokenize=False).rpartition("\x00")[2].strip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    return int(ids[0]) if ids and ids[0] in tokenizer.all_special_ids else int(tokenizer.eos_token_id)
