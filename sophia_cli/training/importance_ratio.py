"""Measures the assumption of Lemma A.3: log π_θ(y) − log µ(y) over the kept trajectories.

The lemma bounds the bias of taking the ratio as 1 by δ where |π_θ/µ − 1| ≤ δ. µ is the reasoner that saw the caption,
and its log-probability is over its own tokens; that of π_θ is over the policy's tokens. The text is the same, the
tokens may differ. So totals are compared as they are, and per token by the policy's count.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

from sophia_cli.training.distributed import DistributedContext


class LogRatios:
    """Collects log π_θ(y) − log µ(y) of one update's trajectories."""

    def __init__(self) -> None:
        self.log_ratios: list[tuple[float, float]] = []

    def add_batch(self, logps_BT: torch.Tensor, mask_BT: torch.Tensor, behavior_logp_B: torch.Tensor) -> None:
        """Adds the trajectories of a micro-batch; skips those without log µ(y) (NaN)."""
        known = ~behavior_logp_B.isnan()
        if known.any():
            totals = (logps_BT * mask_BT).sum(dim=1).double()[known] - behavior_logp_B[known]
            tokens = mask_BT.sum(dim=1)[known]
            self.log_ratios += zip(totals.tolist(), (totals / tokens).tolist(), strict=True)

    def log_ratio_stats(self, world: DistributedContext) -> dict[str, Any]:
        """Returns mean, deviation, minimum and maximum over all processes, in total and per token; empty if nothing is
        known.
        """
        found = self.log_ratios
        if world.size > 1:
            gathered: list[Any] = [None] * world.size
            dist.all_gather_object(gathered, found)
            found = [pair for part in gathered for pair in part]
        self.log_ratios = []
        if not found:
            return {}
        totals, each = zip(*found, strict=True)
        return {"log_ratio": summary_stats(totals), "log_ratio_per_token": summary_stats(each)}


def summary_stats(values: tuple[float, ...]) -> dict[str, float]:
    """Returns mean, standard deviation, minimum and maximum."""
    ordered = sorted(values)  # a fixed order of summation, whatever the world size
    mean = math.fsum(ordered) / len(ordered)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / len(ordered))
    return {"mean": mean, "std": deviation, "min": ordered[0], "max": ordered[-1], "n": len(ordered)}


def pool_stats(updates: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Pools the statistics of many updates into those of all their trajectories; empty if nothing is known."""
    known = [update for update in updates if "log_ratio" in update]
    return {name: _merge_stats([update[name] for update in known]) for name in ("log_ratio", "log_ratio_per_token") if known}


def _merge_stats(parts: list[dict[str, float]]) -> dict[str, float]:
    count = sum(part["n"] for part in parts)
    mean = math.fsum(part["n"] * part["mean"] for part in parts) / count
    square = math.fsum(part["n"] * (part["std"] ** 2 + (part["mean"] - mean) ** 2) for part in parts) / count
    least, most = min(part["min"] for part in parts), max(part["max"] for part in parts)
    return {"mean": mean, "std": math.sqrt(square), "min": least, "max": most, "n": count}
