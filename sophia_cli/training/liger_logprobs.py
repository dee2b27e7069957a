"""log π_θ of supervised positions by Liger's fused kernel, on GPUs where it is installed (`pip install
'sophia-cli[gpu]'`).

It computes what `logprobs.py` computes in blocks of PyTorch, in fewer passes over the logits. `reduction="none"` keeps
the gradient of each token, so that weights, ratios and masks stay with the objective.
"""

import torch


def log_probabilities(hidden_SD: torch.Tensor, weight_VD: torch.Tensor, targets_S: torch.Tensor) -> torch.Tensor:
    """Returns log softmax(h Wᵀ)[target] of S positions, float32. Shapes: h S x D, W V x D, targets S."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    losses_S: torch.Tensor = liger_fused_linear_cross_entropy(
        hidden_SD, weight_VD.to(hidden_SD.dtype), targets_S, reduction="none", accum_dtype=torch.float32
    )
    return -losses_S
