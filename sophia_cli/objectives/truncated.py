"""SOPHIA with importance ratios, Eq. 3, truncated: each trajectory's gradient times π_θ(y)/µ(y), no more than `MOST`.

    loss = − Σ_i w_i ρ_i Σ_l log π_θ(y_il | y_i<l, x_i, I_i) / D,   ρ_i = min(MOST, (π_θ(y_i) / µ(y_i)) ^ (1/|y_i|))

ρ_i is a constant to the gradient. It is the ratio's geometric mean over the policy's |y_i| tokens: the product over
thousands of tokens, which Eq. 3 asks for, is 0 or infinite in practice, and would leave nothing to learn from or one
trajectory alone. Where µ was not stored (rows of other data, too), ρ_i is 1.
"""

import torch

from sophia_cli.training.loss_inputs import LossInputs

DATA_KIND, NEEDS_BEHAVIOR = "trajectories", True
MAX_RATIO = 2.0


def truncated_ratios(scored: LossInputs) -> torch.Tensor:
    """ρ of each trajectory, B."""
    tokens_B = scored.mask_BT.sum(dim=1).clamp(min=1)
    logs_B = (scored.logp_sums_B - scored.behavior_logp_B) / tokens_B
    return logs_B.nan_to_num(nan=0.0).exp().clamp(max=MAX_RATIO).detach()


def loss(scored: LossInputs) -> torch.Tensor:
    """The loss of one micro-batch, a scalar."""
    return -(scored.weights_B * truncated_ratios(scored) * scored.logp_sums_B).sum() / scored.denominator
