"""Supervised fine-tuning: the mean negative log-likelihood, whatever the weights. The paper's warm-up."""

import torch

from sophia_cli.training.loss_inputs import LossInputs

DATA_KIND, ACCEPTS_PLAIN_ROWS = "trajectories", True


def loss(scored: LossInputs) -> torch.Tensor:
    """The loss of one micro-batch, a scalar; weights play no part."""
    return -scored.logp_sums_B.sum() / scored.denominator
