"""What a loss is computed from: the log-probabilities of one micro-batch, its mask, weights and denominator."""

from typing import NamedTuple

import torch


class LossInputs(NamedTuple):
    """A micro-batch of B trajectories under the policy.

    Attributes:
        logps_BT: Log-probability of each target token.
        mask_BT: The loss mask: 1 where a token is supervised, else 0.
        weights_B: Weights of the trajectories (Eq. 6).
        behavior_logp_B: log µ(y) of the whole trajectory; NaN where sampling did not store it.
        denominator: D, of the whole global batch.
    """

    logps_BT: torch.Tensor
    mask_BT: torch.Tensor
    weights_B: torch.Tensor
    behavior_logp_B: torch.Tensor
    denominator: float

    @property
    def logp_sums_B(self) -> torch.Tensor:
        """log π_θ(y) of each trajectory."""
        return (self.logps_BT * self.mask_BT).sum(dim=1)
