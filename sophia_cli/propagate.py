"""Step 4: the reward flows back to the description (Eq. 5), and the best trajectories are kept (Eq. 6).

Two passes: the first keeps a few facts of each trajectory, the second writes the records, in the order they came. What
comes from a pipe is spooled to a temporary file in between, so memory does not grow with the texts.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.frame import Common, Counter, run_step
from sophia_cli.output import Output
from sophia_cli.progress import notice
from sophia_cli.records import AFTER_CAPTION, Record, where_of
from sophia_cli.rewards import Caption, Rule, Trajectory, caption_rewards, read_trajectory, select
from sophia_cli.streams import Shard, loads, read_records, to_line

SELECTIONS = ("shortest", "random", "all")


def run(common: Common, files: list[str], rule: Rule, only_selected: bool, only_unsolved: bool) -> int:
    """`sophia propagate`: reads graded records, writes them with rewards and weights. Returns the exit code."""
    if only_selected and only_unsolved:
        raise UsageError("--selected and --unsolved ask for different records; give one of them")
    emit = "selected" if only_selected else "unsolved" if only_unsolved else "all"
    if rule.select not in SELECTIONS:
        raise UsageError(f"--select {rule.select}: choose from {', '.join(SELECTIONS)}")
    if common.dry_run:
        notice(f"propagate: {rule}, writes {emit}; nothing read")
        return 0
    key = "caption_id" if emit == "unsolved" else "trajectory_id"

    def produce(output: Output, counter: Counter) -> Iterator[Record]:
        return propagate(counter.over(read_records(files)), rule, common.part, common.limit, emit, output)

    return run_step("propagate", key, common, {**asdict(rule), "emit": emit}, produce, ordered=True)


@dataclass
class Facts:
    """What the first pass keeps: the trajectories of this shard's items, and where each name was first seen."""

    trajectories: list[Trajectory] = field(default_factory=list)
    seen: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)


@dataclass
class Choice:
    """The outcome: R(c) of each caption, the names kept, and the items in which anything was."""

    rewards: dict[Caption, float | None]
    kept: set[str]
    solved: set[str]


def propagate(
    records: Iterable[Record], rule: Rule, part: Shard, limit: int | None, emit: str, output: Output
) -> Iterator[Record]:
    """The records in their order with `caption_reward`, `selected` and `weight`.

    emit: `all`; `selected`, only the kept ones; or `unsolved`, the captions of items in which nothing qualified.
    """
    facts = Facts()
    with tempfile.TemporaryFile(prefix="sophia-") as spool:
        for record in records:
            if _mine(record, facts, part, limit):
                record = _noted(record, facts)
                spool.write(to_line([record.where, record]))
        choice = choose(facts.trajectories, rule)
        spool.seek(0)
        spooled = (Record(fields, where) for where, fields in map(loads, spool))
        rows = _captions(spooled, choice) if emit == "unsolved" else _annotated(spooled, choice, emit == "selected")
        for row in rows:
            if not output.take_done(str(row.get(output.key, ""))):
                yield row


def choose(trajectories: list[Trajectory], rule: Rule) -> Choice:
    """Eq. 5 and Eq. 6 over all trajectories."""
    kept = select(trajectories, rule)
    solved = {trajectory.item for trajectory in trajectories if trajectory.name in kept}
    return Choice(caption_rewards(trajectories), kept, solved)


def _mine(record: Record, facts: Facts, part: Shard, limit: int | None) -> bool:
    """Whether the record's item is of this shard, and among the first `limit` of it. Items are counted as they come."""
    number = facts.items.setdefault(str(record.get("id")), len(facts.items))
    return number % part.count == part.index and (limit is None or number // part.count < limit)


def _noted(record: Record, facts: Facts) -> Record:
    """Notes a record's facts; a record that cannot take part goes on with an `error`, a failed one as it is."""
    if "trajectory_id" not in record and "error" in record:
        return record
    try:
        trajectory = read_trajectory(record)
    except RecordError as error:
        return Record({**record, "error": record.get("error", str(error))}, where_of(record))
    content = hashlib.blake2b(to_line(record), digest_size=8).digest()
    first = facts.seen.setdefault(trajectory.name, (record.where, content))
    if first[1] != content:
        raise InputError(
            f"{record.where}: trajectory_id {trajectory.name!r} stands at {first[0]} with other content; drop one of them"
        )
    if first[0] == record.where:
        facts.trajectories.append(trajectory)
    return record


def _annotated(records: Iterable[Record], choice: Choice, only_selected: bool) -> Iterator[Record]:
    left = set(choice.kept)
    for record in records:
        name = record.get("trajectory_id")
        if "error" in record and (name is None or "reward" not in record):
            if not only_selected:
                yield record
            continue
        caption = (str(record.get("caption_id")), str(record.get("reason_model", "")))
        selected = name in left
        left.discard(str(name))
        fields: dict[str, Any] = {
            "caption_reward": choice.rewards.get(caption),
            "selected": selected,
            "weight": float(selected),
        }
        if selected or not only_selected:
            yield Record({**record, **fields}, record.where)


def _captions(records: Iterable[Record], choice: Choice) -> Iterator[Record]:
    """The captions of unsolved items, once each, as `caption` wrote them."""
    seen = set()
    for record in records:
        name = record.get("caption_id")
        if record.get("id") in choice.solved or name is None or name in seen or "caption" not in record:
            continue
        seen.add(name)
        yield Record(
            {field: value for field, value in record.items() if field not in AFTER_CAPTION and field != "error"},
            record.where,
        )
