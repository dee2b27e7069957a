"""What makes a trained model what it is, and which optional libraries are available."""

import importlib
import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run. They are part of its identity: a run that resumes must have the same.

    Attributes:
        batch_size: Rows per update, over all accumulation steps and ranks.
        micro_batch_size: Rows per forward pass.
        deepspeed: zero1, zero2, zero3, zero3-offload, a JSON file, none, or auto (decided before training).
        lora_rank: 0 trains all weights of the language model.
        save_every: Updates between checkpoints.
        rollouts: Answers per question (GRPO).
        max_tokens: Longest rollout (GRPO).
        max_grad_norm: Larger gradients are scaled down to it; 0 never scales.
        sequence_parallel: Processes that share the tokens of a row.
    """

    objective: str
    batch_size: int
    micro_batch_size: int
    lr: float
    weight_decay: float
    min_lr_ratio: float
    normalize_by: str
    epochs: float
    max_steps: int | None
    max_length: int
    seed: int
    deepspeed: str = "none"
    lora_rank: int = 0
    merge_lora: bool = False
    train_vision: bool = False
    train_projector: bool = False
    save_every: int = 50
    rollouts: int = 8
    max_tokens: int = 16384
    max_grad_norm: float = 1.0
    sequence_parallel: int = 1


def has_vllm() -> bool:
    """Tells whether vLLM is installed, which generates rollouts many times faster than the policy itself."""
    return importlib.util.find_spec("vllm") is not None


def has_flash_attention() -> bool:
    """Tells whether FlashAttention can be imported. A build for another torch version cannot."""
    return _can_import("flash_attn")


def has_liger() -> bool:
    """Tells whether Liger's kernels can be imported, with a Triton that compiles them."""
    return _can_import("liger_kernel.transformers.functional")


def _can_import(name: str) -> bool:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return False
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True
