"""Step 4: the reward flows back to the caption (Eq. 5), and the best trajectories are kept (Eq. 6).

The first pass reads a few fields of each line into the table, the second pass writes the lines in their order. Texts
are neither parsed nor held: a line is written as it was read, with three more fields.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import asdict

import orjson
from xxhash import xxh3_64_intdigest

from sophia_cli.errors import RecordError, UsageError
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.jsonl import parse_record, read_records
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.io.rereadable import RereadableInputs, file_changed_error
from sophia_cli.io.shards import Shard
from sophia_cli.records import AFTER_CAPTION, Record, error_record, has_failed, record_name
from sophia_cli.rewards.loading import decode_lines, load_table, make_lookup
from sophia_cli.rewards.table import EARLY_STOP, FAILED, NOT_TRAJECTORY, PROPAGATED, TrajectoryTable
from sophia_cli.rewards.trajectory import SelectionRule, decode_checked
from sophia_cli.runtime.progress import log_line
from sophia_cli.steps._common import StepOptions, plain_settings
from sophia_cli.steps._runner import run_step

SELECTIONS = ("shortest", "random", "all")


def run(options: StepOptions, files: list[str], rule: SelectionRule, only_selected: bool, only_unsolved: bool) -> int:
    """`sophia propagate`: reads graded records, writes them with rewards and weights. Returns the exit code."""
    if only_selected and only_unsolved:
        raise UsageError("--selected and --unsolved select different records; give only one of them")
    emit = "selected" if only_selected else "unsolved" if only_unsolved else "all"
    if rule.select not in SELECTIONS:
        raise UsageError(f"--select {rule.select}: choose from {', '.join(SELECTIONS)}")
    if options.dry_run:
        first = next(read_records(files), None)
        name = "nothing to read" if first is None else f"first {record_name(first)}"
        log_line(f"propagate: {plain_settings(vars(rule))}; writes {emit}; {name}")
        return 0
    key = "caption_id" if emit == "unsolved" else "trajectory_id"

    def produce(output: RecordWriter, counter: RecordCounter) -> Iterator[Record | bytes]:
        return propagate_records(RereadableInputs(files), rule, options.parsed_shard, options.limit, emit, output, counter)

    return run_step("propagate", key, options, {**asdict(rule), "emit": emit}, produce, inputs=files, rewrite=True)


def propagate_records(
    lines: RereadableInputs,
    rule: SelectionRule,
    part: Shard,
    limit: int | None,
    emit: str,
    output: RecordWriter,
    counter: RecordCounter,
) -> Iterator[Record | bytes]:
    """Yields the records in order with `caption_reward`, `selected` and `weight`.

    Args:
        emit: `all`; `selected` for the kept records; `unsolved` for the captions of items in which nothing qualified.
            Records with a bad field are written with `error`; where only some records are written, they are logged
            and counted instead.
    """
    table = TrajectoryTable(rule)
    if lines.from_pipe and emit != "unsolved":
        yield from _propagate_stream(lines, table, part, limit, emit, output, counter)
        return
    bad = dict(load_table(lines, table, counter))
    import numpy as np  # imported late, so that the reading processes start at once

    from sophia_cli.rewards.selection import as_numpy, rows_in_shard, select_trajectories

    mine = rows_in_shard(table, part, limit)
    if emit != "all":
        odd = mine & (as_numpy(table.marks) & (NOT_TRAJECTORY | FAILED) != 0)
        _log_failures(lines, table, np.flatnonzero(odd).tolist(), bad, output)
    choice = select_trajectories(table, mine, make_lookup(lines, table))
    if emit == "unsolved":
        yield from _unsolved_captions(lines, [table.offsets[row] for row in np.flatnonzero(mine & ~choice.solved)])
        return
    rows = np.flatnonzero(mine & choice.selected if emit == "selected" else mine)
    rewards, kept = choice.rewards[rows].tolist(), choice.selected[rows].tolist()
    yield from _annotate_lines(lines, table, rows.tolist(), rewards, kept, bad, emit == "selected")


def _propagate_stream(
    lines: RereadableInputs,
    table: TrajectoryTable,
    part: Shard,
    limit: int | None,
    emit: str,
    output: RecordWriter,
    counter: RecordCounter,
) -> Iterator[Record | bytes]:
    """Does the same for a pipe: an item is written when it is complete."""
    from sophia_cli.rewards.streaming import NOT_SELECTED, PASS_THROUGH, SELECTED, StreamingSelector

    def leaving() -> Iterator[Record | bytes]:
        wanted = (SELECTED,) if emit == "selected" else (SELECTED, NOT_SELECTED, PASS_THROUGH)
        out = [(row, reward, state == SELECTED) for row, state, reward in selector.pop_ready() if state in wanted]
        if out:
            rows, rewards, kept = map(list, zip(*out, strict=True))
            yield from _annotate_lines(lines, table, rows, rewards, kept, bad, emit == "selected")

    selector = StreamingSelector(table, make_lookup(lines, table), part, limit)
    bad: dict[int, str] = {}
    found = (found for source in lines.iter_files() for found in decode_lines(source.read_lines(), source.name))
    for offset, content, row in found:
        counter.count += 1
        if isinstance(row, Record):
            table.add_non_trajectory(row, offset)
            if not content:
                bad[len(table) - 1] = row.where
        else:
            table.add_rows([row], [offset], [content])
        selector.add_last_row()
        if emit != "all" and selector.states[-1] == PASS_THROUGH:  # not a trajectory, or a failed one
            _log_failures(lines, table, [len(table) - 1], bad, output)
        yield from leaving()
    selector.finish_input()
    yield from leaving()


def _log_failures(
    lines: RereadableInputs, table: TrajectoryTable, rows: list[int], bad: dict[int, str], output: RecordWriter
) -> None:
    """Logs those of these rows that failed and would be written with `emit="all"`. Failures of earlier steps are not
    counted here.
    """
    for row, line in zip(rows, lines.lines_at(table.offsets[row] for row in rows), strict=True):
        record = parse_record(line, bad.get(row, ""))
        if row in bad:
            output.log_failure(_error_fields(record))
        elif has_failed(record):
            log_line(f"propagate: {record_name(record)} is left out, it failed before: {record['error']}")


def _annotate_lines(
    lines: RereadableInputs,
    table: TrajectoryTable,
    rows: list[int],
    rewards: list[float],
    kept: list[bool],
    bad: dict[int, str],
    as_full_run: bool,
) -> Iterator[Record | bytes]:
    """Yields the lines of these rows with three more fields; failures unchanged.

    Args:
        rewards: R(c) of each row; NaN if none.
        bad: The places of the rows that cannot be decoded.
        as_full_run: Omit `stop_alpha`. It guards a file from which captions are missing; the kept records alone are those
            of a run without early stop.
    """
    found = lines.lines_at(table.offsets[row] for row in rows)
    for row, line, reward, selected in zip(rows, found, rewards, kept, strict=True):
        if table.marks[row] & (NOT_TRAJECTORY | FAILED):
            record = parse_record(line, bad.get(row, ""))
            yield _error_fields(record) if row in bad else record
            continue
        if xxh3_64_intdigest(line) != table.contents[row]:
            raise file_changed_error(", ".join(lines.paths))
        fields = {"caption_reward": None if reward != reward else reward, "selected": selected, "weight": float(selected)}
        omitted = ("stop_alpha",) if as_full_run and table.marks[row] & EARLY_STOP else ()
        if table.marks[row] & PROPAGATED or omitted:
            record = parse_record(line, "")
            yield Record({name: value for name, value in record.items() if name not in omitted} | fields)
        else:
            yield line.removeprefix(BOM_UTF8).rstrip()[:-1] + b"," + orjson.dumps(fields)[1:] + b"\n"


def _error_fields(record: Record) -> Record:
    """Returns a record that cannot be decoded, with the reason."""
    try:
        decode_checked(record)
    except RecordError as error:
        return error_record(record, str(error), {})
    raise file_changed_error(record.where)


def _unsolved_captions(lines: RereadableInputs, offsets: list[int]) -> Iterator[Record]:
    """Yields the captions of unsolved items, once each, as `caption` wrote them."""
    seen = set()
    for line in lines.lines_at(offsets):
        record = parse_record(line, "")
        name = record.get("caption_id")
        if not isinstance(name, str) or name in seen or "caption" not in record:
            continue
        seen.add(name)
        yield Record({field: value for field, value in record.items() if field not in AFTER_CAPTION and field != "error"})
