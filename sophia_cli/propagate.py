"""Step 4: the reward flows back to the description (Eq. 5), and the best trajectories are kept (Eq. 6).

Two passes: the first keeps a few facts of each trajectory, the second writes the records, in the order they came. What
comes from a pipe is spooled to a temporary file in between, so memory does not grow with the texts.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from sophia_cli.errors import RecordError, UsageError
from sophia_cli.frame import Common, Counter, run_step
from sophia_cli.output import Output
from sophia_cli.progress import notice
from sophia_cli.records import AFTER_CAPTION, Record, failed, has_failed, name_of
from sophia_cli.rewards import Caption, Ledger, Rule, Trajectory, caption_rewards, refuse_what_was_stopped, select
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
        first = next(read_records(files), None)
        name = "nothing to read" if first is None else f"first {name_of(first)}"
        notice(f"propagate: {rule}, writes {emit}, {name}")
        return 0
    key = "caption_id" if emit == "unsolved" else "trajectory_id"

    def produce(output: Output, counter: Counter) -> Iterator[Record]:
        return propagate(counter.over(read_records(files)), rule, common.part, common.limit, emit, output)

    return run_step("propagate", key, common, {**asdict(rule), "emit": emit}, produce, inputs=files, anew=True)


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

    emit: `all`; `selected`, only the kept ones; or `unsolved`, the captions of items in which nothing qualified. Records
    with a bad field go out with `error`; where only some records are asked for, they are named and counted instead.
    """
    ledger, items = Ledger(), Items(part, limit)
    with tempfile.TemporaryFile(prefix="sophia-") as spool:
        for record in records:
            if not items.mine(record):
                continue
            if not has_failed(record):
                try:
                    refuse_what_was_stopped(ledger.add(record), rule)
                except RecordError as error:
                    record = failed(record, str(error), {})
                    if emit != "all":
                        output.name_failure(record)
            spool.write(to_line([record.where, record]))
        choice = choose(ledger.trajectories, rule)
        spool.seek(0)
        spooled = (Record(fields, where) for where, fields in map(loads, spool))
        yield from _captions(spooled, choice) if emit == "unsolved" else _annotated(spooled, choice, emit == "selected")


def choose(trajectories: list[Trajectory], rule: Rule) -> Choice:
    """Eq. 5 and Eq. 6 over all trajectories."""
    kept = select(trajectories, rule)
    solved = {trajectory.item for trajectory in trajectories if trajectory.name in kept}
    return Choice(caption_rewards(trajectories), kept, solved)


@dataclass
class Items:
    """Which items are of this shard, and among the first `limit` of it; items are counted as they come."""

    part: Shard
    limit: int | None
    numbers: dict[str, int] = field(default_factory=dict)

    def mine(self, record: Record) -> bool:
        """Whether a record's item is."""
        number = self.numbers.setdefault(str(record.get("id")), len(self.numbers))
        return number % self.part.count == self.part.index and (self.limit is None or number // self.part.count < self.limit)


def _annotated(records: Iterable[Record], choice: Choice, only_selected: bool) -> Iterator[Record]:
    left = set(choice.kept)
    for record in records:
        if has_failed(record):
            if not only_selected:
                yield record
            continue
        name = record["trajectory_id"]
        caption = (record["caption_id"], str(record.get("reason_model", "")))
        selected = name in left
        left.discard(name)
        fields: dict[str, Any] = {"caption_reward": choice.rewards[caption], "selected": selected, "weight": float(selected)}
        if selected or not only_selected:
            yield Record({**record, **fields}, record.where)


def _captions(records: Iterable[Record], choice: Choice) -> Iterator[Record]:
    """The captions of unsolved items, once each, as `caption` wrote them."""
    seen = set()
    for record in records:
        name = record.get("caption_id")
        if not isinstance(name, str) or name in seen or "caption" not in record or str(record.get("id")) in choice.solved:
            continue
        seen.add(name)
        kept = {field: value for field, value in record.items() if field not in AFTER_CAPTION and field != "error"}
        yield Record(kept, record.where)
