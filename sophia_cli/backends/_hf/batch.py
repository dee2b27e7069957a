"""The batch of the hf backend: finished rows leave, and new rows take their places.

Rows are padded on the left, so that all rows write their next token into the same column, whenever they joined. The
positions of a row are counted over its own tokens. When the rows that need most columns leave, these columns are
removed.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer

from sophia_cli.backends._hf.cpu_attention import GrowingCacheLayer
from sophia_cli.inference.types import Job

MAX_PADDING_FACTOR = 4
"""A batch holds at most this many times the tokens of its rows, padding included."""


@dataclass
class Batch:
    """Jobs in progress, one row each.

    Attributes:
        ids, mask: B x T, prompt and answer. The cache holds T - 1 positions per row.
        prompts: Tokens of each prompt.
        starts: The column where each answer starts.
        limits: The most tokens of each answer.
        extra: Image inputs of models whose prompts are not encoded yet.
        logprobs: Log-probability of each answer so far, if requested.
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
        """Returns the number of rows."""
        return len(self.jobs)

    @property
    def width(self) -> int:
        """Number of columns: T."""
        return self.ids.shape[1]

    @property
    def sampling_style(self) -> tuple[float, float]:
        """Temperature and top-p of all rows."""
        return job_style(self.jobs[0])

    @property
    def can_join(self) -> bool:
        """Whether rows may join. Sliding caches and caches of other state cannot be padded."""
        return bool(self.cache.layers) and all(
            type(layer) in (DynamicLayer, GrowingCacheLayer) for layer in self.cache.layers
        )

    def has_room_for(self, rows: int, tokens: int) -> bool:
        """Tells whether this many rows may join, if their answers have this many tokens in total.

        Padded to its longest row, the batch holds at most MAX_PADDING_FACTOR times its tokens. A very long answer
        finishes with the rows beside it, and no other rows are padded to its length.
        """
        held = int(self.mask.sum()) + rows * (sum(self.prompts) // len(self) + tokens)
        return self.can_join and (len(self) + rows) * self.width <= MAX_PADDING_FACTOR * held

    def tokens_until_full(self, context: int) -> int:
        """Returns the tokens until the first row reaches the end of the model's context."""
        return min(start + context - prompt for start, prompt in zip(self.starts, self.prompts, strict=True)) - self.width

    @property
    def max_tokens_left(self) -> int:
        """Returns the tokens until the last row reaches its limit."""
        return max(start + limit for start, limit in zip(self.starts, self.limits, strict=True)) - self.width

    def join_rows(self, other: "Batch") -> None:
        """Appends the rows of another batch of the same style. Both must be able to join."""
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
        """Appends generated tokens. Shape: B x T', the ids so far and the new ones after them."""
        self.mask = pad(self.mask, (0, ids.shape[1] - self.width), value=1)
        self.ids = ids

    def add_logprobs(self, logps: list[torch.Tensor], ends: list[int]) -> None:
        """Adds log µ of the last tokens, up to each row's end token or limit. Called after `append_tokens`.

        Args:
            logps: B values for each new column.
            ends: The end tokens.
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
        """Keeps these rows and the columns that they need. They are copied, so that memory is freed."""
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
    """Returns what the rows of a batch have in common: temperature and top-p."""
    return job.request.sampling.temperature, job.request.sampling.top_p
