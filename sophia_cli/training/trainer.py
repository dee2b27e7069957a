"""The training loop: updates over the planned rows, checkpoints on the way, the saved model at the end.

Everything in an update follows from the plan and the update's number (`schedule.py`), and random generators are seeded
for each update. So a run that resumes from a checkpoint equals the run that was never interrupted.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset
from transformers import set_seed
from transformers.utils import logging

from sophia_cli import registry
from sophia_cli.errors import SophiaError
from sophia_cli.training import checkpoints
from sophia_cli.training.collator import IGNORE_INDEX, Collator, SkippedExample, rows_changed_error
from sophia_cli.training.config import has_liger
from sophia_cli.training.deepspeed_config import load_config, zero3_init
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.engines import DDPEngine, DeepSpeedEngine, Engine
from sophia_cli.training.importance_ratio import LogRatios, pool_stats
from sophia_cli.training.logprobs import LogprobHead
from sophia_cli.training.loss_inputs import LossInputs
from sophia_cli.training.metrics_log import EmitFunction, MetricsLog
from sophia_cli.training.packing import can_pack
from sophia_cli.training.policy import language_model, load_policy, make_encoder, warm_up_model
from sophia_cli.training.rendezvous import init_distributed, process_device
from sophia_cli.training.run_state import TrainPlan, epochs_after_steps, update_batches, updates_per_epoch
from sophia_cli.training.save import save_model
from sophia_cli.training.schedule import MicroBatch, learning_rate, share_batch
from sophia_cli.training.sequence_parallel import SequenceParallel

LOADER_PROCESSES = 2
"""Processes that prepare batches for a GPU."""


@dataclass(frozen=True)
class UpdatePlan:
    """One update as this rank sees it: its number, the rank's micro-batches, its tokens, and D, the denominator of the
    loss.
    """

    number: int
    parts: list[MicroBatch]
    tokens: int
    denominator: float


def train_with_loss(plan: TrainPlan, world: DistributedContext, emit: EmitFunction) -> None:
    """Trains and saves to `plan.out`; `emit` gets the metrics of each update. Every rank calls it."""
    logging.disable_progress_bar()
    settings, device = plan.config, process_device(world)
    config = load_config(settings, world)
    ways = settings.sequence_parallel
    init_distributed(world, config is not None or ways > 1)
    spread = zero3_init(config) if config else None  # active as long as it lives
    set_seed(settings.seed)
    encoder = make_encoder(plan)
    policy = load_policy(plan, device, bf16=config is not None and device.type == "cuda")
    warm_up_model(policy, encoder, plan, device, config)
    ulysses = SequenceParallel(language_model(policy), world, ways) if ways > 1 else None
    scorer = LogprobHead(policy, can_pack(policy), device.type == "cuda" and has_liger(), ulysses)
    engine: Engine = DeepSpeedEngine(policy, settings, world, config) if config else DDPEngine(policy, settings, world)
    del spread
    checkpoint = checkpoints.last_checkpoint(plan.work_dir, world.size)
    if checkpoint:
        engine.load_state(checkpoint[1])
    first = checkpoint[0] if checkpoint else 0
    curve = MetricsLog(plan.work_dir, first, world)
    figures = list(curve.past)
    for row in figures:
        emit(row)
    updates = plan_updates(plan, world)
    batches = _load_batches(plan, world, encoder, updates[first:])
    for update in updates[first:]:
        rate = learning_rate(update.number, len(updates), settings.lr, settings.min_lr_ratio)
        set_seed((settings.seed + update.number * world.size + world.rank) % 2**32)
        found = train_step(update, rate, plan, world, engine, scorer, batches)
        done = update.number + 1
        row = {"step": done, "steps": len(updates), **found, "epoch": epochs_after_steps(plan, done)}
        curve.add_update(row)
        figures.append(row)
        emit(row)
        if done % settings.save_every == 0 or done == len(updates):  # also after the last update, because saving may fail
            checkpoints.save_checkpoint(engine, plan.work_dir, done, world)
    save_model(plan, world, engine.gather_weights(), policy, len(updates))
    if world.is_main:
        ends = {"model": str(plan.out), "rows": len(plan.rows), "steps": len(updates), "left_out": dict(plan.skipped)}
        emit({**ends, **pool_stats(figures[: updates_per_epoch(plan)])})  # over the first epoch: each kept trajectory once


def plan_updates(plan: TrainPlan, world: DistributedContext) -> list[UpdatePlan]:
    """Returns all updates of the run, with this rank's share of each."""
    settings, lengths = plan.config, [sized.tokens for sized in plan.rows]
    ways = settings.sequence_parallel  # this many ranks take the same rows
    found = []
    for number, rows in enumerate(update_batches(plan)):
        tokens = sum(plan.rows[row].supervised for row in rows)
        parts = share_batch(rows, lengths, settings.micro_batch_size, world.rank // ways, world.size // ways)
        found.append(UpdatePlan(number, parts, tokens, tokens if settings.normalize_by == "tokens" else len(rows)))
    return found


class _MicroBatches(Dataset[dict[str, torch.Tensor] | str]):
    """The inputs of each forward pass of this rank; a text that says why where a batch cannot be made."""

    def __init__(self, plan: TrainPlan, encoder: Collator, parts: list[MicroBatch], sees: bool):
        self.plan, self.encoder, self.parts, self.sees = plan, encoder, parts, sees

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor] | str:
        part = self.parts[number]
        rows = [self.plan.rows[row].row for row in part.rows]
        try:
            return self.encoder.collate(rows, self.sees, part.filler)
        except SkippedExample as reason:
            return rows_changed_error(rows, reason)


