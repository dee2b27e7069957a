"""What makes a trained model what it is, and where it is trained."""

import importlib
import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """What makes the trained model what it is. Batch size is global: all accumulation steps and ranks.

    deepspeed: zero1, zero2, zero3, zero3-offload, a JSON file, none, or auto, which is settled before training.
    lora_rank: 0 trains all weights of the language model. save_every: steps between checkpoints. rollouts: answers to a
    question of one update, and max_tokens the longest of them, where the policy itself answers (GRPO). max_grad_norm:
    gradients of a larger norm are scaled down to it; 0: none are. sequence_parallel: processes that share a row's tokens.
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
    """Whether vLLM is installed here, which answers many times as fast as the policy itself."""
    return importlib.util.find_spec("vllm") is not None


def has_flash_attention() -> bool:
    """Whether FlashAttention is installed and can be loaded: a build for another torch cannot."""
    return _can_import("flash_attn")


def has_liger() -> bool:
    """Whether Liger's kernels are installed and can be loaded, with a Triton that compiles them."""
    return _can_import("liger_kernel.transformers.functional")


def _can_import(name: str) -> bool:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return False
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True
