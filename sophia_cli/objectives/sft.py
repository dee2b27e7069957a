"""Supervised fine-tuning: mean negative log-likelihood, whatever the weights. The paper's warm-up."""

import torch

from sophia_cli.training.loss_inputs import LossInputs

DATA_KIND, ACCEPTS_PLAIN_ROWS = "trajectories", True


def loss(inputs: LossInputs) -> torch.Tensor:
    """Returns the loss of one micro-batch, a scalar. Weights are ignored."""
    return -inputs.logp_sums_B.sum() / inputs.denominator
