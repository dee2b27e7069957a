"""What a data set is worth: `sophia stats`. It reads records of any stage once; `analysis/dataset_stats.py` computes the
figures.

Selection follows Eq. 6 unless the records say what was selected. Of a text, only its length and whether it repeats are
used.
"""

import io
from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Console
from xxhash import xxh3_64_intdigest

from sophia_cli.analysis.charts import print_figures
from sophia_cli.analysis.dataset_stats import SELECTED, UNKNOWN, StatsFields, StatsTable, compute_figures, repeat_counts
from sophia_cli.errors import SOME_FAILED, InputError, RecordError, UsageError
from sophia_cli.io.jsonl import load_json, parse_record, to_line
from sophia_cli.io.paths import check_stdout
from sophia_cli.io.rereadable import RereadableInputs
from sophia_cli.io.stdio import claim_stdout, write_stdout
from sophia_cli.records import Record, has_failed
from sophia_cli.rewards.loading import make_lookup
from sophia_cli.rewards.selection import Selection, as_numpy, select_trajectories
from sophia_cli.rewards.table import RecordLookup
from sophia_cli.rewards.trajectory import SelectionRule, Trajectory, decode_checked, decode_fast
from sophia_cli.runtime.progress import Progress, log_line

NO_LABEL = "(none)"
# `--by id` would otherwise print a row for each item.
MAX_LABELS = 1000
TEXT_FIELDS = frozenset(("caption", "trajectory"))
"""Fields of `StatsFields` that stay undecoded."""
_SEEN = msgspec.json.Decoder(StatsFields).decode
Labels = Callable[[bytes], list[str]]


def run(files: list[str], by: list[str], alpha: float | None, keep: int | None, as_json: bool, quiet: bool) -> int:
    """`sophia stats`: reads records, prints what they are worth. Returns the exit code."""
    rule = SelectionRule(
        alpha=SelectionRule.alpha if alpha is None else alpha, keep=SelectionRule.keep if keep is None else keep
    )
    check_stdout(files)
    lines, columns, stdout = RereadableInputs(files), StatsTable(rule, by), claim_stdout()
    failed, unreadable = fill_table(columns, lines, Progress("stats", quiet=quiet))
    check_labels(columns)
    lookup = make_lookup(lines, columns.table)
    choice = make_selection(columns, lookup, given=alpha is not None or keep is not None)
    figures = {"failed": failed, "unreadable": unreadable, "alpha": rule.alpha, **all_figures(columns, choice, lookup)}
    text = to_line(figures) if as_json else render_figures(figures, stdout.isatty())
    write_stdout(stdout, text)
    return SOME_FAILED if unreadable else 0


def render_figures(figures: dict[str, Any], colors: bool) -> bytes:
    """Renders the tables and bars at the width of the terminal."""
    console = Console(file=io.StringIO(), force_terminal=colors, highlight=False)
    with console.capture() as captured:
        print_figures(figures, console)
    return captured.get().encode("utf-8", "replace")


def fill_table(columns: StatsTable, lines: RereadableInputs, progress: Progress) -> tuple[int, int]:
    """Adds every record. Returns how many carry `error`, and how many have a bad field, which is logged.

    Raises:
        InputError: a line is not a JSON object.
    """
    failed = unreadable = 0
    labels = label_reader(list(columns.labels))
    numbered = ((source.name, *found) for source in lines.iter_files() for found in source.read_lines())
    with progress.display():
        for name, offset, number, line in numbered:
            if line.isspace():
                continue
            try:
                facts, seen = read_line(line, f"{name}:{number}")
            except RecordError as error:
                log_line(f"stats: {error}")
                unreadable += 1
                progress.count_record(failed=True)
                continue
            columns.add_record(facts, xxh3_64_intdigest(line), offset, seen, labels(line))
            failure = has_failed(facts) if isinstance(facts, Record) else facts.error is not None
            failed += failure
            progress.count_record(failed=failure)
    columns.flush_rows()
    return failed, unreadable


def read_line(line: bytes, where: str) -> tuple[Trajectory | Record, StatsFields]:
    """Decodes a line: the trajectory and the other measured fields.

    Raises:
        InputError: the line is not a JSON object.
        RecordError: a field is bad.
    """
    try:
        if facts := decode_fast(line):
            return ignore_early_stop(facts, seen := _SEEN(line)), seen
    except msgspec.MsgspecError:
        pass
    return read_checked(parse_record(line, where))


