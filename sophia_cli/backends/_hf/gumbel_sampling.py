"""Samples the next token with noise that belongs to the row, and bans tokens that must never be generated.

Gumbel noise is added to the logits, and the largest wins (the Gumbel-max trick, equal in distribution to sampling).
The noise is a function of the row's seed, the position and the token only, so a sample does not depend on the other
rows of its batch.
"""

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper


class GumbelNoise(LogitsProcessor):
    """Adds to each logit the Gumbel noise of (row's seed, position in the answer, token). Shapes: scores B x V.

    Args:
        seeds: The seed of each row.
        starts: The column in which each row's answer starts.
    """

    def __init__(self, seeds: list[int], starts: list[int]):
        self.seeds, self.starts = torch.tensor(seeds, dtype=torch.int64), torch.tensor(starts, dtype=torch.int64)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        positions = input_ids.shape[1] - self.starts.to(scores.device)
        rows = splitmix64(self.seeds.to(scores.device) ^ splitmix64(positions + 1))
        words = splitmix64(torch.arange(scores.shape[1], device=scores.device))
        bits = splitmix64(rows[:, None] ^ words[None, :])
        uniform = ((bits >> 11) & ((1 << 53) - 1)).double().add_(0.5).mul_(2.0**-53)
        return scores.double() - torch.log(-torch.log(uniform))


def splitmix64(bits: torch.Tensor) -> torch.Tensor:
    """The finalizer of SplitMix64 on int64 tensors: a bijection that scatters neighbors (Steele et al., OOPSLA 2014)."""
    bits = bits + -7046029254386353131
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


class BannedTokens(LogitsProcessor):
    """Bans tokens that break later steps: image placeholders, and rows of the embedding table without a token."""

    def __init__(self, banned: list[int]):
        self.banned = banned

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, torch.tensor(self.banned, device=scores.device), -torch.inf)


def logits_processors(
    seeds: list[int], starts: list[int], style: tuple[float, float], banned: list[int]
) -> LogitsProcessorList:
    """Returns what is applied to the logits of rows of one style (temperature, top-p) before the largest wins."""
    temperature, top_p = style
    steps: list[LogitsProcessor] = [BannedTokens(banned)] if banned else []
    if temperature > 0:
        steps.append(TemperatureLogitsWarper(float(temperature)))
        if top_p < 1:
            steps.append(TopPLogitsWarper(float(top_p)))
        steps.append(GumbelNoise(seeds, starts))
    return LogitsProcessorList(steps)


class LogprobRecorder(LogitsProcessor):
    """Applies the other processors and records log µ of the winning tokens, from the model's own logits: B values per
    column.
    """

    def __init__(self, others: LogitsProcessorList):
        self.others = others
        self.columns: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen: torch.Tensor = self.others(input_ids, scores)
        self.columns.append(scores.double().log_softmax(dim=1).gather(1, chosen.argmax(dim=1, keepdim=True))[:, 0])
        return chosen
