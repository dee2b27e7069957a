"""What a data set is worth: `sophia stats`. One pass over records of any stage; `worth.py` makes the figures.

Selection is the paper's (Eq. 6) unless the records say themselves what was selected. Left out of this file: anything of a
text but its length and whether it comes twice.
"""

import io
from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Console
from xxhash import xxh3_64_intdigest

from sophia_cli.analysis.charts import print_figures
from sophia_cli.analysis.dataset_stats import SELECTED, UNKNOWN, StatsFields, StatsTable, compute_figures, repeat_counts
from sophia_cli.errors import SOME_FAILED, InputError, RecordError, SophiaError, UsageError
from sophia_cli.io.jsonl import load_json, parse_record, to_line
from sophia_cli.io.rereadable import RereadableInputs
from sophia_cli.io.stdio import claim_stdout
from sophia_cli.records import Record, has_failed
from sophia_cli.rewards.loading import make_lookup
from sophia_cli.rewards.selection import Selection, as_numpy, select_trajectories
from sophia_cli.rewards.table import RecordLookup
from sophia_cli.rewards.trajectory import SelectionRule, Trajectory, decode_checked, decode_fast
from sophia_cli.runtime.progress import Progress, log_line

NO_LABEL = "(none)"
MAX_LABELS = 1000
TEXT_FIELDS = frozenset(("caption", "trajectory"))
"""Fields of `Seen` that stay as they are written."""
_SEEN = msgspec.json.Decoder(StatsFields).decode
Labels = Callable[[bytes], list[str]]


def run(files: list[str], by: list[str], alpha: float | None, keep: int | None, as_json: bool, quiet: bool) -> int:
    """`sophia stats`: reads records, prints what they are worth. Returns the exit code."""
    rule = SelectionRule(
        alpha=SelectionRule.alpha if alpha is None else alpha, keep=SelectionRule.keep if keep is None else keep
    )
    lines, columns, stdout = RereadableInputs(files), StatsTable(rule, by), claim_stdout()
    failed, unreadable = fill_table(columns, lines, Progress("stats", quiet=quiet))
    check_labels(columns)
    look = make_lookup(lines, columns.table)
    choice = make_selection(columns, look, given=alpha is not None or keep is not None)
    figures = {"failed": failed, "unreadable": unreadable, "alpha": rule.alpha, **all_figures(columns, choice, look)}
    text = to_line(figures) if as_json else render_figures(figures, stdout.isatty())
    try:
        stdout.write(text)
        stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SophiaError(f"stdout: cannot be written ({error.strerror}); make room and type the command again") from None
    return SOME_FAILED if unreadable else 0


def render_figures(figures: dict[str, Any], colours: bool) -> bytes:
    """The tables and bars, as wide as the terminal."""
    console = Console(file=io.StringIO(), force_terminal=colours, highlight=False)
    with console.capture() as captured:
        print_figures(figures, console)
    return captured.get().encode("utf-8", "replace")


def fill_table(columns: StatsTable, lines: RereadableInputs, progress: Progress) -> tuple[int, int]:
    """Notes every record; returns how many carry `error`, and how many have a field that cannot be read, which it names.

    Raises InputError for a line that is no JSON object.
    """
    failed = unreadable = 0
    labels = label_reader(list(columns.labels))
    numbered = ((source.name, *found) for source in lines.iter_files() for found in source.read_lines())
    with progress.display():
        for name, place, number, line in numbered:
            if line.isspace():
                continue
            try:
                facts, seen = read_line(line, f"{name}:{number}")
            except RecordError as error:
                log_line(f"stats: {error}")
                unreadable += 1
                progress.count_record(failed=True)
                continue
            columns.add_record(facts, xxh3_64_intdigest(line), place, seen, labels(line))
            failure = has_failed(facts) if isinstance(facts, Record) else facts.error is not None
            failed += failure
            progress.count_record(failed=failure)
    columns.flush_rows()
    return failed, unreadable


def read_line(line: bytes, where: str) -> tuple[Trajectory | Record, StatsFields]:
    """The facts of a line and what else is measured. Raises InputError where it is no JSON object, RecordError."""
    try:
        if facts := decode_fast(line):
            return ignore_early_stop(facts, seen := _SEEN(line)), seen
    except msgspec.MsgspecError:
        pass
    return read_checked(parse_record(line, where))


