"""Supervised fine-tuning: the mean negative log-likelihood, whatever the weights. The paper's warm-up."""

import torch


def loss(
    logps_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    weights_B: torch.Tensor,
    behaviour_B: torch.Tensor,
    denominator: torch.Tensor | float,
) -> torch.Tensor:
    """The loss of one micro-batch, a scalar. Arguments as in `objectives.sophia.loss`; `weights_B` plays no part."""
    return -(logps_BT * mask_BT).sum() / denominator
