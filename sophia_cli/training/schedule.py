"""The order of the data: which rows make which update, which rank takes which of them, and the learning rate.

Pure arithmetic: no rank needs to ask another. The rows of an update are distributed by length, longest first, so that
ranks wait little for each other and padding is small. That does not change the gradient: within an update the order of
rows does not matter (objectives/sophia.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class MicroBatch:
    """Row numbers of one forward pass. filler: it keeps this rank in step with the others and is fully masked."""

    rows: list[int]
    filler: bool = False


def shuffle_updates(count: int, batch_size: int, epochs: float, max_steps: int | None, seed: int) -> list[list[int]]:
    """Returns the row numbers of each update: epochs shuffled by the seed, cut into batches; the last batch of an epoch
    is smaller.

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
    """Like `shuffle_updates`, but every batch is full: one may reach into the next epoch (TRL's trainers weigh a short
    batch wrongly).
    """
    steps = max_steps or math.ceil(epochs * count / batch_size)
    passes = shuffle_updates(count, count, math.ceil(steps * batch_size / count), None, seed)
    rows = [row for each in passes for row in each]
    return [rows[begin : begin + batch_size] for begin in range(0, steps * batch_size, batch_size)]


def share_batch(
    batch: Sequence[int], lengths: Sequence[int], micro_batch_size: int, rank: int, size: int
) -> list[MicroBatch]:
    """Returns the micro-batches of one rank. Every rank has the same number, so some may be fillers.

    Args:
        batch: Row numbers of the update.
        lengths: Tokens of every row, by number.
        micro_batch_size: Rows per forward pass.
        rank, size: Rank and world size.
    """
    rows = sorted(batch, key=lambda row: (-lengths[row], row))
    parts = [MicroBatch(rows[begin : begin + micro_batch_size]) for begin in range(0, len(rows), micro_batch_size)]
    filler = MicroBatch(rows[-1:], filler=True)
    each = math.ceil(len(parts) / size)
    mine = parts[rank::size]
    return mine + [filler] * (each - len(mine))


def learning_rate(step: int, steps: int, peak: float, least: float) -> float:
    """Returns the rate of update `step` (from 0): a cosine from `peak` that would reach `least` × `peak` after the last
    update.
    """
    return peak * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * step / steps)))
