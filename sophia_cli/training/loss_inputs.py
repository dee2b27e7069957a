"""What a loss is computed from."""

from typing import NamedTuple

import torch


class LossInputs(NamedTuple):
    """A micro-batch of B trajectories under the policy, and what weighs them.

    logps_BT: log-probability of each target token; mask_BT: 1 where a token is supervised, else 0; weights_B: the
    trajectories' weights (Eq. 6); behavior_logp_B: log µ(y), of the whole trajectory, NaN where sampling did not store it;
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
