"""The training loop: updates over the planned rows, checkpoints on the way, a whole model in the end.

Everything that an update depends on follows from the plan and the update's number (order.py), and the generators are
seeded anew for each: so a run that goes on from a checkpoint is the run that was never interrupted.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset
from transformers import set_seed
from transformers.utils import logging

from sophia_cli import registry
from sophia_cli.errors import SophiaError
from sophia_cli.training import checkpoints
from sophia_cli.training.batches import IGNORED, Encoder, Left
from sophia_cli.training.curve import Curve
from sophia_cli.training.engines import DeepSpeed, Engine, Plain, config_of, device_of, join
from sophia_cli.training.order import MicroBatch, learning_rate, share, updates
from sophia_cli.training.plan import Plan
from sophia_cli.training.policy import encoder_of, load_policy
from sophia_cli.training.ratios import Ratios
from sophia_cli.training.rows import Row
from sophia_cli.training.saved import save_model
from sophia_cli.training.scores import Scorer
from sophia_cli.training.settings import World

Emit = Callable[[dict[str, Any]], None]
LOADERS = 2
"""Processes that prepare batches, beside a GPU."""


def fit(plan: Plan, world: World, emit: Emit) -> None:
    """Trains and saves to `plan.out`; `emit` gets one record for each update. Every process calls it."""
    logging.disable_progress_bar()
    settings, steps = plan.settings, _updates(plan)
    config = config_of(settings, world)
    join(world, config is not None)
    spread = _spread_when_read(config) if config else None  # while this lives
    set_seed(settings.seed)
    encoder = encoder_of(plan)
    policy, scorer = load_policy(plan, bf16=config is not None and device_of(world).type == "cuda")
    whole = config is None or config["zero_optimization"]["stage"] < 3
    if device_of(world).type == "cpu" and whole:
        _pass_once(encoder, scorer, policy, [sized.row for sized in plan.rows[:2]])
    engine: Engine = DeepSpeed(policy, settings, world, config) if config else Plain(policy, settings, world)
    del spread
    begun = checkpoints.last(plan.draft, world.size)
    if begun:
        engine.load(begun[1])
    first = begun[0] if begun else 0
    curve = Curve(plan.draft, first, world)
    for told in curve.past:
        emit(told)
    batches = _batches(plan, world, encoder, first, steps)
    ratios = Ratios()
    for number in range(first, len(steps)):
        curve.add(told := _update(plan, world, engine, scorer, number, steps, batches, ratios))
        emit(told)
        if (number + 1) % settings.save_every == 0 or number + 1 == len(steps):  # the last: saving may fail
            checkpoints.save(engine, plan.draft, number + 1, world)
    save_model(plan, world, engine, policy, len(steps))
    if world.leads:
        emit({"model": str(plan.out), "rows": len(plan.rows), "steps": len(steps), "left_out": dict(plan.left)})


def _pass_once(encoder: Encoder, scorer: Scorer, policy: Any, rows: list[Row]) -> None:
    """A forward pass whose result nobody takes. On CPUs, about once in a hundred processes, the first pass through a decoder
    layer gave other last bits than all passes after it; no run is to begin with that one.
    """
    inputs = encoder.collate(rows)
    labels, _, _ = (inputs.pop(name) for name in ("labels", "weights", "behaviour"))
    with torch.no_grad():
        scorer.score(policy, inputs, labels)


def _spread_when_read(config: dict[str, Any]) -> Any:
    """Under ZeRO-3, transformers spreads weights over the processes as it reads them, while what this returns lives."""
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(config)


def _updates(plan: Plan) -> list[list[int]]:
    settings = plan.settings
    return updates(len(plan.rows), settings.batch_size, settings.epochs, settings.max_steps, settings.seed)


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
            names = ", ".join(row.name for row in rows)
            return f"{names}: {reason}, unlike before the training; mend it and type the command again"


def _batches(plan: Plan, world: World, encoder: Encoder, first: int, steps: list[list[int]]) -> Iterator[Any]:
    """The inputs of this process's forward passes from update `first` on."""
    parts = [part for batch in steps[first:] for part in _share(plan, world, batch)]
    cuda = device_of(world).type == "cuda"
    data = _MicroBatches(plan, encoder, parts, sees=world.size > 1)
    return iter(DataLoader(data, batch_size=None, shuffle=False, num_workers=LOADERS if cuda else 0, pin_memory=cuda))


def _share(plan: Plan, world: World, batch: list[int]) -> list[MicroBatch]:
    return share(batch, [sized.tokens for sized in plan.rows], plan.settings.micro_batch_size, world.rank, world.size)


def _update(
    plan: Plan,
    world: World,
    engine: Engine,
    scorer: Scorer,
    number: int,
    steps: list[list[int]],
    batches: Iterator[Any],
    ratios: Ratios,
) -> dict[str, Any]:
    """One update over one global batch: its loss, divided once, and what is told of it."""
    settings, batch = plan.settings, steps[number]
    set_seed((settings.seed + number * world.size + world.rank) % 2**32)
    tokens = sum(plan.rows[row].supervised for row in batch)
    denominator = float(tokens if settings.normalise == "tokens" else len(batch))
    objective = registry.find("objectives", settings.objective).loss
    parts = _share(plan, world, batch)
    total = torch.zeros((), device=engine.device)
    for place, part in enumerate(parts):
        if isinstance(made := next(batches), str):
            raise SophiaError(made)
        inputs = {name: values.to(engine.device) for name, values in made.items()}
        labels, weights, behaviour = (inputs.pop(name) for name in ("labels", "weights", "behaviour"))
        engine.begin(last=place == len(parts) - 1)
        logps = scorer.score(engine.model, inputs, labels)
        mask = (labels[:, 1:] != IGNORED).to(logps.dtype)
        loss = objective(logps, mask, weights, behaviour, denominator) * world.size
        engine.backward(loss)
        total += loss.detach() / world.size
        if not part.filler:
            ratios.add(logps.detach(), mask, behaviour)
    if world.size > 1:
        dist.all_reduce(total)
    rate = learning_rate(number, len(steps), settings.lr, settings.min_lr_ratio)
    norm = engine.step(rate)
    if not (math.isfinite(total) and math.isfinite(norm)):  # the same in every process
        raise SophiaError(f"step {number + 1}: loss {total.item():g}, gradient {norm:g}; begin anew with a lower --lr")
    shares = -(-len(plan.rows) // settings.batch_size)
    told = {"step": number + 1, "steps": len(steps), "loss": total.item(), "grad_norm": norm, "learning_rate": rate}
    return {**told, "epoch": (number + 1) / shares, "tokens": tokens, **ratios.told(world, engine.device)}
