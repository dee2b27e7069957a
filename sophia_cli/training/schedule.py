"""Which rows make which update, and which process takes which of them. Pure arithmetic: no process needs to ask another.

The rows of one update are dealt out by length, longest first, so that the processes wait little for each other and
padding is small. That changes no gradient: within an update the order of the rows plays no part (objectives/sophia.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class MicroBatch:
    """Row numbers of one forward pass. filler: it only keeps this process in step with the others, and counts nothing."""

    rows: list[int]
    filler: bool = False


def shuffle_updates(count: int, batch_size: int, epochs: float, max_steps: int | None, seed: int) -> list[list[int]]:
    """The row numbers of each update: epochs in an order drawn by the seed, cut into batches; an epoch's last is smaller.

    Fractional epochs are rounded up to whole updates.
    """
    each = math.ceil(count / batch_size)
    steps = max_steps or math.ceil(epochs * each)
    found: list[list[int]] = []
    for epoch in range(math.ceil(steps / each)):
        rows = list(range(count))
        Random(f"order/{seed}/{epoch}").shuffle(rows)
        found += [rows[begin : begin + batch_size] for begin in range(0, count, batch_size)]
    return found[:steps]


def full_updates(count: int, batch_size: int, epochs: float, max_steps: int | None, seed: int) -> list[list[int]]:
    """As `updates`, but every batch is whole: one may reach into the next epoch (TRL's trainers weigh a short one amiss)."""
    steps = max_steps or math.ceil(epochs * count / batch_size)
    passes = shuffle_updates(count, count, math.ceil(steps * batch_size / count), None, seed)
    rows = [row for each in passes for row in each]
    return [rows[begin : begin + batch_size] for begin in range(0, steps * batch_size, batch_size)]


def share_batch(
    batch: Sequence[int], lengths: Sequence[int], micro_batch_size: int, rank: int, size: int
) -> list[MicroBatch]:
    """The micro-batches of one process of `size`; every process has as many, so some may be fillers.

    lengths: tokens of every row, by number.
    """
    rows = sorted(batch, key=lambda row: (-lengths[row], row))
    parts = [MicroBatch(rows[begin : begin + micro_batch_size]) for begin in range(0, len(rows), micro_batch_size)]
    filler = MicroBatch(rows[-1:], filler=True)
    each = math.ceil(len(parts) / size)
    mine = parts[rank::size]
    return mine + [filler] * (each - len(mine))


def learning_rate(step: int, steps: int, peak: float, least: float) -> float:
    """The rate of update `step` (from 0): a cosine from `peak` that would reach `least` × `peak` after the last."""
    return peak * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * step / steps)))
