"""LoRA through peft: low-rank adapters on every linear layer of the language model; everything else is frozen."""

from typing import Any

import torch

from sophia_cli.models.families import model_part
from sophia_cli.training.config import TrainConfig

LORA_ALPHA_RATIO = 2
"""alpha / rank: the scale of the adapters."""


def add_lora(policy: Any, family: Any, settings: TrainConfig) -> Any:
    """Returns the policy with adapters of `config.lora_rank`. What else was trainable stays trainable."""
    from peft import LoraConfig, get_peft_model

    head = policy.get_output_embeddings()
    layers = [
        name
        for name, module in policy.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head and model_part(f"{name}.", family) == "language"
    ]
    trained = [name for name, p in policy.named_parameters() if p.requires_grad and model_part(name, family) != "language"]
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=LORA_ALPHA_RATIO * settings.lora_rank, target_modules=layers, task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(policy, config)
    for name, parameter in adapted.get_base_model().named_parameters():
        if name in trained:
            parameter.requires_grad = True
    return adapted
