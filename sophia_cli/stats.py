"""What a data set is worth: `sophia stats`. One pass over records of any stage; `worth.py` makes the figures.

Selection is the paper's (Eq. 6) unless the records say themselves what was selected. Left out of this file: anything of a
text but its length and whether it comes twice.
"""

import io
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from rich.console import Console
from xxhash import xxh3_64_intdigest

from sophia_cli.descriptors import claim_stdout
from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.facts import Rule, Trajectory, facts_of, read_trajectory
from sophia_cli.frame import SOME_FAILED
from sophia_cli.intake import lookup
from sophia_cli.ledger import Lookup
from sophia_cli.lines import Lines
from sophia_cli.plots import show
from sophia_cli.progress import Progress, notice
from sophia_cli.records import Record, has_failed
from sophia_cli.rewards import Choice, choose, view
from sophia_cli.streams import record_of, to_line
from sophia_cli.worth import KEPT, UNKNOWN, Columns, Seen, measure, repeated

NO_LABEL = "(none)"
_SEEN = msgspec.json.Decoder(Seen).decode
Labels = Callable[[bytes], list[str]]


def run(files: list[str], by: list[str], alpha: float | None, keep: int | None, as_json: bool, quiet: bool) -> int:
    """`sophia stats`: reads records, prints what they are worth. Returns the exit code."""
    rule = Rule(alpha=Rule.alpha if alpha is None else alpha, keep=Rule.keep if keep is None else keep)
    lines, columns, stdout = Lines(files), Columns(rule, by), claim_stdout()
    failed, unreadable = fill(columns, lines, Progress("stats", quiet=quiet))
    refuse_unknown_labels(columns)
    look = lookup(lines, columns.ledger)
    choice = choice_of(columns, look, given=alpha is not None or keep is not None)
    figures = {"failed": failed, "unreadable": unreadable, "alpha": rule.alpha, **report(columns, choice, look)}
    if as_json:
        stdout.write(to_line(figures))
        stdout.flush()
    else:
        show(figures, Console(file=io.TextIOWrapper(stdout, "utf-8"), highlight=False))
    return SOME_FAILED if unreadable else 0


def fill(columns: Columns, lines: Lines, progress: Progress) -> tuple[int, int]:
    """Notes every record; returns how many carry `error`, and how many have a field that cannot be read, which it names.

    Raises InputError for a line that is no JSON object.
    """
    failed = unreadable = 0
    labels = labels_of(list(columns.labels))
    numbered = ((source.name, *found) for source in lines.sources() for found in source.lines())
    with progress.shown():
        for name, place, number, line in numbered:
            if line.isspace():
                continue
            try:
                facts, seen = read(line, f"{name}:{number}")
            except RecordError as error:
                notice(f"stats: {error}")
                unreadable += 1
                progress.advance(failed=True)
                continue
            columns.add(facts, xxh3_64_intdigest(line), place, seen, labels(line))
            failure = has_failed(facts) if isinstance(facts, Record) else facts.error is not None
            failed += failure
            progress.advance(failed=failure)
    columns.settle()
    return failed, unreadable


def read(line: bytes, where: str) -> tuple[Trajectory | Record, Seen]:
    """The facts of a line and what else is measured. Raises InputError where it is no JSON object, RecordError."""
    try:
        if facts := facts_of(line):
            return facts, _SEEN(line)
    except msgspec.MsgspecError:
        pass
    return with_care(record_of(line, where))


def with_care(record: Record) -> tuple[Trajectory | Record, Seen]:
    """The same of any record; one that is no trajectory stands for itself. Raises RecordError that names the field."""
    try:
        seen = _SEEN(to_line(record))
    except msgspec.ValidationError as error:
        fault, _, place = str(error).partition(" - at `$.")
        raise RecordError(f"{record.where}: field `{place.strip('`')}`: {fault}; mend it, or make the file again") from None
    if "trajectory_id" in record:
        return read_trajectory(Record({"reward": None, **record}, record.where)), seen
    name = record.get("id") or f"{record.get('image')} {record.get('question')}"
    return Record({**record, "id": str(name)}, record.where), seen


def labels_of(by: list[str]) -> Labels:
    """A function from a line to its values in the columns `by`, as texts."""
    if not by:
        return lambda line: []
    fields = [(f"f{i}", msgspec.Raw, msgspec.field(name=name, default=msgspec.Raw(b"null"))) for i, name in enumerate(by)]
    decode = msgspec.json.Decoder(msgspec.defstruct("Labels", fields)).decode
    return lambda line: [_label(bytes(raw)) for raw in msgspec.structs.astuple(decode(line))]


def _label(raw: bytes) -> str:
    value = orjson.loads(raw)
    return NO_LABEL if value is None else value if isinstance(value, str) else raw.decode()


def refuse_unknown_labels(columns: Columns) -> None:
    """Raises UsageError for a column that no record has."""
    for name, codes in columns.labels.items():
        if list(codes) == [NO_LABEL]:
            raise UsageError(f"--by {name}: no record has a value in that field; name one that they have")


def choice_of(columns: Columns, look: Lookup, given: bool) -> Choice:
    """What is selected: as the records say (`selected`), else by Eq. 5 and 6, each trajectory once.

    given: the user gave a rule. Raises UsageError where the records have one, InputError where only some of them do.
    """
    rows = columns.trajectories()
    kept = view(columns.kept)
    unknown = kept[rows] == UNKNOWN
    if unknown.all():
        return choose(columns.ledger, rows, look)
    if unknown.any():
        raise InputError("some records carry `selected` and some do not; run `sophia propagate` over all of them")
    if given:
        raise UsageError("--alpha and --keep go with records that carry no `selected`; these do, leave the options out")
    selected = rows & (kept == KEPT)
    return Choice(view(columns.rewards), selected, selected)


def report(columns: Columns, choice: Choice, look: Lookup) -> dict[str, Any]:
    """All figures, those of each value of the columns asked for under `by`."""
    everything = view(columns.ledger.places) >= 0
    figures = measure(columns, choice, everything)
    figures["repeated"] = repeated(columns, look)
    figures["by"] = {
        name: {
            label: measure(columns, choice, view(columns.groups[name]) == code, whole=False) for label, code in codes.items()
        }
        for name, codes in columns.labels.items()
    }
    return figures
