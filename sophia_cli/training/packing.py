"""Rows of one forward pass, one behind the other instead of padded: no attention kernel, and no layer, sees padding.

Each row's positions begin anew; from that FlashAttention's kernels for rows of different lengths, and the masks that
transformers makes for others, tell the rows apart.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def can_pack(policy: Any) -> bool:
    """Whether the language model's attention takes rows one behind the other as they are. Others would need a mask of
    all their tokens × all their tokens, which costs more than padding does.
    """
    return str(policy.config.get_text_config()._attn_implementation).startswith("flash")


def pack_batch(inputs: dict[str, Tensor], kept_BT: Tensor, policy: Any) -> dict[str, Tensor]:
    """A padded batch as one row of all S kept tokens: what has a value for each token becomes 1 x S, images stay.

    kept_BT: which tokens stay, from the first of each row on. policy: whose positions they get, rotary ones of images too.
    """
    positions_BT = torch.arange(kept_BT.shape[1], device=kept_BT.device).expand_as(kept_BT)
    rotary, positions = _image_position_function(policy), positions_BT[kept_BT][None]
    if rotary:
        places_3BT = positions_BT.expand(3, *kept_BT.shape)
        if "image_grid_thw" in inputs:
            by_token = {name: inputs[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw")}
            places_3BT, _ = rotary(**by_token, attention_mask=kept_BT.long())
        positions = torch.cat([positions_BT[None], places_3BT])[:, kept_BT][:, None]  # the first tells the rows apart
    others = {name: values[kept_BT][None] if values.shape == kept_BT.shape else values for name, values in inputs.items()}
    del others["attention_mask"]  # an all-ones mask would hide that there are several rows
    return {**others, "position_ids": positions}


def unpack_values(values_S: Tensor, kept_BT: Tensor) -> Tensor:
    """What belongs to each of S packed tokens, back in its place of B x T; 0 elsewhere."""
    return torch.zeros(kept_BT.shape, dtype=values_S.dtype, device=values_S.device).masked_scatter(kept_BT, values_S)


def _image_position_function(policy: Any) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The policy's own way to place image tokens (Qwen: time, height, width), where it has one."""
    return next((module.get_rope_index for module in policy.modules() if hasattr(module, "get_rope_index")), None)
