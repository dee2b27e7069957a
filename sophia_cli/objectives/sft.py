"""Supervised fine-tuning: the mean negative log-likelihood, whatever the weights. The paper's warm-up."""

import torch

from sophia_cli.training.loss_inputs import Scored

READS, PLAIN = "trajectories", True


def loss(scored: Scored) -> torch.Tensor:
    """The loss of one micro-batch, a scalar; weights play no part."""
    return -scored.sums_B.sum() / scored.denominator
