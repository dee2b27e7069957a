"""SOPHIA, Eq. 7 with the importance ratio taken as 1 (Lemma A.3): each trajectory's log-likelihood times its reward.

    loss = − Σ_i w_i Σ_l log π_θ(y_il | y_i<l, x_i, I_i) / D

D is the number of supervised tokens of the whole global batch, or of its trajectories (`--normalise`), whatever their
weights; so the sum over micro-batches and ranks does not depend on how the batch was split (method.md).
"""

import torch


def loss(
    logps_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    weights_B: torch.Tensor,
    behaviour_B: torch.Tensor,
    denominator: torch.Tensor | float,
) -> torch.Tensor:
    """The loss of one micro-batch, a scalar.

    logps_BT: log-probability of each target token; mask_BT: 1 where a token is supervised, else 0; weights_B: the
    trajectories' weights (Eq. 6); behaviour_B: log µ(y), of the whole trajectory, NaN where sampling did not store it;
    denominator: D, of the global batch.
    """
    sums_B = (logps_BT * mask_BT).sum(dim=1)
    return -(weights_B * sums_B).sum() / denominator
