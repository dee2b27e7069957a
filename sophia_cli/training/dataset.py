"""What a policy learns from, read from files: weighted trajectories (Eq. 6), pairs of a right and a wrong one, or questions.

Which of the three an objective reads, it says itself (`DATA_KIND`).
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

FULL_RATIO = Shard()
T = TypeVar("T", Record, tuple[Record, Record])


@dataclass
class TrainingData:
    """The rows to train on, and what was left out: how many by cause."""

    rows: list[TrainExample]
    left: Counter[str]


def read_trajectories(
    files: list[str],
    mixes: list[str],
    rule: SelectionRule | None,
    model: ModelRef,
    seed: int,
    tell: LogFunction,
    plain: bool = False,
    part: Shard = FULL_RATIO,
    limit: int | None = None,
) -> TrainingData:
    """The rows of the graded files, weighted by Eq. 6, and of the files mixed in.

    plain: files without trajectories hold chats, captions, or questions and answers, as `--mix` takes them (the warm-up).
    part, limit: of the rows that the files give, not of those mixed in.
    rule: how to propagate records that carry no weight; None means that the user gave neither `--alpha` nor `--keep`.
    Raises UsageError when weights and those options come together, InputError when some records have weights and some not.
    """
    left: Counter[str] = Counter()

    def lost(record: Record) -> None:
        left["failed before"] += 1
        log_line(f"train: {record_name(record)} left out: it failed before: {record['error']}")

    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        source = InputFiles(copy_pipes(files, folder))
        warms_up = plain and not any("trajectory" in record for record in without_errors(source.read_records()))
        if warms_up and rule is not None:
            raise UsageError("--alpha and --keep choose trajectories, and there are none; leave them out")
        if warms_up:
            rows = _make_rows(
                part.take(without_errors(source.read_records(), lost), limit),
                lambda record: mixed_row(record, model.prompt_style),
                left,
            )
        else:
            kept = load_weighted(source, rule, lost, "train", tell)
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
            f"; {ratio:g} for each of {base} trajectories were asked for"
            if ratio and len(drawn) < round(ratio * base)
            else ""
        )
        tell(f"train: {len(drawn)} of {len(read)} rows of {file} mixed in{fewer}")
        rows += drawn
    if not warms_up:
        _log_ratio_notice(rows[:base], tell)
    return TrainingData(rows, left)


def read_pairs(
    files: list[str], rule: SelectionRule, per_item: int, model: ModelRef, tell: LogFunction, part: Shard, limit: int | None
) -> TrainingData:
    """A row for each pair of a right trajectory and a wrong one of the same item (pairs.py). Raises InputError.

    part: of the items; limit: of the pairs.
    """
    left: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        lines = RereadableInputs([path for _, path in copy_pipes(files, folder)])
        pairs = islice(preference_pairs(lines, rule, per_item, part, RecordCounter()), limit)
        rows = _make_rows(pairs, lambda pair: pair_row(*pair, model.prompt_style), left)
    tell(f"train: {len(rows)} pairs of a right and a wrong trajectory")
    return TrainingData([replace(row, source=", ".join(files)) for row in rows], left)


def read_questions(files: list[str], model: ModelRef, part: Shard, limit: int | None) -> TrainingData:
    """A row for each item, whatever else its records hold. Raises InputError for two items of one id."""
    left: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        items = part.take(unique_items(InputFiles(copy_pipes(files, folder))), limit)
        rows = _make_rows(items, lambda item: question_row(check_gradable(item), model.prompt_style), left)
    return TrainingData([replace(row, source=", ".join(files)) for row in rows], left)


def check_gradable(item: Record) -> Record:
    """The item. Raises RecordError where its own answer, given as an answer, cannot be told right from wrong."""
    from sophia_cli.verifier import verify

    verdict = verify(f"\\boxed{{{item.get('answer')}}}", item)
    if item.get("answer") is not None and verdict.reward is None:
        raise RecordError(f"{where_of(item)}: field `answer` cannot be graded ({verdict.verdict}); mend it, or leave it out")
    return item


def _log_ratio_notice(trajectories: list[TrainExample], tell: LogFunction) -> None:
    """Says whether Lemma A.3's assumption can be looked at: whether sampling stored log µ."""
    known = sum(row.behavior_logp is not None for row in trajectories)
    if known:
        tell(f"train: {known} of {len(trajectories)} trajectories carry log µ; log π − log µ is in the metrics (Lemma A.3)")
    elif trajectories:
        tell("train: no trajectory carries log µ: Lemma A.3's assumption stays unchecked (`reason --logprobs` stores it)")


def split_mix(mix: str) -> tuple[str, float | None]:
    """`FILE[:ratio]`: the file, and how many rows to draw as a share of the trajectories. Raises UsageError."""
    file, colon, ratio = mix.rpartition(":")
    if not colon or Path(mix).exists():
        return mix, None
    try:
        share = float(ratio)
    except ValueError:
        share = -1.0
    if not 0 < share < float("inf"):
        raise UsageError(f"--mix {mix}: the ratio after the colon is a positive number, as in caps.jsonl:0.25")
    return file, share


def _make_rows(found: Iterable[T], make: Callable[[T], TrainExample], left: Counter[str]) -> list[TrainExample]:
    """The rows; what gives none is named, whatever else is to be quiet."""
    rows = []
    for each in found:
        try:
            rows.append(make(each))
        except RecordError as error:
            left["unreadable record"] += 1
            log_line(f"train: {_row_name(each)} left out: {error}")
    return rows


def _row_name(found: Record | tuple[Record, Record]) -> str:
    return record_name(found[0] if isinstance(found, tuple) else found)
