"""The training loop: updates over the planned rows, checkpoints on the way, a whole model in the end.

Everything that an update depends on follows from the plan and the update's number (order.py), and the generators are
seeded anew for each: so a run that goes on from a checkpoint is the run that was never interrupted.
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
from sophia_cli.training.collator import IGNORED, Encoder, Left, unlike_before
from sophia_cli.training.config import has_liger
from sophia_cli.training.deepspeed_config import config_of, spread_when_read
from sophia_cli.training.distributed import World
from sophia_cli.training.engines import DeepSpeed, Engine, Plain
from sophia_cli.training.importance_ratio import Ratios, pooled
from sophia_cli.training.logprobs import Scorer
from sophia_cli.training.loss_inputs import Scored
from sophia_cli.training.metrics_log import Curve, Emit
from sophia_cli.training.model import encoder_of, language_of, load_policy, warm_up
from sophia_cli.training.packing import packs
from sophia_cli.training.rendezvous import device_of, join
from sophia_cli.training.run_state import Plan, batches_of, epochs_after, updates_an_epoch
from sophia_cli.training.save import save_model
from sophia_cli.training.schedule import MicroBatch, learning_rate, share
from sophia_cli.training.sequence_parallel import Ulysses

LOADERS = 2
"""Processes that prepare batches, beside a GPU."""


@dataclass(frozen=True)
class Update:
    """One update as this process sees it: its rows, those it takes itself, and D, the denominator of the loss."""

    number: int
    parts: list[MicroBatch]
    tokens: int
    denominator: float


def fit(plan: Plan, world: World, emit: Emit) -> None:
    """Trains and saves to `plan.out`; `emit` gets one record for each update. Every process calls it."""
    logging.disable_progress_bar()
    settings, device = plan.settings, device_of(world)
    config = config_of(settings, world)
    ways = settings.sequence_parallel
    join(world, config is not None or ways > 1)
    spread = spread_when_read(config) if config else None  # while this lives
    set_seed(settings.seed)
    encoder = encoder_of(plan)
    policy = load_policy(plan, device, bf16=config is not None and device.type == "cuda")
    warm_up(policy, encoder, plan, device, config)
    ulysses = Ulysses(language_of(policy), world, ways) if ways > 1 else None
    scorer = Scorer(policy, packs(policy), device.type == "cuda" and has_liger(), ulysses)
    engine: Engine = DeepSpeed(policy, settings, world, config) if config else Plain(policy, settings, world)
    del spread
    begun = checkpoints.last(plan.draft, world.size)
    if begun:
        engine.load(begun[1])
    first = begun[0] if begun else 0
    curve = Curve(plan.draft, first, world)
    figures = list(curve.past)
    for told in figures:
        emit(told)
    updates = updates_of(plan, world)
    batches = _batches(plan, world, encoder, updates[first:])
    for update in updates[first:]:
        rate = learning_rate(update.number, len(updates), settings.lr, settings.min_lr_ratio)
        set_seed((settings.seed + update.number * world.size + world.rank) % 2**32)
        found = take(update, rate, plan, world, engine, scorer, batches)
        done = update.number + 1
        told = {"step": done, "steps": len(updates), **found, "epoch": epochs_after(plan, done)}
        curve.add(told)
        figures.append(told)
        emit(told)
        if done % settings.save_every == 0 or done == len(updates):  # the last: saving may fail
            checkpoints.save(engine, plan.draft, done, world)
    save_model(plan, world, engine.weights(), policy, len(updates))
    if world.leads:
        ends = {"model": str(plan.out), "rows": len(plan.rows), "steps": len(updates), "left_out": dict(plan.left)}
        emit({**ends, **pooled(figures[: updates_an_epoch(plan)])})  # of all kept trajectories, each once


def updates_of(plan: Plan, world: World) -> list[Update]:
    """All updates of the run, with this process's share of each."""
    settings, lengths = plan.settings, [sized.tokens for sized in plan.rows]
    ways = settings.sequence_parallel  # so many processes take the same rows
    found = []
    for number, rows in enumerate(batches_of(plan)):
        tokens = sum(plan.rows[row].supervised for row in rows)
        parts = share(rows, lengths, settings.micro_batch_size, world.rank // ways, world.size // ways)
        found.append(Update(number, parts, tokens, tokens if settings.normalize_by == "tokens" else len(rows)))
    return found


class _MicroBatches(Dataset[dict[str, torch.Tensor] | str]):
    """The inputs of each forward pass of this process; a text where there are none: why."""

    def __init__(self, plan: Plan, encoder: Encoder, parts: list[MicroBatch], sees: bool):
        self.plan, self.encoder, self.parts, self.sees = plan, encoder, parts, sees

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor] | str:
        part = self.parts[number]
        rows = [self.plan.rows[row].row for row in part.rows]
        try:
            return self.encoder.collate(rows, self.sees, part.filler)
        except Left as reason:
            return unlike_before(rows, reason)


def _batches(plan: Plan, world: World, encoder: Encoder, updates: list[Update]) -> Iterator[Any]:
    """The inputs of this process's forward passes, update after update."""
    cuda = device_of(world).type == "cuda"
    # one process alone, too, where the tower trains: no gradient at all would leave out its momentum and decay
    sees = world.size > 1 or plan.settings.train_vision or plan.settings.train_projector
    data = _MicroBatches(plan, encoder, [part for update in updates for part in update.parts], sees)
    return iter(DataLoader(data, batch_size=None, shuffle=False, num_workers=LOADERS if cuda else 0, pin_memory=cuda))


def take(
    update: Update, rate: float, plan: Plan, world: World, engine: Engine, scorer: Scorer, batches: Iterator[Any]
) -> dict[str, Any]:
    """Takes one update: its loss over all processes, divided once, and what else is told of it. Raises SophiaError."""
    objective, ways = registry.find("objectives", plan.settings.objective).loss, plan.settings.sequence_parallel
    total, ratios = torch.zeros((), device=engine.device), Ratios()
    for place, part in enumerate(update.parts, 1):
        if isinstance(made := next(batches), str):
            raise SophiaError(made)
        inputs = {name: values.to(engine.device) for name, values in made.items()}
        labels, weights, behaviour = (inputs.pop(name) for name in ("labels", "weights", "behaviour"))
        engine.begin(last=place == len(update.parts))
        logps = scorer.score(engine.model, inputs, labels)
        scored = Scored(logps, (labels[:, 1:] != IGNORED).to(logps.dtype), weights, behaviour, update.denominator)
        loss = objective(scored)
        engine.backward(loss * world.size)  # gradients are averaged over processes
        total += loss.detach() / ways
        if not part.filler and world.rank % ways == 0:
            ratios.add(logps.detach(), scored.mask_BT, behaviour)
    if world.size > 1:
        dist.all_reduce(total)
    norm = engine.step(rate)
    if not (math.isfinite(total) and math.isfinite(norm)):  # the same in every process
        raise SophiaError(
            f"step {update.number + 1}: loss {total.item():g}, gradient {norm:g}; begin anew with a lower --lr"
        )
    figures = {"loss": total.item(), "grad_norm": norm, "learning_rate": rate, "tokens": update.tokens}
    return {**figures, **ratios.told(world)}
