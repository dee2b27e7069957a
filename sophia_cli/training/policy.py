"""The policy: loads it from its folder, sets what is trainable, and finds its family and its collator."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from sophia_cli import registry
from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.models.families import model_part
from sophia_cli.models.folder_check import (
    check_chat_template,
    check_model_files,
    check_tokenizer_files,
    load_error,
    load_weights,
)
from sophia_cli.training.collator import Collator
from sophia_cli.training.config import has_flash_attention
from sophia_cli.training.lora import add_lora
from sophia_cli.training.run_state import TrainPlan


def make_encoder(plan: TrainPlan) -> Collator:
    """Returns the collator for the plan's rows."""
    path = plan.model.path
    check_model_files(path)
    check_tokenizer_files(path)
    try:
        processor = find_family(AutoConfig.from_pretrained(path)).load_processor(path)
    except SophiaError:
        raise
    except Exception as error:
        raise load_error(plan.model.name, error) from error
    check_chat_template(plan.model.name, processor.tokenizer)
    return Collator(processor, context_length(plan))


def context_length(plan: TrainPlan) -> int:
    """Returns the longest row, in tokens, that the model and `--max-length` allow."""
    text = AutoConfig.from_pretrained(plan.model.path).get_text_config()
    return min(plan.config.max_length, int(getattr(text, "max_position_embeddings", 0) or plan.config.max_length))


def find_family(config: Any) -> Any:
    """Returns the file of `models/families/` for a model's config."""
    kind = str(config.model_type).replace("_", "-")
    if kind not in registry.names("families"):
        known = ", ".join(registry.names("families"))
        raise UsageError(f"--model: its type {config.model_type} cannot be trained; choose a model of {known}")
    return registry.find("families", kind)


def load_policy(plan: TrainPlan, device: torch.device, bf16: bool) -> Any:
    """Loads the policy for training. Frozen parts do not require gradients.

    FlashAttention is used where it is installed, in bf16; not in TRL's trainers, whose reference model would use
    another kernel. Where processes share rows, PyTorch's attention is used instead, because eager attention is not
    causal without a mask.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    flash = bf16 and plan.data_kind == "trajectories" and has_flash_attention()
    shares = {"text_config": "sdpa"} if plan.config.sequence_parallel > 1 else None
    attention = {"text_config": "flash_attention_2"} if flash else shares
    policy = load_weights(
        AutoModelForImageTextToText, plan.model.name, plan.model.path, dtype=dtype, attn_implementation=attention
    )
    if device.type == "cuda":
        # Reentrant checkpointing needs inputs with gradients, which frozen embeddings do not have.
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    policy.train()
    return set_trainable(policy, plan)


def warm_up_model(
    policy: Any, encoder: Collator, plan: TrainPlan, device: torch.device, config: dict[str, Any] | None
) -> None:
    """Runs a forward pass and drops its result.

    On CPUs, in about one of a hundred processes, the first pass through a decoder layer gave other last bits than all
    later passes. No run may start with that one. config: DeepSpeed's.
    """
    if device.type != "cpu" or (config is not None and config["zero_optimization"]["stage"] == 3):
        return
    inputs = encoder.collate([sized.row for sized in plan.rows[:2]])
    inputs = {name: values for name, values in inputs.items() if name not in ("labels", "weights", "behavior_logp")}
    with torch.no_grad():
        policy(**inputs, logits_to_keep=1)


def set_trainable(policy: Any, plan: TrainPlan) -> Any:
    """Makes the language backbone trainable, and what the options add; with `--lora-rank`, only adapters of it."""
    settings, family = plan.config, find_family(policy.config)
    trained = {"language": True, "vision": settings.train_vision, "projector": settings.train_projector}
    for name, parameter in policy.named_parameters():
        parameter.requires_grad = trained[model_part(name, family)]
    return add_lora(policy, family, settings) if settings.lora_rank else policy


def language_model(policy: Any) -> Any:
    """Returns the policy's language model: it takes embeddings of text and images and returns hidden states."""
    return next(module for name, module in policy.named_modules() if name.endswith("language_model"))


def parameter_counts(plan: TrainPlan) -> tuple[int, int]:
    """Returns the number of weights and of trained weights, from the config alone."""
    # No memory: tensors on `meta` have shapes only.
    with torch.device("meta"):
        policy = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(plan.model.path))
    parameters = list(set_trainable(policy, plan).parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
