"""SOPHIA with importance ratios, Eq. 3, truncated: each trajectory's gradient times π_θ(y)/µ(y), no more than `MOST`.

    loss = − Σ_i w_i ρ_i Σ_l log π_θ(y_il | y_i<l, x_i, I_i) / D,   ρ_i = min(MOST, (π_θ(y_i) / µ(y_i)) ^ (1/|y_i|))

ρ_i is a constant to the gradient. It is the ratio's geometric mean over the policy's |y_i| tokens: the product over
thousands of tokens, which Eq. 3 asks for, is 0 or infinite in practice, and would leave nothing to learn from or one
trajectory alone. Where µ was not stored (rows of other data, too), ρ_i is 1.
"""

import torch

MOST = 2.0


def ratios(logps_BT: torch.Tensor, mask_BT: torch.Tensor, behaviour_B: torch.Tensor) -> torch.Tensor:
    """ρ of each trajectory, B; arguments as in `objectives.sophia.loss`."""
    tokens_B = mask_BT.sum(dim=1).clamp(min=1)
    logs_B = ((logps_BT * mask_BT).sum(dim=1) - behaviour_B) / tokens_B
    return logs_B.nan_to_num(nan=0.0).exp().clamp(max=MOST).detach()


def loss(
    logps_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    weights_B: torch.Tensor,
    behaviour_B: torch.Tensor,
    denominator: torch.Tensor | float,
) -> torch.Tensor:
    """The loss of one micro-batch, a scalar. Arguments as in `objectives.sophia.loss`."""
    sums_B = (logps_BT * mask_BT).sum(dim=1)
    return -(weights_B * ratios(logps_BT, mask_BT, behaviour_B) * sums_B).sum() / denominator
