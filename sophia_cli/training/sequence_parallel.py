"""Sequence parallelism (DeepSpeed-Ulysses, arXiv 2309.14509): the tokens of a row are dealt out to several processes.

Each of a group takes one stretch of every row through the language model; for attention they change over to all tokens of
some of the heads, and back. Every process embeds the whole rows: a stretch of embeddings has the images in it, where
DeepSpeed's own data loader (ALST) cuts token ids, and would tear image tokens from their pixels.
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
    """Raises UsageError where the language model's attention cannot be dealt out to `ways` processes."""
    heads, shared = text_config.num_attention_heads, text_config.num_key_value_heads
    if heads % ways or (shared % ways and ways % shared):
        fit = [n for n in range(2, heads + 1) if heads % n == 0 and (shared % n == 0 or n % shared == 0)]
        choices = f"choose from {', '.join(map(str, fit))}" if fit else "leave it out"
        mend = f"the model has {heads} attention heads over {shared}; {choices}"
        raise UsageError(f"--sequence-parallel {ways}: {mend}")
    if "sliding_attention" in (getattr(text_config, "layer_types", None) or ()):
        raise UsageError(
            f"--sequence-parallel {ways}: the model's attention looks back a part of the row alone; leave it out"
        )


class SequenceParallel:
    """Has a language model take a stretch of each row in each of `ways` processes that are next to one another.

    Rows are padded on the right and attention is causal, so no mask is needed: nothing that counts sees the padding. For the
    life of the process: transformers' table of attention functions is the process's.
    """

    def __init__(self, language: Any, world: DistributedContext, ways: int):
        groups = [dist.new_group(range(first, first + ways), TIMEOUT) for first in range(0, world.size, ways)]
        self.group, self.sp_size, self.sp_rank = groups[world.rank // ways], ways, world.rank % ways
        self.config = language.config
        self.attention_cache: dict[int, Any] = {}
        self._take_over_attention(language)
        language.register_forward_pre_hook(self._slice_inputs, with_kwargs=True)

    def _take_over_attention(self, language: Any) -> None:
        """Transformers asks for attention by name; the vision tower, which may ask for the same, keeps what it had."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        name, inside = self.config._attn_implementation, set(language.modules())
        self.core = ALL_ATTENTION_FUNCTIONS[name]

        def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any) -> Any:
            if module not in inside:
                return self.core(module, query, key, value, attention_mask, **more)
            each = query.shape[2]
            here = torch.arange(self.sp_rank * each, (self.sp_rank + 1) * each, device=query.device)
            more["position_ids"] = here.repeat(len(query), 1)  # it is gathered, and NCCL takes no views
            return self._attention_for(len(query))(module, query, key, value, None, **more)

        ALL_ATTENTION_FUNCTIONS[name] = attend

    def _attention_for(self, batch: int) -> Any:
        """DeepSpeed's, which is made for so many rows at once."""
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
        """The language model's inputs, of this process's stretch alone."""
        rows, length = inputs["inputs_embeds"].shape[:2]
        positions = inputs.get("position_ids")
        if positions is None:
            whole = self._slice_length(length) * self.sp_size
            positions = torch.arange(whole, device=inputs["inputs_embeds"].device).expand(rows, -1)
        cut: dict[str, Any] = {
            "inputs_embeds": self.slice_tokens(inputs["inputs_embeds"]),
            "position_ids": self.slice_tokens(positions, -1),
        }
        if (visual_BT := inputs.get("visual_pos_masks")) is not None:  # Qwen3-VL adds to image tokens once more, further in
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
        """This process's stretch along the axis of tokens, and `more` behind it; `fill` beyond the end."""
        each = self._slice_length(values.shape[along])
        shape = list(values.shape)
        shape[along] = each * self.sp_size + more - shape[along]
        filled = torch.cat([values, values.new_full(shape, fill)], along)
        return filled.narrow(along, self.sp_rank * each, each + more)

    def slice_labels(self, labels_BT: Tensor) -> Tensor:
        """The labels of this process's stretch and the one behind it, which its last token is to predict."""
        return self.slice_tokens(labels_BT, fill=IGNORE_INDEX, more=1)

    def gather_logps(self, logps_BL: Tensor, length: int) -> Tensor:
        """What all processes of the group have found, B x length; the loss is then the same in each.

        Gradients go back to a process for its own stretch: those of the group add up to the gradient of one loss.
        """
        whole: Tensor = _GatherTokens.apply(logps_BL, self)  # type: ignore[no-untyped-call]
        return whole[:, :length]


class _GatherTokens(torch.autograd.Function):
    """The stretches of a group one behind the other, B x (ways · L); the gradient of this process's is that of its part."""

    @staticmethod
    def forward(ctx: Any, part_BL: Tensor, ulysses: SequenceParallel) -> Tensor:
        ctx.columns = slice(ulysses.sp_rank * part_BL.shape[1], (ulysses.sp_rank + 1) * part_BL.shape[1])
        parts = [torch.empty_like(part_BL) for _ in range(ulysses.sp_size)]
        dist.all_gather(parts, part_BL.contiguous(), group=ulysses.group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][:, ctx.columns], None
