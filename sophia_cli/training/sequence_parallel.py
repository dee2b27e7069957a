"""Sequence parallelism (DeepSpeed-Ulysses, arXiv 2309.14509): several processes share the tokens of a row.

Each process of a group runs the language model on its slice of every row. For attention, they exchange slices for
heads: each gets all tokens of some heads, and back. Every process embeds whole rows, so that a slice of embeddings
includes the image features. DeepSpeed's own data loader (ALST) slices token ids instead, which would separate image
tokens from their pixels.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sophia_cli.errors import UsageError
from sophia_cli.training.collator import IGNORE_INDEX
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.rendezvous import TIMEOUT


def check_heads(text_config: Any, ways: int) -> None:
    """Checks that the attention heads can be divided among `ways` processes.

    Raises:
        UsageError: they cannot.
    """
    heads, shared = text_config.num_attention_heads, text_config.num_key_value_heads
    if heads % ways or (shared % ways and ways % shared):
        fit = [n for n in range(2, heads + 1) if heads % n == 0 and (shared % n == 0 or n % shared == 0)]
        choices = f"choose from {', '.join(map(str, fit))}" if fit else "omit it"
        remedy = f"the model has {heads} attention heads over {shared}; {choices}"
        raise UsageError(f"--sequence-parallel {ways}: {remedy}")
    if "sliding_attention" in (getattr(text_config, "layer_types", None) or ()):
        raise UsageError(
            f"--sequence-parallel {ways}: the model uses sliding-window attention, which it does not support; omit it"
        )


class SequenceParallel:
    """Makes a language model process a slice of each row in each of `sp_size` neighboring processes.

    Rows are padded on the right and attention is causal, so no mask is needed. It lasts as long as the process,
    because the table of attention functions in transformers is global.
    """

    def __init__(self, language: Any, world: DistributedContext, ways: int):
        # Every process must create every group, in the same order.
        groups = [dist.new_group(range(first, first + ways), TIMEOUT) for first in range(0, world.size, ways)]
        self.group, self.sp_size, self.sp_rank = groups[world.rank // ways], ways, world.rank % ways
        self.config = language.config
        self.attention_cache: dict[int, Any] = {}
        self._take_over_attention(language)
        language.register_forward_pre_hook(self._slice_inputs, with_kwargs=True)

    def _take_over_attention(self, language: Any) -> None:
        """Registers our attention under the name that the language model asks for; the vision tower keeps the original."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        name, inside = self.config._attn_implementation, set(language.modules())
        self.core = ALL_ATTENTION_FUNCTIONS[name]

        def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any) -> Any:
            if module not in inside:
                return self.core(module, query, key, value, attention_mask, **more)
            each = query.shape[2]
            here = torch.arange(self.sp_rank * each, (self.sp_rank + 1) * each, device=query.device)
            # Copied, because it is gathered and NCCL does not accept views.
            more["position_ids"] = here.repeat(len(query), 1)
            return self._attention_for(len(query))(module, query, key, value, None, **more)

        ALL_ATTENTION_FUNCTIONS[name] = attend

    def _attention_for(self, batch: int) -> Any:
        """Returns DeepSpeed's attention, which is built for a fixed number of rows."""
        from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

        if batch not in self.attention_cache:
            config, heads = self.config, self.config.num_attention_heads
            self.attention_cache[batch] = UlyssesSPAttentionHF(
                attn=self.core,
                batch_size=batch,
                attn_head_count=heads,
                attn_head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
                kv_head_count=config.num_key_value_heads,
                num_hidden_layers=config.num_hidden_layers,
                process_group=self.group,
                seq_length_is_variable=True,
            )
        return self.attention_cache[batch]

    def _slice_inputs(self, language: Any, given: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Returns the inputs of the language model for this process's slice."""
        rows, length = inputs["inputs_embeds"].shape[:2]
        positions = inputs.get("position_ids")
        if positions is None:
            whole = self._slice_length(length) * self.sp_size
            # Up to the padded length, so that slices of all processes are equal.
            positions = torch.arange(whole, device=inputs["inputs_embeds"].device).expand(rows, -1)
        cut: dict[str, Any] = {
            "inputs_embeds": self.slice_tokens(inputs["inputs_embeds"]),
            "position_ids": self.slice_tokens(positions, -1),
        }
        # Qwen3-VL adds features to image tokens again in later layers.
        if (visual_BT := inputs.get("visual_pos_masks")) is not None:
            cut["visual_pos_masks"] = here = self.slice_tokens(visual_BT)
            chosen = torch.zeros_like(visual_BT)
            first = self.sp_rank * self._slice_length(length)
            chosen[:, first : first + here.shape[1]] = True
            chosen = chosen[visual_BT]
            cut["deepstack_visual_embeds"] = [values[chosen] for values in inputs["deepstack_visual_embeds"]]
        return given, {**inputs, **cut, "attention_mask": None}

    def _slice_length(self, length: int) -> int:
        return -(-length // self.sp_size)

    def slice_tokens(self, values: Tensor, along: int = 1, fill: int = 0, more: int = 0) -> Tensor:
        """Returns this process's slice along the token axis, plus `more` tokens after it; `fill` beyond the end."""
        each = self._slice_length(values.shape[along])
        shape = list(values.shape)
        shape[along] = each * self.sp_size + more - shape[along]
        filled = torch.cat([values, values.new_full(shape, fill)], along)
        return filled.narrow(along, self.sp_rank * each, each + more)

    def slice_labels(self, labels_BT: Tensor) -> Tensor:
        """Returns the labels of this process's slice and the next one, which its last token predicts."""
        return self.slice_tokens(labels_BT, fill=IGNORE_INDEX, more=1)

    def gather_logps(self, logps_BL: Tensor, length: int) -> Tensor:
        """Returns the log-probabilities of all slices, B x length, so that every process computes the same loss.

        The gradient of a process is that of its own slice; the group's gradients add up to that of one loss.
        """
        whole: Tensor = _GatherTokens.apply(logps_BL, self)  # type: ignore[no-untyped-call]
        return whole[:, :length]


class _GatherTokens(torch.autograd.Function):
    """Concatenates the slices of a group, B x (sp_size · L). Backward returns the gradient of this process's slice."""

    @staticmethod
    def forward(ctx: Any, part_BL: Tensor, ulysses: SequenceParallel) -> Tensor:
        ctx.columns = slice(ulysses.sp_rank * part_BL.shape[1], (ulysses.sp_rank + 1) * part_BL.shape[1])
        parts = [torch.empty_like(part_BL) for _ in range(ulysses.sp_size)]
        dist.all_gather(parts, part_BL.contiguous(), group=ulysses.group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][:, ctx.columns], None