def ignore_early_stop(facts: Trajectory, seen: StatsFields) -> Trajectory:
    """Drops the early-stop fields of a record that says itself whether it was selected."""
    stopped = seen.selected is not None and (facts.stop_alpha is not None or facts.stop_length is not None)
    return msgspec.structs.replace(facts, stop_alpha=None, stop_length=None) if stopped else facts


def read_checked(record: Record) -> tuple[Trajectory | Record, StatsFields]:
    """Decodes a record field by field. One that is not a trajectory is returned as it is.

    Raises:
        RecordError: a field is bad; the message names it.
    """
    try:
        seen = msgspec.convert({name: value for name, value in record.items() if name not in TEXT_FIELDS}, StatsFields)
    except msgspec.ValidationError as error:
        fault, _, field_path = str(error).partition(" - at `$.")
        raise RecordError(
            f"{record.where}: field `{field_path.strip('`')}`: {fault}; fix it, or create the file again"
        ) from None
    for name in TEXT_FIELDS & record.keys():
        setattr(seen, name, msgspec.Raw(to_line(record[name]).strip()))
    if "trajectory_id" in record:
        return ignore_early_stop(decode_checked(Record({"reward": None, **record}, record.where)), seen), seen
    name = record.get("id") or f"{record.get('image')} {record.get('question')}"
    return Record({**record, "id": str(name)}, record.where), seen


def label_reader(by: list[str]) -> Labels:
    """Returns a function from a line to its values in the columns `by`, as texts."""
    if not by:
        return lambda line: []
    fields = [(f"f{i}", msgspec.Raw, msgspec.field(name=name, default=msgspec.Raw(b"null"))) for i, name in enumerate(by)]
    decode = msgspec.json.Decoder(msgspec.defstruct("Labels", fields)).decode

    def labels(line: bytes) -> list[str]:
        try:
            return [_label(load_json(bytes(raw))) for raw in msgspec.structs.astuple(decode(line))]
        except msgspec.MsgspecError:  # msgspec refuses half of a surrogate pair
            record = parse_record(line, "")
            return [_label(record.get(name)) for name in by]

    return labels


def _label(value: Any) -> str:
    return NO_LABEL if value is None else value if isinstance(value, str) else to_line(value).decode().strip()


def check_labels(columns: StatsTable) -> None:
    """Checks the columns of `--by`.

    Raises:
        UsageError: no record has the column, or it has too many values.
    """
    for name, codes in columns.labels.items():
        if len(codes) > MAX_LABELS:
            raise UsageError(
                f"--by {name}: has {len(codes):,} values, a table holds at most {MAX_LABELS:,}; choose another field"
            )
        if list(codes) == [NO_LABEL]:
            raise UsageError(f"--by {name}: no record has a value in that field; choose another field")


def make_selection(columns: StatsTable, lookup: RecordLookup, given: bool) -> Selection:
    """Returns what is selected: by the records' own `selected`, else by Eq. 5 and 6, each trajectory once.

    Raises:
        UsageError: the records have `selected` and the user gave a rule (`given`).
        InputError: only some records have `selected`.
    """
    rows = columns.trajectory_rows()
    kept = as_numpy(columns.selected_states)
    unknown = kept[rows] == UNKNOWN
    if unknown.all():
        return select_trajectories(columns.table, columns.sampled_rows(), lookup)
    if unknown.any():
        raise InputError("some records carry `selected` and some do not; run `sophia propagate` over all of them")
    if given:
        raise UsageError("--alpha and --keep apply to records without `selected`; these have it, omit the options")
    selected = rows & (kept == SELECTED)
    return Selection(as_numpy(columns.rewards), selected, selected)


def all_figures(columns: StatsTable, choice: Selection, lookup: RecordLookup) -> dict[str, Any]:
    """Returns all figures; those of each value of the columns under `by`."""
    everything = as_numpy(columns.table.offsets) >= 0
    figures = compute_figures(columns, choice, everything)
    figures["repeated"] = repeat_counts(columns, lookup)
    figures["by"] = {
        name: {
            label: compute_figures(columns, choice, as_numpy(columns.groups[name]) == code, whole=False)
            for label, code in codes.items()
        }
        for name, codes in columns.labels.items()
    }
    return figures