def _load_batches(plan: TrainPlan, world: DistributedContext, encoder: Collator, updates: list[UpdatePlan]) -> Iterator[Any]:
    """Yields the inputs of this rank's forward passes, update after update."""
    cuda = process_device(world).type == "cuda"
    # also with one process where the tower trains: without a gradient, momentum and weight decay would be skipped
    sees = world.size > 1 or plan.config.train_vision or plan.config.train_projector
    data = _MicroBatches(plan, encoder, [part for update in updates for part in update.parts], sees)
    return iter(
        DataLoader(data, batch_size=None, shuffle=False, num_workers=LOADER_PROCESSES if cuda else 0, pin_memory=cuda)
    )


def train_step(
    update: UpdatePlan,
    rate: float,
    plan: TrainPlan,
    world: DistributedContext,
    engine: Engine,
    scorer: LogprobHead,
    batches: Iterator[Any],
) -> dict[str, Any]:
    """Takes one update: the loss over all ranks, divided once. Returns its metrics.

    Raises:
        SophiaError: loss or gradient is not finite, or a row changed.
    """
    objective, ways = registry.find("objectives", plan.config.objective).loss, plan.config.sequence_parallel
    total, ratios = torch.zeros((), device=engine.device), LogRatios()
    for number, part in enumerate(update.parts, 1):
        if isinstance(made := next(batches), str):
            raise SophiaError(made)
        inputs = {name: values.to(engine.device) for name, values in made.items()}
        labels, weights, behavior_logp = (inputs.pop(name) for name in ("labels", "weights", "behavior_logp"))
        engine.start_forward(last=number == len(update.parts))
        logps = scorer.score_batch(engine.model, inputs, labels)
        scored = LossInputs(
            logps, (labels[:, 1:] != IGNORE_INDEX).to(logps.dtype), weights, behavior_logp, update.denominator
        )
        loss = objective(scored)
        engine.backward(loss * world.size)  # gradients are averaged over ranks
        total += loss.detach() / ways
        if not part.filler and world.rank % ways == 0:
            ratios.add_batch(logps.detach(), scored.mask_BT, behavior_logp)
    if world.size > 1:
        dist.all_reduce(total)
    norm = engine.take_step(rate)
    if not (math.isfinite(total) and math.isfinite(norm)):  # the same on every rank
        raise SophiaError(
            f"step {update.number + 1}: loss {total.item():g}, gradient {norm:g}; start over with a lower --lr"
        )
    figures = {"loss": total.item(), "grad_norm": norm, "learning_rate": rate, "tokens": update.tokens}
    return {**figures, **ratios.log_ratio_stats(world)}
