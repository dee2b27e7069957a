"""SOPHIA, Eq. 7 with the importance ratio taken as 1 (Lemma A.3): each trajectory's log-likelihood times its reward.

    loss = − Σ_i w_i Σ_l log π_θ(y_il | y_i<l, x_i, I_i) / D

The denominator D is the number of supervised tokens of the whole global batch, or of its trajectories (`--normalize-by`),
whatever their weights. So the sum over micro-batches and ranks does not depend on how the batch was split (method.md).
"""

import torch

from sophia_cli.training.loss_inputs import LossInputs

DATA_KIND = "trajectories"


def loss(inputs: LossInputs) -> torch.Tensor:
    """Returns the loss of one micro-batch, a scalar."""
    return -(inputs.weights_B * inputs.logp_sums_B).sum() / inputs.denominator
