"""The collator: turns rows into token ids and labels, and batches them. Labels supervise the answer and its end token
only (the loss mask).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from sophia_cli.errors import RecordError
from sophia_cli.io.images import open_image
from sophia_cli.records import THINK_CLOSE, THINK_OPEN, check_surrogates
from sophia_cli.training.examples import TrainExample, row_texts, tags_balance

IGNORE_INDEX = -100
"""The label of a token that is masked out of the loss."""
BLANK_IMAGE_SIZE = 56
"""Width and height of a blank image in pixels: a whole merged patch of any family."""


@dataclass(frozen=True)
class TokenizedExample:
    """One row in tokens.

    Attributes:
        input_ids, labels: T each.
        by_token: Processor inputs with one value per token (T).
        weight: The weight of the row.
        behavior_logp: log µ of the whole answer; NaN where it is unknown.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    by_token: dict[str, torch.Tensor]
    weight: float
    behavior_logp: float

    @property
    def supervised_tokens(self) -> int:
        """The number of tokens that the row is trained on."""
        return int((self.labels != IGNORE_INDEX).sum())


class SkippedExample(Exception):
    """Why a row is skipped: a cause that can be counted, and a detail."""

    def __init__(self, cause: str, more: str = ""):
        super().__init__(cause, more)
        self.cause, self.detail = cause, more

    def __str__(self) -> str:
        return f"{self.cause}: {self.detail}" if self.detail else self.cause


def rows_changed_error(rows: list[TrainExample], reason: SkippedExample) -> str:
    """Returns the message for rows that were trainable when the run was planned and no longer are."""
    names = ", ".join(row.name for row in rows)
    return f"{names}: {reason}, but not when training was planned; fix it and run the command again"


