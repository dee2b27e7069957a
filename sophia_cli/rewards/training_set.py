"""The trajectories worth learning from: those with a weight, or, where nobody propagated, those that Eq. 6 keeps."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.io.rereadable import InputFiles
from sophia_cli.records import Record, has_failed, where_of
from sophia_cli.rewards.selection import select_in_memory
from sophia_cli.rewards.table import content_hash, hash64
from sophia_cli.rewards.trajectory import SelectionRule, Trajectory, decode_checked
from sophia_cli.sources.items import with_id

LogFunction = Callable[[str], None]
FailureHandler = Callable[[Record], None]


def selection_rule(alpha: float | None, keep: int | None) -> SelectionRule | None:
    """The rule that `--alpha` and `--keep` ask for; None where the user gave neither."""
    if alpha is None and keep is None:
        return None
    return SelectionRule(alpha=SelectionRule.alpha if alpha is None else alpha, keep=keep or SelectionRule.keep)


def load_weighted(
    source: InputFiles, rule: SelectionRule | None, lost: FailureHandler, step: str, tell: LogFunction
) -> Iterator[Record]:
    """The records with a weight other than 0; propagated here, by `rule` or the paper's, when they carry none.

    The files are read twice: first the facts of all records, then the texts of the chosen ones. lost: is told of what failed
    before. step: who tells what was done. Raises UsageError when weights and a rule come together, InputError when some
    records have weights and some not, or cannot be read.
    """
    facts, without, carried, used = list[tuple[Trajectory, int, str]](), list[tuple[Trajectory, int, str]](), 0, 0
    for record in source.read_records():
        if has_failed(record):
            lost(record)
            with contextlib.suppress(RecordError):  # no trajectory: a caption's failure
                without.append((decode_checked(record), content_hash(record), record.where))
        elif record.get("weight") is not None:
            carried += 1
            used += record["weight"] != 0
        else:
            try:
                facts.append((decode_checked(record), content_hash(record), record.where))
            except RecordError as error:
                raise InputError(str(error)) from None
        if carried and facts:
            mend = "run `sophia propagate` over all of them"
            raise InputError(f"{where_of(record)}: records with and without `weight` in one run; {mend}")
    if carried and rule is not None:
        raise UsageError("--alpha and --keep go with records that carry no `weight`; these do, leave the options out")
    if carried:
        tell(f"{step}: {used} of {carried} records carry a weight other than 0; they are used as they are")
        yield from (record for record in without_errors(source.read_records()) if record["weight"] != 0)
        return
    chosen, count = rule or SelectionRule(), len(facts)
    kept = select_in_memory([*facts, *without], chosen)  # what failed counts against its caption
    settings = f"alpha {chosen.alpha}, keep {chosen.keep}"
    tell(f"{step}: nobody propagated these records; propagated here ({settings}): {len(kept)} of {count} kept")
    for number, record in enumerate(without_errors(source.read_records())):
        if number in kept:
            yield Record({**record, "weight": 1.0}, record.where)


def without_errors(source: Iterable[Record], lost: FailureHandler = lambda record: None) -> Iterator[Record]:
    """The records on which no earlier step failed; `lost` is told of the others."""
    for record in source:
        if has_failed(record):
            lost(record)
        else:
            yield record


def unique_items(source: InputFiles) -> Iterator[Record]:
    """The first record of each item on which nothing failed. Raises InputError for two items of one id."""
    seen: dict[str, int] = {}
    for row in without_errors(source.read_records()):
        try:
            record = with_id(row)
        except RecordError as error:
            raise InputError(str(error)) from None
        content = hash64("\0".join(str(record.get(field)) for field in ("question", "image", "images", "answer")))
        if record["id"] not in seen:
            seen[record["id"]] = content
            yield record
        elif seen[record["id"]] != content:
            raise InputError(
                f"{record.where}: field `id` {record['id']!r} stands at another question, image or answer; "
                "give it one of its own"
            )
