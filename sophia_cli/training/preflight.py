"""Before hours are spent: every row is read as it will be trained on, and what cannot be is named and left out."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from transformers.utils import logging

from sophia_cli.errors import InputError
from sophia_cli.training.batches import Encoder, Left
from sophia_cli.training.plan import Plan, Sized
from sophia_cli.training.policy import encoder_of
from sophia_cli.training.rows import Row

Notice = Callable[[str], None]


def size_rows(plan: Plan, rows: list[Row], tell: Notice) -> Plan:
    """The plan with those rows that can be trained on whole; the others are named, and counted by cause.

    Raises InputError when none can be.
    """
    logging.disable_progress_bar()
    encoder, kept = encoder_of(plan), list[Sized]()
    left = Counter(plan.left)
    for row in rows:
        try:
            kept.append(size(row, encoder))
        except Left as reason:
            left[str(reason)] += 1
            tell(f"train: {row.name} left out: {reason}")
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(left.items())) or "none"
    tell(f"train: {len(kept)} rows to train on; left out: {causes}")
    if not kept:
        raise InputError("no row to train on; look at what was left out, or lower --alpha")
    return replace(plan, rows=kept, left=left)


def size(row: Row, encoder: Encoder) -> Sized:
    """A row and its tokens. Raises Left."""
    example = encoder.encode(row)
    return Sized(row, len(example.input_ids), example.supervised)
