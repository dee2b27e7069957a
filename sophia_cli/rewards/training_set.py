"""The trajectories to learn from: those with a weight or, before propagation, those that Eq. 6 keeps."""

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
    """Returns the rule of `--alpha` and `--keep`; None where the user gave neither."""
    if alpha is None and keep is None:
        return None
    return SelectionRule(alpha=SelectionRule.alpha if alpha is None else alpha, keep=keep or SelectionRule.keep)


def load_weighted(
    source: InputFiles, rule: SelectionRule | None, lost: FailureHandler, step: str, log: LogFunction
) -> Iterator[Record]:
    """Yields the records with a weight other than 0. Records without weights are propagated here, by `rule` or the
    paper's rule.

    The files are read twice: first the fields of all records, then the texts of the selected ones.

    Args:
        source: The files.
        rule: The rule that the user typed, or None.
        lost: Called with each record that failed before.
        step: The name of the step, for messages.
        log: Logs what was done.

    Raises:
        UsageError: weights and a rule come together.
        InputError: some records have weights and some do not, or a record cannot be read.
    """
    facts, without, carried, used = list[tuple[Trajectory, int, str]](), list[tuple[Trajectory, int, str]](), 0, 0
    for record in source.read_records():
        if has_failed(record):
            lost(record)
            with contextlib.suppress(RecordError):  # a caption that failed is no trajectory
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
            remedy = "run `sophia propagate` over all of them"
            raise InputError(f"{where_of(record)}: records with and without `weight` in one run; {remedy}")
    if carried and rule is not None:
        raise UsageError("--alpha and --keep apply to records without `weight`; these have one, omit the options")
    if carried:
        log(f"{step}: {used} of {carried} records have a weight other than 0; the weights are used as they are")
        yield from (record for record in without_errors(source.read_records()) if record["weight"] != 0)
        return
    chosen, count = rule or SelectionRule(), len(facts)
    kept = select_in_memory([*facts, *without], chosen)  # failures count against their caption
    settings = f"alpha {chosen.alpha}, keep {chosen.keep}"
    log(f"{step}: the records have no weights; propagated here ({settings}): {len(kept)} of {count} kept")
    for number, record in enumerate(without_errors(source.read_records())):
        if number in kept:
            yield Record({**record, "weight": 1.0}, record.where)


def without_errors(source: Iterable[Record], lost: FailureHandler = lambda record: None) -> Iterator[Record]:
    """Yields the records on which no earlier step failed; `lost` is called with the others."""
    for record in source:
        if has_failed(record):
            lost(record)
        else:
            yield record


def unique_items(source: InputFiles) -> Iterator[Record]:
    """Yields the first record of each item.

    Raises:
        InputError: one id stands for two items.
    """
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
                f"{record.where}: field `id` {record['id']!r} is used for another question, image or answer; "
                "give each item its own id"
            )
