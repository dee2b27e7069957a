"""The rows that a model in this process writes at once: those that have ended leave, and others join in their places.

Rows are padded on the left, so that all write their next token in one column, whenever they came; a row's positions are
counted over its own tokens. When those that need most columns leave, the columns go, too.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer

from sophia_cli.backends._hf.cpu_attention import GrowingCacheLayer
from sophia_cli.inference.types import Job

MAX_PADDING_FACTOR = 4


@dataclass
class Batch:
    """Jobs under way, a row each. Shapes: ids and mask B x T (prompt and answer); the cache holds T - 1 positions a row.

    prompts: tokens of each prompt; starts: the column where each answer starts; limits: its most tokens. extra: the images'
    part of the inputs, of models whose prompts are not encoded yet. logprobs: of each answer so far, where asked for.
    """

    jobs: list[Job]
    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any
    prompts: list[int]
    starts: list[int]
    limits: list[int]
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    logprobs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.logprobs = self.logprobs or [0.0] * len(self.jobs)

    def __len__(self) -> int:
        """Rows under way."""
        return len(self.jobs)

    @property
    def width(self) -> int:
        """Columns: T."""
        return self.ids.shape[1]

    @property
    def sampling_style(self) -> tuple[float, float]:
        """Temperature and top-p of all rows."""
        return job_style(self.jobs[0])

    @property
    def can_join(self) -> bool:
        """Whether rows may join: caches that slide or hold states of another kind cannot be padded."""
        return bool(self.cache.layers) and all(
            type(layer) in (DynamicLayer, GrowingCacheLayer) for layer in self.cache.layers
        )

    def has_room_for(self, rows: int, tokens: int) -> bool:
        """Whether so many rows may join, if their answers come to so many tokens.

        Padded to its longest row, the batch is held at no more than `PADDED` times the tokens in it: a very long answer ends
        with those beside it, and does not have others padded to its length.
        """
        held = int(self.mask.sum()) + rows * (sum(self.prompts) // len(self) + tokens)
        return self.can_join and (len(self) + rows) * self.width <= MAX_PADDING_FACTOR * held

    def tokens_until_full(self, context: int) -> int:
        """Tokens until the first row has reached the end of the model's context."""
        return min(start + context - prompt for start, prompt in zip(self.starts, self.prompts, strict=True)) - self.width

    @property
    def max_tokens_left(self) -> int:
        """Tokens until the last row has reached its limit."""
        return max(start + limit for start, limit in zip(self.starts, self.limits, strict=True)) - self.width

    def join_rows(self, other: "Batch") -> None:
        """Takes in the rows of another batch of the same style; both must be ones that `joins`."""
        width = max(self.width, other.width)
        self._pad_left(width - self.width)
        other._pad_left(width - other.width)
        self.ids, self.mask = torch.cat([self.ids, other.ids]), torch.cat([self.mask, other.mask])
        for layer, more in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.keys, layer.values = torch.cat([layer.keys, more.keys]), torch.cat([layer.values, more.values])
        self.jobs, self.prompts = self.jobs + other.jobs, self.prompts + other.prompts
        self.starts, self.limits = self.starts + other.starts, self.limits + other.limits
        self.logprobs += other.logprobs

    def _pad_left(self, columns: int) -> None:
        """Pads every row on the left."""
        if columns:
            self.ids, self.mask = pad(self.ids, (columns, 0)), pad(self.mask, (columns, 0))
            for layer in self.cache.layers:
                layer.keys, layer.values = pad(layer.keys, (0, 0, columns, 0)), pad(layer.values, (0, 0, columns, 0))
            self.starts = [start + columns for start in self.starts]

    def append_tokens(self, ids: torch.Tensor) -> None:
        """Notes what the model wrote. Shape: B x T', the ids so far and the new ones after them."""
        self.mask = pad(self.mask, (0, ids.shape[1] - self.width), value=1)
        self.ids = ids

    def add_logprobs(self, logps: list[torch.Tensor], ends: list[int]) -> None:
        """Adds log µ of what was written last, up to each row's end token or limit; to be called after `append`.

        logps: of each new column, B.
        """
        begin = self.width - len(logps)
        going = torch.ones(len(self), dtype=torch.bool, device=self.ids.device)
        full = torch.tensor([start + limit for start, limit in zip(self.starts, self.limits, strict=True)])
        sums = torch.zeros(len(self), dtype=torch.float64, device=self.ids.device)
        for column, column_logps in enumerate(logps, begin):
            going &= (full > column).to(going.device)
            said = self.ids[:, column]
            sums += torch.where(going, column_logps, 0.0)
            going &= ~torch.isin(said, torch.tensor(ends, device=said.device))
        self.logprobs = [before + more for before, more in zip(self.logprobs, sums.tolist(), strict=True)]

    def keep_rows(self, rows: list[int]) -> None:
        """Lets all other rows go, and the columns that only they needed; what is kept is copied, so that memory is freed."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.ids.device)
        self.jobs, self.prompts = [self.jobs[row] for row in rows], [self.prompts[row] for row in rows]
        self.starts, self.limits = [self.starts[row] for row in rows], [self.limits[row] for row in rows]
        self.logprobs = [self.logprobs[row] for row in rows]
        self.ids, self.mask = self.ids[index], self.mask[index]
        if not rows:
            return
        if not self.can_join:
            self.cache.batch_select_indices(index)
            return
        first = int(self.mask.any(dim=0).int().argmax())
        self.ids, self.mask = self.ids[:, first:], self.mask[:, first:]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, first:][index], layer.values[:, :, first:][index]
        self.starts = [start - first for start in self.starts]


def job_style(job: Job) -> tuple[float, float]:
    """What the rows of one batch have in common: temperature and top-p."""
    return job.request.sampling.temperature, job.request.sampling.top_p