class Collator:
    """Tokenizes rows with the policy's processor. Images are opened each time; pixels are not kept."""

    def __init__(self, processor: Any, max_length: int):
        self.processor, self.tokenizer, self.max_length = processor, processor.tokenizer, max_length
        names = ("image_token", "start_image_token", "end_image_token", "video_token")
        self.placeholders = {token for name in names if isinstance(token := getattr(processor, name, None), str)}
        self.control_tokens = set(self.tokenizer.all_special_tokens) - self.placeholders
        self.end_token = _end_of_turn(self.tokenizer)
        if self.tokenizer.pad_token_id is None:  # any token will do: padding is never attended to
            self.tokenizer.pad_token_id = self.end_token

    def encode_row(self, row: TrainExample) -> TokenizedExample:
        """Tokenizes a row.

        Raises:
            SkippedExample: it cannot be trained on as a whole.
        """
        ((example,), _) = self.encode_rows([row])
        return example

    def encode_rows(self, rows: list[TrainExample]) -> tuple[list[TokenizedExample], dict[str, torch.Tensor]]:
        """Tokenizes rows. Returns them and the processor's inputs for all their images, in order.

        The processor is called once for all rows, because a call costs as much for one row as for several.

        Raises:
            SkippedExample: a row cannot be trained on as a whole.
        """
        for row in rows:
            self._check_control_tokens(row)
        try:
            images = [open_image(image) for row in rows for image in row.images]
        except RecordError as error:
            raise SkippedExample("image does not open", str(error)) from error
        several = {"padding": True, "padding_side": "right"} if len(rows) > 1 else {}
        try:
            prompts = [
                self.tokenizer.apply_chat_template(row.messages, add_generation_prompt=True, tokenize=False) for row in rows
            ]
            inputs = self.processor(images=images or None, text=list(prompts), return_tensors="pt", **several)
        except Exception as error:
            raise SkippedExample("refused by the processor", str(error) or type(error).__name__) from error
        answers = [answer_after_prompt(prompt, row.answer) for prompt, row in zip(prompts, rows, strict=True)]
        # Prompt and answer are tokenized apart, so that no token spans the border of the loss mask.
        answer_ids = self.tokenizer(answers, add_special_tokens=False)["input_ids"]
        by_token, by_image = _other_inputs(inputs)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        examples = []
        for index, (row, length, answer) in enumerate(zip(rows, lengths, answer_ids, strict=True)):
            # The processor expands each image placeholder, so the prompt's length is known only after it.
            prompt_ids = inputs["input_ids"][index, :length]
            others = {name: values[index, :length] for name, values in by_token.items()}
            end = [] if row.item is not None else [*answer, self.end_token]  # the policy answers a question itself
            examples.append(self._make_example(row, prompt_ids, others, torch.tensor(end, dtype=torch.long)))
        return examples, by_image

    def _make_example(
        self, row: TrainExample, prompt_ids: torch.Tensor, by_token: dict[str, torch.Tensor], answer_ids: torch.Tensor
    ) -> TokenizedExample:
        total = len(prompt_ids) + len(answer_ids)
        if total > self.max_length:
            raise SkippedExample("too long")
        labels = torch.cat([torch.full_like(prompt_ids, IGNORE_INDEX), answer_ids])
        behavior_logp = math.nan if row.behavior_logp is None else row.behavior_logp
        whole = {name: _pad_right(values, total, 0) for name, values in by_token.items()}
        return TokenizedExample(torch.cat([prompt_ids, answer_ids]), labels, whole, row.weight, behavior_logp)

    def _check_control_tokens(self, row: TrainExample) -> None:
        texts = list(row_texts(row))
        try:
            for text in texts:
                check_surrogates(text)
        except RecordError as error:
            raise SkippedExample("half of a surrogate pair", str(error)) from None
        if any(token in text for token in self.placeholders for text in texts):
            raise SkippedExample("image placeholder in the text")
        if any(token in text for token in self.control_tokens for text in texts):
            raise SkippedExample("control token in the text")
        if not row.answer.strip() and row.item is None:
            raise SkippedExample("empty answer")
        if not tags_balance(row.answer):
            raise SkippedExample("unbalanced thinking tags")

    def collate(self, rows: list[TrainExample], sees: bool = False, filler: bool = False) -> dict[str, torch.Tensor]:
        """Returns a batch padded on the right: input_ids, attention_mask, labels (B x T), weights and behavior_logp (B),
        and images.

        Args:
            rows: The rows.
            sees: Give a batch without images a blank one, behind the end of a row, where no supervised token sees it.
                The vision tower
                then runs on every rank, so that no rank waits for the others under ZeRO-3.
            filler: Mask everything.
        """
        examples, by_image = self.encode_rows(rows)
        if sees and not by_image:
            examples[0], by_image = self._with_blank_image(examples[0]), self.blank_image[2]
        longest = max(len(example.input_ids) for example in examples)
        labels = torch.stack([_pad_right(example.labels, longest, IGNORE_INDEX) for example in examples])
        rows_ids = [example.input_ids for example in examples]
        batch = {
            "input_ids": torch.stack([_pad_right(ids, longest, self.tokenizer.pad_token_id) for ids in rows_ids]),
            "attention_mask": torch.stack([_pad_right(torch.ones_like(ids), longest, 0) for ids in rows_ids]),
            "labels": torch.full_like(labels, IGNORE_INDEX) if filler else labels,
            "weights": torch.tensor([example.weight for example in examples]),
            "behavior_logp": torch.tensor([example.behavior_logp for example in examples], dtype=torch.float64),
        }
        for name in {name for example in examples for name in example.by_token}:
            nothing = torch.zeros(0, dtype=torch.long)
            batch[name] = torch.stack([_pad_right(example.by_token.get(name, nothing), longest, 0) for example in examples])
        return {**batch, **by_image}

    def _with_blank_image(self, example: TokenizedExample) -> TokenizedExample:
        """Appends the tokens of a blank image to an example, where no supervised token sees them."""
        ids, by_token, _ = self.blank_image
        names = {*example.by_token, *by_token}
        none = torch.zeros_like(example.input_ids)
        return replace(
            example,
            input_ids=torch.cat([example.input_ids, ids]),
            labels=torch.cat([example.labels, torch.full_like(ids, IGNORE_INDEX)]),
            by_token={
                name: torch.cat([example.by_token.get(name, none), by_token.get(name, torch.zeros_like(ids))])
                for name in names
            },
        )

    @cached_property
    def blank_image(self) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Returns a blank image: its token ids, and the processor's other inputs by token and by image."""
        turn = [{"role": "user", "content": [{"type": "image"}]}]
        text = self.tokenizer.apply_chat_template(turn, tokenize=False)
        inputs = self.processor(
            images=[Image.new("RGB", (BLANK_IMAGE_SIZE, BLANK_IMAGE_SIZE))], text=[text], return_tensors="pt"
        )
        ids = inputs["input_ids"][0]
        image_positions = ids == self.processor.image_token_id
        by_token, by_image = _other_inputs(inputs)
        return ids[image_positions], {name: values[0][image_positions] for name, values in by_token.items()}, by_image


def answer_after_prompt(prompt: str, answer: str) -> str:
    """Returns the part of an answer that follows the prompt. If the template opens `<think>`, an answer without thinking
    closes it at once.
    """
    if not prompt.rstrip().endswith(THINK_OPEN):
        return answer
    thinking = answer.lstrip()
    if not thinking.startswith(THINK_OPEN):
        return f"\n{THINK_CLOSE}\n\n{thinking}" if thinking else answer
    return thinking.removeprefix(THINK_OPEN).lstrip("\n")


def _other_inputs(inputs: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Splits a processor's inputs beside ids and mask into those by token and those by image."""
    shape = inputs["input_ids"].shape
    others = {name: values for name, values in inputs.items() if name not in ("input_ids", "attention_mask")}
    by_token = {name: values for name, values in others.items() if values.shape[:2] == shape and values.dtype == torch.long}
    return by_token, {name: values for name, values in others.items() if name not in by_token}


def _pad_right(values: torch.Tensor, length: int, fill: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)), value=fill)


def _end_of_turn(tokenizer: Any) -> int:
    """Returns the token that ends the assistant's turn: the chat template's own, else the tokenizer's end token."""
    probe = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "\x00"}]
    tail = tokenizer.apply_chat_template(probe, tokenize=False).rpartition("\x00")[2].strip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    return int(ids[0]) if ids and ids[0] in tokenizer.all_special_ids else int(tokenizer.eos_token_id)
