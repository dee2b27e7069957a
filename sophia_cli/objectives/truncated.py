"""SOPHIA with truncated importance ratios (Eq. 3): each trajectory's gradient times π_θ(y)/µ(y), at most `MAX_RATIO`.

    loss = − Σ_i w_i ρ_i Σ_l log π_θ(y_il | y_i<l, x_i, I_i) / D,   ρ_i = min(MAX_RATIO, (π_θ(y_i) / µ(y_i)) ^
    (1/|y_i|))

ρ_i has no gradient. It is the geometric mean of the ratio over the policy's |y_i| tokens. The product over thousands
of tokens, which Eq. 3 asks for, is 0 or infinite in practice, so that nothing or a single trajectory would be learned.
Where µ was not stored (also in mixed-in rows), ρ_i is 1.
"""

import torch

from sophia_cli.training.loss_inputs import LossInputs

DATA_KIND, NEEDS_BEHAVIOR = "trajectories", True
# The paper gives no value (Eq. 3 has no bound); 2 lets a trajectory count at most twice.
MAX_RATIO = 2.0


def truncated_ratios(inputs: LossInputs) -> torch.Tensor:
    """Returns ρ of each trajectory, B."""
    tokens_B = inputs.mask_BT.sum(dim=1).clamp(min=1)
    logs_B = (inputs.logp_sums_B - inputs.behavior_logp_B) / tokens_B
    return logs_B.nan_to_num(nan=0.0).exp().clamp(max=MAX_RATIO).detach()


def loss(inputs: LossInputs) -> torch.Tensor:
    """Returns the loss of one micro-batch, a scalar."""
    return -(inputs.weights_B * truncated_ratios(inputs) * inputs.logp_sums_B).sum() / inputs.denominator
