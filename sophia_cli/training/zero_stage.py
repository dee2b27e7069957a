"""Which of DeepSpeed's stages a model needs: the one that spreads least and still fits."""

from collections.abc import Callable
from dataclasses import replace

from sophia_cli.errors import UsageError
from sophia_cli.training.run_state import TrainPlan, reference_count

STAGES = ("zero1", "zero2", "zero3", "zero3-offload")
"""Those of `deepspeed/`, in the order of how much they spread."""
WEIGHT_MEMORY_SHARE = 0.75
"""The share of a GPU's memory that weights, gradients and optimizer may take; the rest is for what the batch needs."""


def bytes_needed(stage: str, weights: int, trained: int, processes: int, references: int = 0) -> float:
    """Bytes on each GPU of weights (bf16), gradients (bf16) and AdamW's states (fp32: weights and two moments).

    none: weights, gradients and moments in fp32. weights, trained: numbers of parameters. references: copies that do not
    train, held as the weights are.
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
    """The first stage that fits into GPUs of so many bytes. Raises UsageError when none does."""
    for stage in STAGES:
        if bytes_needed(stage, weights, trained, processes, references) <= WEIGHT_MEMORY_SHARE * memory:
            return stage
    least = bytes_needed("zero3-offload", weights, trained, processes, references) / 1e9
    raise UsageError(
        f"{weights / 1e9:.1f} B weights take {least:.0f} GB on each of {processes} GPUs of {memory / 1e9:.0f} GB however "
        "they are spread; use more GPUs (--hostfile), --lora-rank 64, or a stage of your own with --deepspeed"
    )


def choose_stage(plan: TrainPlan, processes: int, cpu: bool, tell: Callable[[str], None]) -> TrainPlan:
    """The plan with `--deepspeed auto` settled, and told."""
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
    tell(f"train: {processes} process{'es' * (processes > 1)}, DeepSpeed {stage}")
    return replace(plan, config=replace(plan.config, deepspeed=stage))
