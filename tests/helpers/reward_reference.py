"""Eq. 5 and Eq. 6 by brute force, and data sets to compare `propagate` with it."""

import json
import tempfile
from typing import Any

from hypothesis import strategies as st

from helpers.records import graded
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.io.rereadable import RereadableInputs
from sophia_cli.io.shards import Shard
from sophia_cli.rewards.trajectory import SelectionRule
from sophia_cli.steps.propagate import propagate_records


@st.composite
def data_sets(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draws records of a few items; K, N and the number of sampled trajectories differ, lengths tie, rewards are missing."""
    records = []
    for item in range(draw(st.integers(1, 4))):
        for caption in range(draw(st.integers(1, 3))):
            planned = draw(st.integers(1, 8))
            for number in range(draw(st.integers(1, planned))):
                reward = draw(st.sampled_from([1.0, 1.0, 1.0, 0.0, None]))
                records.append(graded(f"q{item}", caption, number, reward, draw(st.integers(1, 4)), planned))
    return draw(st.permutations(records))


def run(
    records: list[dict[str, Any]], rule: SelectionRule, part: Shard | None = None, emit: str = "all"
) -> list[dict[str, Any]]:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        file.flush()
        lines = RereadableInputs([file.name])
        out = propagate_records(
            lines, rule, part or Shard(), None, emit, RecordWriter("trajectory_id", None), RecordCounter()
        )
        return [json.loads(record) if isinstance(record, bytes) else record for record in out]


def brute_force(records: list[dict[str, Any]], alpha: float, keep: int) -> tuple[dict[str, float | None], set[str]]:
    """Returns the selection by Eq. 5 and Eq. 6, as the method and the contract define them."""
    means, kept = {}, set()
    for name in {record["caption_id"] for record in records}:
        rewards = [record["reward"] for record in records if record["caption_id"] == name and record["reward"] is not None]
        means[name] = sum(rewards) / len(rewards) if rewards else None
    for item in {record["id"] for record in records}:
        right = [record for record in records if record["id"] == item and record["reward"] == 1]
        share = {
            r["caption_id"]: sum(o["caption_id"] == r["caption_id"] for o in right) / r["trajectory_count"] for r in right
        }
        good = [record for record in right if share[record["caption_id"]] > alpha]
        kept |= {r["trajectory_id"] for r in sorted(good, key=lambda r: (r["trajectory_tokens"], r["trajectory_id"]))[:keep]}
    return means, kept
