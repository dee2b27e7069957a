"""Chooses the ZeRO stage of a model: the one that shards least and still fits into memory."""

from collections.abc import Callable
from dataclasses import replace

from sophia_cli.errors import UsageError
from sophia_cli.training.run_state import TrainPlan, reference_count

STAGES = ("zero1", "zero2", "zero3", "zero3-offload")
"""The shipped stages, from the one that shards least to the one that shards most."""
WEIGHT_MEMORY_SHARE = 0.75
"""The share of GPU memory that weights, gradients and optimizer may take. The rest is for activations."""


def bytes_needed(stage: str, weights: int, trained: int, processes: int, references: int = 0) -> float:
    """Returns bytes per GPU for weights (bf16), gradients (bf16) and AdamW states (fp32: weights and two moments).

    Args:
        stage: A stage; `none` keeps weights, gradients and moments in fp32.
        weights, trained: Numbers of parameters.
        processes: World size.
        references: Frozen copies, held like the weights.
    """
    spread, weights = 1 / processes, weights * (1 + references)
    return {
        "none": 4.0 * weights + 12 * trained,
        "zero1": 2 * weights + 2 * trained + 12 * trained * spread,
        "zero2": 2 * weights + 2 * trained * spread + 12 * trained * spread,
        "zero3": (2 * weights + 2 * trained + 12 * trained) * spread,
        "zero3-offload": (2 * weights + 2 * trained) * spread,
    }[stage]


def first_fitting_stage(weights: int, trained: int, processes: int, memory: int, references: int = 0) -> str:
    """Returns the first stage that fits.

    Raises:
        UsageError: none does.
    """
    for stage in STAGES:
        if bytes_needed(stage, weights, trained, processes, references) <= WEIGHT_MEMORY_SHARE * memory:
            return stage
    least = bytes_needed("zero3-offload", weights, trained, processes, references) / 1e9
    raise UsageError(
        f"{weights / 1e9:.1f} B weights need {least:.0f} GB on each of {processes} GPUs of {memory / 1e9:.0f} GB at any "
        "stage; use more GPUs (--hostfile), --lora-rank 64, or your own DeepSpeed file (--deepspeed FILE.json)"
    )


def choose_stage(plan: TrainPlan, processes: int, cpu: bool, log: Callable[[str], None]) -> TrainPlan:
    """Returns the plan with `--deepspeed auto` resolved, and logs it."""
    import torch

    if plan.config.deepspeed != "auto":
        return plan
    if cpu or not torch.cuda.is_available():
        stage = "none" if processes == 1 else "zero2"
    else:
        from sophia_cli.training.policy import parameter_counts

        weights, trained = parameter_counts(plan)
        stage = first_fitting_stage(
            weights, trained, processes, torch.cuda.get_device_properties(0).total_memory, reference_count(plan)
        )
    log(f"train: {processes} process{'es' * (processes > 1)}, DeepSpeed {stage}")
    return replace(plan, config=replace(plan.config, deepspeed=stage))
