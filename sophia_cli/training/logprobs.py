"""log π_θ of supervised tokens without a length × vocabulary matrix in memory.

The last layer scores only the supervised positions, some hundreds at a time, and scores them again in the backward
pass. Memory holds one block of logits, whatever the length.
"""

from typing import Any

import torch

from sophia_cli.training import liger_logprobs
from sophia_cli.training.collator import IGNORE_INDEX
from sophia_cli.training.packing import pack_batch, unpack_values
from sophia_cli.training.sequence_parallel import SequenceParallel

BLOCK_LOGITS = 1 << 27
"""Most logits in memory at a time."""


class _LogProbabilities(torch.autograd.Function):
    """log softmax(h Wᵀ)[target] of S positions. Shapes: h S x D, W V x D, targets S."""

    @staticmethod
    def forward(ctx: Any, hidden_SD: torch.Tensor, weight_VD: torch.Tensor, targets_S: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden_SD, weight_VD, targets_S)
        logps_S = torch.empty(len(hidden_SD), dtype=torch.float32, device=hidden_SD.device)
        for rows in _logit_blocks(hidden_SD, weight_VD):
            logits = _logits(hidden_SD[rows], weight_VD)
            logps_S[rows] = logits.gather(1, targets_S[rows, None])[:, 0] - logits.logsumexp(1)
        return logps_S

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """d logp / d logits is one-hot − softmax."""
        hidden_SD, weight_VD, targets_S = ctx.saved_tensors
        by_hidden = torch.empty_like(hidden_SD) if ctx.needs_input_grad[0] else None
        # Summed over blocks in fp32: in bf16, small gradients of later blocks would be rounded away.
        by_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for rows in _logit_blocks(hidden_SD, weight_VD):
            by_logits = _logits(hidden_SD[rows], weight_VD).softmax(1).neg_()
            by_logits.scatter_add_(1, targets_S[rows, None], torch.ones_like(by_logits[:, :1]))
            by_logits = by_logits.mul_(gradients[0][rows, None]).to(hidden_SD.dtype)
            if by_hidden is not None:
                by_hidden[rows] = by_logits @ weight_VD.to(hidden_SD.dtype)
            if by_weight is not None:
                by_weight += by_logits.T @ hidden_SD[rows]
        return by_hidden, None if by_weight is None else by_weight.to(weight_VD.dtype), None


def _logit_blocks(hidden_SD: torch.Tensor, weight_VD: torch.Tensor) -> list[slice]:
    each = max(1, BLOCK_LOGITS // len(weight_VD))
    return [slice(begin, begin + each) for begin in range(0, len(hidden_SD), each)]


def _logits(hidden_SD: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    # logsumexp over 150,000 words needs fp32.
    return (hidden_SD @ weight_VD.to(hidden_SD.dtype).T).float()


def log_probabilities(
    hidden_BTD: torch.Tensor, weight_VD: torch.Tensor, labels_BT: torch.Tensor, fused: bool = False
) -> torch.Tensor:
    """Returns log π_θ of each next token, B x (T−1), 0 where it is masked. The hidden state at t predicts token t + 1.

    Labels may be longer than the hidden states by one. fused: use Liger's kernel (`liger_logprobs.py`).
    """
    targets = labels_BT[:, 1:]
    mask = targets != IGNORE_INDEX
    hidden_SD = hidden_BTD[:, : targets.shape[1]][mask]
    if torch.is_autocast_enabled(hidden_SD.device.type):
        hidden_SD = hidden_SD.to(torch.get_autocast_dtype(hidden_SD.device.type))
    score = liger_logprobs.log_probabilities if fused and len(hidden_SD) else _LogProbabilities.apply
    logps_S: torch.Tensor = score(hidden_SD, weight_VD, targets[mask])
    return torch.zeros(targets.shape, dtype=logps_S.dtype, device=logps_S.device).masked_scatter(mask, logps_S)


class LogprobHead:
    """Replaces the logits of a policy by log-probabilities, computed in the policy's own last layer.

    It runs inside that layer's call, so that ZeRO-3 gathers its weights as usual.

    Args:
        packs: Rows are concatenated instead of padded (`packing.py`).
        fused: Use Liger's kernel.
        ulysses: The tokens of a row are shared by several processes (`sequence_parallel.py`).
    """

    def __init__(self, policy: Any, packs: bool, fused: bool = False, ulysses: SequenceParallel | None = None):
        self.policy, self.packs, self.ulysses, head = policy, packs, ulysses, policy.get_output_embeddings()
        self.labels_BT = torch.empty(0, 0)
        # Called inside the head's own forward, where ZeRO-3 has gathered its weights.
        head.forward = lambda hidden_BTD: log_probabilities(hidden_BTD, head.weight, self.labels_BT, fused)

    def score_batch(self, model: Any, inputs: dict[str, torch.Tensor], labels_BT: torch.Tensor) -> torch.Tensor:
        """Returns `log_probabilities` of a batch. model: the policy, or what an engine wrapped it in."""
        if self.ulysses:
            part = self._score_batch(model, inputs, self.ulysses.slice_labels(labels_BT))
            return self.ulysses.gather_logps(part, labels_BT.shape[1] - 1)
        if not self.packs or len(labels_BT) == 1:
            return self._score_batch(model, inputs, labels_BT)
        kept_BT = inputs["attention_mask"].bool()
        logps_S = self._score_batch(model, pack_batch(inputs, kept_BT, self.policy), labels_BT[kept_BT][None])[0]
        return unpack_values(torch.nn.functional.pad(logps_S, (1, 0)), kept_BT)[:, 1:]

    def _score_batch(self, model: Any, inputs: dict[str, torch.Tensor], labels_BT: torch.Tensor) -> torch.Tensor:
        self.labels_BT = labels_BT
        logps: torch.Tensor = model(**inputs, use_cache=False).logits
        return logps