def ignore_early_stop(facts: Trajectory, seen: StatsFields) -> Trajectory:
    """Of a record that says itself whether it was selected, nobody asks what else its sampling could serve."""
    stopped = seen.selected is not None and (facts.stop_alpha is not None or facts.stop_length is not None)
    return msgspec.structs.replace(facts, stop_alpha=None, stop_length=None) if stopped else facts


def read_checked(record: Record) -> tuple[Trajectory | Record, StatsFields]:
    """The same of any record; one that is no trajectory stands for itself. Raises RecordError that names the field."""
    try:
        seen = msgspec.convert({name: value for name, value in record.items() if name not in TEXT_FIELDS}, StatsFields)
    except msgspec.ValidationError as error:
        fault, _, place = str(error).partition(" - at `$.")
        raise RecordError(f"{record.where}: field `{place.strip('`')}`: {fault}; mend it, or make the file again") from None
    for name in TEXT_FIELDS & record.keys():
        setattr(seen, name, msgspec.Raw(to_line(record[name]).strip()))
    if "trajectory_id" in record:
        return ignore_early_stop(decode_checked(Record({"reward": None, **record}, record.where)), seen), seen
    name = record.get("id") or f"{record.get('image')} {record.get('question')}"
    return Record({**record, "id": str(name)}, record.where), seen


def label_reader(by: list[str]) -> Labels:
    """A function from a line to its values in the columns `by`, as texts."""
    if not by:
        return lambda line: []
    fields = [(f"f{i}", msgspec.Raw, msgspec.field(name=name, default=msgspec.Raw(b"null"))) for i, name in enumerate(by)]
    decode = msgspec.json.Decoder(msgspec.defstruct("Labels", fields)).decode

    def labels(line: bytes) -> list[str]:
        try:
            return [_label(load_json(bytes(raw))) for raw in msgspec.structs.astuple(decode(line))]
        except msgspec.MsgspecError:  # half of a surrogate pair, which it does not read
            record = parse_record(line, "")
            return [_label(record.get(name)) for name in by]

    return labels


def _label(value: Any) -> str:
    return NO_LABEL if value is None else value if isinstance(value, str) else to_line(value).decode().strip()


def check_labels(columns: StatsTable) -> None:
    """Raises UsageError for a column that no record has, and for one with as many values as an id has."""
    for name, codes in columns.labels.items():
        if len(codes) > MAX_LABELS:
            raise UsageError(
                f"--by {name}: has {len(codes):,} values, and {MAX_LABELS:,} at most make a table; name another"
            )
        if list(codes) == [NO_LABEL]:
            raise UsageError(f"--by {name}: no record has a value in that field; name one that they have")


def make_selection(columns: StatsTable, look: RecordLookup, given: bool) -> Selection:
    """What is selected: as the records say (`selected`), else by Eq. 5 and 6, each trajectory once.

    given: the user gave a rule. Raises UsageError where the records have one, InputError where only some of them do.
    """
    rows = columns.trajectory_rows()
    kept = as_numpy(columns.selected_states)
    unknown = kept[rows] == UNKNOWN
    if unknown.all():
        return select_trajectories(columns.table, columns.sampled_rows(), look)
    if unknown.any():
        raise InputError("some records carry `selected` and some do not; run `sophia propagate` over all of them")
    if given:
        raise UsageError("--alpha and --keep go with records that carry no `selected`; these do, leave the options out")
    selected = rows & (kept == SELECTED)
    return Selection(as_numpy(columns.rewards), selected, selected)


def all_figures(columns: StatsTable, choice: Selection, look: RecordLookup) -> dict[str, Any]:
    """All figures, those of each value of the columns asked for under `by`."""
    everything = as_numpy(columns.table.offsets) >= 0
    figures = compute_figures(columns, choice, everything)
    figures["repeated"] = repeat_counts(columns, look)
    figures["by"] = {
        name: {
            label: compute_figures(columns, choice, as_numpy(columns.groups[name]) == code, whole=False)
            for label, code in codes.items()
        }
        for name, codes in columns.labels.items()
    }
    return figures
