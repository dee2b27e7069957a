"""Packs the rows of a forward pass into one sequence instead of padding them, so that no layer computes on padding.

The positions of each row restart. From that, FlashAttention's variable-length kernels and the masks of transformers
separate the rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def can_pack(policy: Any) -> bool:
    """Tells whether the attention of the language model separates packed rows. Other kernels would need a mask of all
    tokens × all tokens, which costs more than padding.
    """
    return str(policy.config.get_text_config()._attn_implementation).startswith("flash")


def pack_batch(inputs: dict[str, Tensor], kept_BT: Tensor, policy: Any) -> dict[str, Tensor]:
    """Returns a padded batch as one row of all S kept tokens. Inputs by token become 1 x S, images stay.

    Args:
        inputs: The padded batch.
        kept_BT: Which tokens are kept, from the first of each row on.
        policy: Gives their positions, also the rotary ones of images.
    """
    positions_BT = torch.arange(kept_BT.shape[1], device=kept_BT.device).expand_as(kept_BT)
    rotary, positions = _image_position_function(policy), positions_BT[kept_BT][None]
    if rotary:
        places_3BT = positions_BT.expand(3, *kept_BT.shape)
        if "image_grid_thw" in inputs:
            by_token = {name: inputs[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw")}
            places_3BT, _ = rotary(**by_token, attention_mask=kept_BT.long())
        positions = torch.cat([positions_BT[None], places_3BT])[:, kept_BT][:, None]  # the first axis separates the rows
    others = {name: values[kept_BT][None] if values.shape == kept_BT.shape else values for name, values in inputs.items()}
    del others["attention_mask"]  # with an all-ones mask, transformers would see a single row
    return {**others, "position_ids": positions}


def unpack_values(values_S: Tensor, kept_BT: Tensor) -> Tensor:
    """Puts the values of S packed tokens back to their places in B x T, 0 elsewhere."""
    return torch.zeros(kept_BT.shape, dtype=values_S.dtype, device=values_S.device).masked_scatter(kept_BT, values_S)


def _image_position_function(policy: Any) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """Returns the policy's own function for the positions of image tokens (Qwen: time, height, width), or None."""
    return next((module.get_rope_index for module in policy.modules() if hasattr(module, "get_rope_index")), None)
