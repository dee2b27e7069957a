"""Reads what a policy learns from: weighted trajectories (Eq. 6), pairs of a correct and a wrong one, or questions.

The objective decides which of the three (`DATA_KIND`).
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sophia_cli.errors import RecordError, UsageError
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.jsonl import read_records
from sophia_cli.io.rereadable import InputFiles, RereadableInputs, copy_pipes
from sophia_cli.io.shards import Shard
from sophia_cli.models.aliases import ModelRef
from sophia_cli.records import Record, record_name, where_of
from sophia_cli.rewards.preference_pairs import preference_pairs
from sophia_cli.rewards.training_set import LogFunction, load_weighted, unique_items, without_errors
from sophia_cli.rewards.trajectory import SelectionRule
from sophia_cli.runtime.progress import log_line
from sophia_cli.training.examples import TrainExample, draw_rows, mixed_row, pair_row, question_row, trajectory_row

WHOLE_SHARD = Shard()
T = TypeVar("T", Record, tuple[Record, Record])


@dataclass
class TrainingData:
    """The rows to train on, and the number of skipped ones by cause."""

    rows: list[TrainExample]
    left: Counter[str]


def read_trajectories(
    files: list[str],
    mixes: list[str],
    rule: SelectionRule | None,
    model: ModelRef,
    seed: int,
    log: LogFunction,
    plain: bool = False,
    part: Shard = WHOLE_SHARD,
    limit: int | None = None,
) -> TrainingData:
    """Reads the rows of the graded files, weighted by Eq. 6, and of the files that are mixed in.

    Args:
        files: Graded files.
        mixes: `FILE[:ratio]` of each file to mix in.
        rule: How to propagate records without weights; None if the user gave neither `--alpha` nor `--keep`.
        plain: Files without trajectories hold chats, captions, or questions and answers, as in `--mix` (the warm-up).
        part, limit: Apply to the rows of `files`, not to those mixed in.

    Raises:
        UsageError: records have weights and the user gave a rule.
        InputError: only some records have weights.
    """
    left: Counter[str] = Counter()

    def lost(record: Record) -> None:
        left["failed before"] += 1
        log_line(f"train: {record_name(record)} skipped, it failed before: {record['error']}")

    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        source = InputFiles(copy_pipes(files, folder))
        warms_up = plain and not any("trajectory" in record for record in without_errors(source.read_records()))
        if warms_up and rule is not None:
            raise UsageError("--alpha and --keep select trajectories, but there are none; omit them")
        if warms_up:
            rows = _make_rows(
                part.take(without_errors(source.read_records(), lost), limit),
                lambda record: mixed_row(record, model.prompt_style),
                left,
            )
        else:
            kept = load_weighted(source, rule, lost, "train", log)
            rows = _make_rows(part.take(kept, limit), lambda record: trajectory_row(record, model.prompt_style), left)
    rows = [replace(row, source=", ".join(files)) for row in rows]
    base = len(rows)
    for mix in mixes:
        file, ratio = split_mix(mix)
        read = _make_rows(
            without_errors(read_records([file]), lost), lambda record: mixed_row(record, model.prompt_style), left
        )
        drawn = [replace(row, source=file) for row in draw_rows(read, ratio, base, seed)]
        fewer = (
            f"; {ratio:g} per trajectory were requested, for {base} trajectories"
            if ratio and len(drawn) < round(ratio * base)
            else ""
        )
        log(f"train: {len(drawn)} of {len(read)} rows of {file} mixed in{fewer}")
        rows += drawn
    if not warms_up:
        _log_ratio_notice(rows[:base], log)
    return TrainingData(rows, left)


def read_pairs(
    files: list[str], rule: SelectionRule, per_item: int, model: ModelRef, log: LogFunction, part: Shard, limit: int | None
) -> TrainingData:
    """Reads a row for each pair of a correct and a wrong trajectory of an item (`rewards/preference_pairs.py`).

    Args:
        part: Of the items.
        limit: Of the pairs.

    Raises:
        InputError: a record cannot be read.
    """
    left: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        lines = RereadableInputs([path for _, path in copy_pipes(files, folder)])
        pairs = islice(preference_pairs(lines, rule, per_item, part, RecordCounter()), limit)
        rows = _make_rows(pairs, lambda pair: pair_row(*pair, model.prompt_style), left)
    log(f"train: {len(rows)} pairs of a correct and a wrong trajectory")
    return TrainingData([replace(row, source=", ".join(files)) for row in rows], left)


def read_questions(files: list[str], model: ModelRef, part: Shard, limit: int | None) -> TrainingData:
    """Reads a row for each item, whatever else its records hold.

    Raises:
        InputError: one id stands for two items.
    """
    left: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        items = part.take(unique_items(InputFiles(copy_pipes(files, folder))), limit)
        rows = _make_rows(items, lambda item: question_row(check_gradable(item), model.prompt_style), left)
    return TrainingData([replace(row, source=", ".join(files)) for row in rows], left)


def check_gradable(item: Record) -> Record:
    """Returns the item.

    Raises:
        RecordError: its own gold answer, given as an answer, cannot be graded.
    """
    from sophia_cli.verifier import verify

    verdict = verify(f"\\boxed{{{item.get('answer')}}}", item)
    if item.get("answer") is not None and verdict.reward is None:
        raise RecordError(f"{where_of(item)}: field `answer` cannot be graded ({verdict.verdict}); fix it, or omit it")
    return item


def _log_ratio_notice(trajectories: list[TrainExample], log: LogFunction) -> None:
    """Logs whether the assumption of Lemma A.3 can be measured: whether sampling stored log µ."""
    known = sum(row.behavior_logp is not None for row in trajectories)
    if known:
        log(f"train: {known} of {len(trajectories)} trajectories have log µ; the metrics include log π − log µ (Lemma A.3)")
    elif trajectories:
        log("train: no trajectory has log µ, so the assumption of Lemma A.3 is not checked (`reason --logprobs` stores it)")


def split_mix(mix: str) -> tuple[str, float | None]:
    """Splits `FILE[:ratio]` into the file and the number of rows to draw per trajectory.

    Raises:
        UsageError: the ratio is not a positive number.
    """
    file, colon, ratio = mix.rpartition(":")
    if not colon or Path(mix).exists():
        return mix, None
    try:
        share = float(ratio)
    except ValueError:
        share = -1.0
    if not 0 < share < float("inf"):
        raise UsageError(f"--mix {mix}: the ratio after the colon must be a positive number, as in caps.jsonl:0.25")
    return file, share


def _make_rows(found: Iterable[T], make: Callable[[T], TrainExample], left: Counter[str]) -> list[TrainExample]:
    """Makes the rows; logs those that fail, even with `--quiet`."""
    rows = []
    for each in found:
        try:
            rows.append(make(each))
        except RecordError as error:
            left["unreadable record"] += 1
            log_line(f"train: {_row_name(each)} skipped: {error}")
    return rows


def _row_name(found: Record | tuple[Record, Record]) -> str:
    return record_name(found[0] if isinstance(found, tuple) else found)
