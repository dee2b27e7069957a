"""Runs the objectives that TRL has a trainer for. Checkpoints, resume, metrics and saving work as in our own loop."""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from logging import ERROR, getLogger
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from transformers import TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from sophia_cli import registry
from sophia_cli.errors import SophiaError
from sophia_cli.training import checkpoints
from sophia_cli.training.deepspeed_config import load_config, zero3_init
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.metrics_log import EmitFunction, MetricsLog
from sophia_cli.training.policy import load_policy, make_encoder, warm_up_model
from sophia_cli.training.rendezvous import init_distributed, process_device
from sophia_cli.training.run_state import TrainPlan, epochs_after_steps, sequences_per_update, update_batches
from sophia_cli.training.save import save_model

TRL_MANAGED_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
"""Keys of the DeepSpeed configuration that the trainer sets itself."""


def train_with_trl(plan: TrainPlan, world: DistributedContext, emit: EmitFunction) -> None:
    """Trains and saves to `plan.out`; `emit` gets the metrics of each update. Every rank calls it."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    getLogger("trl").setLevel(ERROR)  # it would print every answer that could not be graded
    getLogger("accelerate").setLevel(ERROR)  # it would log what it corrects by itself
    objective = registry.find("objectives", plan.config.objective)
    config, device = load_config(plan.config, world), process_device(world)
    init_distributed(world, config is not None)
    set_seed(plan.config.seed)
    # transformers loads weights in shards while this object lives.
    spread = zero3_init(config) if config else None  # active as long as it lives
    policy = load_policy(plan, device, bf16=config is not None and device.type == "cuda")
    del spread
    encoder = make_encoder(plan)
    warm_up_model(policy, encoder, plan, device, config)
    trainer = objective.make_trainer(plan, policy, encoder, trainer_arguments(plan, world, config))
    checkpoint = checkpoints.last_checkpoint(plan.work_dir, world.size)
    curve = MetricsLog(plan.work_dir, checkpoint[0] if checkpoint else 0, world)
    for row in curve.past:
        emit(row)
    trainer._save_checkpoint = partial(_save_checkpoint, trainer._save_checkpoint, plan)
    # It would print to stdout, where only our metrics go.
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(MetricsCallback(plan, world, curve, emit, objective.METRIC_NAMES))
    with _policy_tensor_names(policy):
        trainer.train(resume_from_checkpoint=str(checkpoint[1]) if checkpoint else None)
    save_model(plan, world, _gather_weights(trainer, config), policy, trainer.state.global_step)
    if world.is_main:
        emit(
            {
                "model": str(plan.out),
                "rows": len(plan.rows),
                "steps": trainer.state.global_step,
                "left_out": dict(plan.skipped),
            }
        )


@contextlib.contextmanager
def _policy_tensor_names(policy: Any) -> Iterator[None]:
    """While the block runs, checkpoints use the policy's own tensor names. transformers writes the names of the model's
    files otherwise, and does not find them when it reads a checkpoint.
    """
    base = policy.get_base_model() if hasattr(policy, "peft_config") else policy
    names, base._weight_conversions = base._weight_conversions, []
    try:
        yield
    finally:
        base._weight_conversions = names


def trainer_arguments(plan: TrainPlan, world: DistributedContext, config: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the arguments common to all TRL trainers: our optimizer, learning rate, precision, DeepSpeed and
    checkpoints.
    """
    settings, cuda = plan.config, process_device(world).type == "cuda"
    return {
        "output_dir": str(plan.work_dir),
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": sequences_per_update(plan) // (settings.micro_batch_size * world.size),
        "max_steps": len(update_batches(plan)),
        "learning_rate": settings.lr,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": settings.min_lr_ratio},
        "weight_decay": settings.weight_decay,
        "max_grad_norm": plan.config.max_grad_norm,
        "bf16": cuda,
        "use_cpu": not cuda,
        "gradient_checkpointing": cuda,
        "deepspeed": config and {**config, **dict.fromkeys(TRL_MANAGED_KEYS, "auto")},
        "seed": settings.seed,
        "save_steps": settings.save_every,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        # The collator reads all fields of a row.
        "remove_unused_columns": False,
    }


def _save_checkpoint(write: Callable[..., None], plan: TrainPlan, *arguments: Any) -> None:
    """Writes a checkpoint with the trainer's own function.

    Raises:
        SophiaError: the disk is full.
    """
    try:
        write(*arguments)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch raises RuntimeError on a full disk
        raise checkpoints.write_error(plan.work_dir, error) from None


class MetricsCallback(TrainerCallback):
    """Logs every update, and marks a checkpoint when it is complete."""

    def __init__(
        self, plan: TrainPlan, world: DistributedContext, curve: MetricsLog, emit: EmitFunction, names: dict[str, str]
    ):
        self.plan, self.world, self.curve, self.emit, self.names = plan, world, curve, emit, names
        self.tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tokens = int(state.num_input_tokens_seen)  # tokens before the checkpoint, where the trainer counts them

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step, loss, norm = state.global_step, float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise SophiaError(f"step {step}: loss {loss:g}, gradient {norm:g}; start over with a lower --lr")
        seen = int(logs.get("num_tokens", 0))
        figures = {"loss": loss, "grad_norm": norm, "learning_rate": logs["learning_rate"], "tokens": seen - self.tokens}
        self.tokens = seen
        more = {ours: logs[theirs] for theirs, ours in self.names.items() if theirs in logs}
        row = {"step": step, "steps": state.max_steps, **figures, "epoch": epochs_after_steps(self.plan, step), **more}
        self.curve.add_update(row)
        self.emit(row)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.world.is_main:
            folder = self.plan.work_dir / f"checkpoint-{state.global_step}"
            checkpoints.mark_complete(folder, state.global_step, self.world)


def _gather_weights(trainer: Any, config: dict[str, Any] | None) -> dict[str, torch.Tensor] | None:
    """Returns all full weights on the main rank."""
    if config is not None and config["zero_optimization"]["stage"] == 3:
        # Every rank must call it: each holds a part of the weights.
        return trainer.deepspeed._zero3_consolidated_16bit_state_dict()  # type: ignore[no-any-return]
    return trainer.model.state_dict() if not dist.is_initialized() or dist.get_rank() == 0 else None
