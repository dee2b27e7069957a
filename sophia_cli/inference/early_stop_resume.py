"""What an earlier run of `reason --stop-early` has written, so that no trajectory is sampled again."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sophia_cli.errors import RecordError
from sophia_cli.io.record_writer import complete_lines, parse_line
from sophia_cli.records import Record, has_failed

RewardFunction = Callable[[Record], float | None]


@dataclass
class EarlierCaption:
    """The trajectories of a caption that exist.

    Attributes:
        lengths: Tokens by trajectory number.
        cut: Numbers of the trajectories that were cut at the length bound, when their caption was given up.
        rewards: R(y) by number; empty where every trajectory exists and nothing depends on it.
    """

    lengths: dict[int, int] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)
    rewards: dict[int, float | None] = field(default_factory=dict)


def read_earlier_captions(file: Path | None, n: int, grade: RewardFunction, grades_all: bool) -> dict[str, EarlierCaption]:
    """Returns the captions of an earlier run's file.

    Args:
        file: The file; None where nothing is kept.
        n: N.
        grade: R(y) of a record.
        grades_all: Grade complete captions too, because their shortest right trajectory bounds the others.
    """
    found: dict[str, EarlierCaption] = defaultdict(EarlierCaption)
    if file is None:
        return found
    existing = Counter(str(record.get("caption_id")) for record in _finished_records(file))
    for record in _finished_records(file):
        name, number = str(record.get("caption_id")), int(str(record["trajectory_id"]).rpartition("t")[2])
        caption = found[name]
        caption.lengths[number] = int(record.get("trajectory_tokens") or 0)
        if record.get("stop_length") is not None:
            caption.cut.add(number)
        elif grades_all or existing[name] < n:
            try:
                caption.rewards[number] = grade(record)
            except RecordError:
                caption.rewards[number] = None
    return found


def _finished_records(file: Path) -> Iterator[Record]:
    records = (Record(parse_line(line)) for line in complete_lines(file))
    return (record for record in records if "trajectory_id" in record and not has_failed(record))
