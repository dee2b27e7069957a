"""Before hours are spent: every row is read as it will be trained on; what cannot be is named; the plan is shown."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from zlib import crc32

import torch
from transformers.utils import logging

from sophia_cli.errors import InputError, UsageError
from sophia_cli.io.images import image_bytes
from sophia_cli.runtime.progress import Progress, log_line
from sophia_cli.runtime.worker_pool import ordered_map
from sophia_cli.training.collator import Encoder, Left
from sophia_cli.training.examples import Row
from sophia_cli.training.model import context_of, encoder_of
from sophia_cli.training.plan_report import show
from sophia_cli.training.run_state import Plan, Sized, sequences
from sophia_cli.training.zero_stage import settled

Notice = Callable[[str], None]
MANY = 1000
"""Rows that are worth processes of their own to read them: each of these loads the tokenizer first."""
MOST_WORKERS = 32
PATIENCE_SECONDS = 600.0
ELSEWHERE = ("data:", "http://", "https://")
"""Images that are in the row itself, or are not to be fetched twice."""
HINTS = {
    "trajectories": "no record has a weight other than 0 (lower --alpha in `propagate`), or the files are empty",
    "pairs": "give questions with right and wrong answers (`reason -n 8`)",
    "questions": "give questions with answers",
}


def preflight(plan: Plan, rows: list[Row], processes: int, cpu: bool, tell: Notice, quiet: bool) -> Plan:
    """The plan with those rows that can be trained on, and with its stage settled; shown on stderr unless `quiet`."""
    plan = settled(size_rows(plan, rows, tell, quiet), processes, cpu, tell)
    if not quiet:
        show(plan, processes, not cpu and torch.cuda.is_available(), encoder_of(plan))
    return plan


def refuse_unfit(plan: Plan, processes: int) -> None:
    """Raises UsageError for what TRL's trainers would not take as it was asked for."""
    if plan.reads == "trajectories":
        return
    settings, each = plan.settings, plan.settings.micro_batch_size * processes
    if len(plan.rows) < settings.batch_size:
        raise UsageError(
            f"--batch-size {settings.batch_size}: there are {len(plan.rows)} {plan.reads}; give no more than that"
        )
    longest, context = max(sized.tokens for sized in plan.rows), context_of(plan)
    if plan.reads == "questions" and longest + settings.max_tokens > context:
        raise UsageError(
            f"--max-tokens {settings.max_tokens}: the model takes {context} tokens, and the longest prompt is of {longest}; "
            f"give no more than {context - longest}"
        )
    if sequences(plan) % each:
        raise UsageError(
            f"--batch-size {settings.batch_size}: {sequences(plan)} sequences an update are no multiple of {each}, what "
            f"{processes} x --micro-batch-size {settings.micro_batch_size} take at once; change one of them"
        )


def size_rows(plan: Plan, rows: list[Row], tell: Notice, quiet: bool = True) -> Plan:
    """The plan with those rows that can be trained on whole; the others are named, and counted by cause.

    Raises InputError when none can be.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what is too long is said here
    kept, left = list[Sized](), Counter(plan.left)
    progress = Progress("train: reading", len(rows), quiet or len(rows) < MANY, unit="rows")
    with progress.display():
        for row, sized in _sized(plan, rows):
            progress.count_record()
            if isinstance(sized, Left):
                left[sized.cause] += 1
                log_line(f"train: {row.name} left out: {sized}")
            else:
                kept.append(Sized(row, *sized))
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(left.items())) or "none"
    tell(f"train: {len(kept)} rows to train on; left out: {causes}")
    if not kept:
        mend = "look at what was left out" if rows else HINTS[plan.reads]
        raise InputError(f"no row to train on; {mend}")
    return replace(plan, rows=kept, left=left)


def _sized(plan: Plan, rows: list[Row]) -> Iterator[tuple[Row, tuple[int, int, int] | Left]]:
    """Each row with its `size`, or why it cannot be trained on; many by several processes."""
    if len(rows) < MANY:
        encoder = encoder_of(plan)
        yield from ((row, size(row, encoder)) for row in rows)
        return
    work = partial(_size_in_a_worker, replace(plan, rows=[]))
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    yield from ordered_map(
        work, rows, workers, lambda row: row, PATIENCE_SECONDS, lambda row, reason: Left("not read", reason)
    )


def _size_in_a_worker(plan: Plan, row: Row) -> tuple[int, int, int] | Left:
    if plan.model.path not in _encoders:
        torch.set_num_threads(1)
        logging.set_verbosity_error()
        _encoders[plan.model.path] = encoder_of(plan)
    return size(row, _encoders[plan.model.path])


_encoders: dict[str, Encoder] = {}
"""A worker's own, made once."""


def size(row: Row, encoder: Encoder) -> tuple[int, int, int] | Left:
    """A row's tokens, its supervised ones and the CRC-32 of its images' files, or why it cannot be trained on."""
    try:
        examples = [encoder.encode(row)]
        if row.rejected is not None:
            examples.append(encoder.encode(replace(row, answer=row.rejected)))
    except Left as reason:
        return reason.with_traceback(None)
    files = b"".join(image_bytes(image) for image in row.images if not image.startswith(ELSEWHERE))
    tokens, supervised = (sum(counts) for counts in zip(*((len(e.input_ids), e.supervised) for e in examples), strict=True))
    return tokens, supervised, crc32(files)
