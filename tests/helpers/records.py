"""Records as the steps write them."""

from pathlib import Path
from typing import Any

from helpers.commands import records_of


def captions(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"q{i}", "question": f"How many? {i}", "answer": "7", "caption_id": f"q{i}/c0", "caption": f"{i} things"}
        for i in range(count)
    ]


def kept_records(lab: Path, count: int = 6) -> list[dict[str, Any]]:
    """Returns trajectories of the lab with different weights."""
    rows = records_of(lab / "traj.jsonl")[:: 32 // count][:count]
    images = [{**row, "image": str(lab / row["image"])} for row in rows]
    return [{**row, "caption_reward": 1.0, "selected": True, "weight": 0.5 + index} for index, row in enumerate(images)]


def graded(item: str, caption: int, number: int, reward: float | None, tokens: int, planned: int) -> dict[str, Any]:
    name = f"{item}/c{caption}"
    verdict = {1.0: "correct", 0.0: "wrong", None: "timeout"}[reward]
    return {
        "id": item, "question": "?", "answer": "1", "caption_id": name, "caption": "a", "caption_count": 3,
        "trajectory_id": f"{name}/t{number}", "trajectory_count": planned, "trajectory": f"{item}{number}",
        "reason_model": "r", "trajectory_tokens": tokens, "verdict": verdict, "reward": reward,
        "mentions_caption": tokens == 2,
    }  # fmt: skip


def table(*rewards: float | None, planned: int | None = None, item: str = "q") -> list[dict[str, Any]]:
    """Returns one caption's records with the given rewards; the first is the longest."""
    count = planned or len(rewards)
    return [graded(item, 0, number, reward, 20 - number, count) for number, reward in enumerate(rewards)]
