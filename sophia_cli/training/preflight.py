"""Checks every row before hours are spent: rows that cannot be trained on are named, and the plan is shown."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from zlib import crc32

import torch
from transformers.utils import logging

from sophia_cli.errors import InputError, UsageError
from sophia_cli.io.images import image_bytes, is_download, is_embedded
from sophia_cli.runtime.progress import Progress, log_line
from sophia_cli.runtime.worker_pool import ordered_map
from sophia_cli.training.collator import Collator, SkippedExample
from sophia_cli.training.examples import TrainExample
from sophia_cli.training.plan_report import print_plan
from sophia_cli.training.policy import context_length, make_encoder
from sophia_cli.training.run_state import SizedExample, TrainPlan, sequences_per_update
from sophia_cli.training.zero_stage import choose_stage

LogFunction = Callable[[str], None]
PARALLEL_THRESHOLD = 1000
"""Rows from which several processes read them. Each loads the tokenizer first."""
# Each worker loads the tokenizer and the image processor, so memory is the limit.
MAX_WORKERS = 32
# Images may come from a slow server; a row that takes longer is skipped and named.
ROW_TIMEOUT_SECONDS = 600.0
HINTS = {
    "trajectories": "no record has a weight other than 0 (lower --alpha in `propagate`), or the files are empty",
    "pairs": "give questions with right and wrong answers (`reason -n 8`)",
    "questions": "give questions with answers",
}


def check_rows(
    plan: TrainPlan, rows: list[TrainExample], processes: int, cpu: bool, log: LogFunction, quiet: bool
) -> TrainPlan:
    """Returns the plan with the trainable rows and with its ZeRO stage. Shows it on stderr unless `quiet`."""
    plan = choose_stage(size_rows(plan, rows, log, quiet), processes, cpu, log)
    if not quiet:
        print_plan(plan, processes, not cpu and torch.cuda.is_available(), make_encoder(plan))
    return plan


def check_trl_limits(plan: TrainPlan, processes: int) -> None:
    """Checks what TRL's trainers need.

    Raises:
        UsageError: the batch or the rollouts do not fit.
    """
    if plan.data_kind == "trajectories":
        return
    settings, each = plan.config, plan.config.micro_batch_size * processes
    if len(plan.rows) < settings.batch_size:
        raise UsageError(
            f"--batch-size {settings.batch_size}: there are only {len(plan.rows)} {plan.data_kind}; give a smaller number"
        )
    longest, context = max(sized.tokens for sized in plan.rows), context_length(plan)
    if plan.data_kind == "questions" and longest + settings.max_tokens > context:
        raise UsageError(
            f"--max-tokens {settings.max_tokens}: the model takes {context} tokens and the longest prompt has {longest}; "
            f"give at most {context - longest}"
        )
    if sequences_per_update(plan) % each:
        raise UsageError(
            f"--batch-size {settings.batch_size}: {sequences_per_update(plan)} sequences per update, "
            f"not a multiple of {each} ({processes} processes x --micro-batch-size {settings.micro_batch_size}); "
            "change one of them"
        )


def size_rows(plan: TrainPlan, rows: list[TrainExample], log: LogFunction, quiet: bool = True) -> TrainPlan:
    """Returns the plan with the rows that can be trained on as a whole; the others are logged and counted by cause.

    Raises:
        InputError: none can.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # we report rows that are too long ourselves
    kept, left = list[SizedExample](), Counter(plan.skipped)
    progress = Progress("train: reading", len(rows), quiet or len(rows) < PARALLEL_THRESHOLD, unit="rows")
    with progress.display():
        for row, sized in _sized_rows(plan, rows):
            progress.count_record()
            if isinstance(sized, SkippedExample):
                left[sized.cause] += 1
                log_line(f"train: {row.name} skipped: {sized}")
            else:
                kept.append(SizedExample(row, *sized))
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(left.items())) or "none"
    log(f"train: {len(kept)} rows to train on; skipped: {causes}")
    if not kept:
        remedy = "see the skipped rows above" if rows else HINTS[plan.data_kind]
        raise InputError(f"no row to train on; {remedy}")
    return replace(plan, rows=kept, skipped=left)


def _sized_rows(
    plan: TrainPlan, rows: list[TrainExample]
) -> Iterator[tuple[TrainExample, tuple[int, int, int] | SkippedExample]]:
    """Yields each row with its size, or why it is skipped; several processes do it for many rows."""
    if len(rows) < PARALLEL_THRESHOLD:
        encoder = make_encoder(plan)
        yield from ((row, size_row(row, encoder)) for row in rows)
        return
    work = partial(_size_in_a_worker, replace(plan, rows=[]))
    workers = min(os.cpu_count() or 1, MAX_WORKERS)
    yield from ordered_map(
        work, rows, workers, lambda row: row, ROW_TIMEOUT_SECONDS, lambda row, reason: SkippedExample("not read", reason)
    )


def _size_in_a_worker(plan: TrainPlan, row: TrainExample) -> tuple[int, int, int] | SkippedExample:
    if plan.model.path not in _encoders:
        torch.set_num_threads(1)
        logging.set_verbosity_error()
        _encoders[plan.model.path] = make_encoder(plan)
    return size_row(row, _encoders[plan.model.path])


_encoders: dict[str, Collator] = {}
"""One collator per worker."""


def size_row(row: TrainExample, encoder: Collator) -> tuple[int, int, int] | SkippedExample:
    """Returns the tokens of a row, its supervised tokens and the CRC-32 of its image files, or why it is skipped."""
    try:
        examples = [encoder.encode_row(row)]
        if row.rejected is not None:
            examples.append(encoder.encode_row(replace(row, answer=row.rejected)))
    except SkippedExample as reason:
        return reason.with_traceback(None)
    # Embedded images are in the row itself, and addresses are not downloaded twice.
    files = b"".join(image_bytes(image) for image in row.images if not (is_embedded(image) or is_download(image)))
    tokens, supervised = (
        sum(counts) for counts in zip(*((len(e.input_ids), e.supervised_tokens) for e in examples), strict=True)
    )
    return tokens, supervised, crc32(files)
