"""Measures the embedded models for their model cards, with the public commands, on held-out worlds.

    python -m recipes.tiny.measure FOLDER [--seed 3] [--questions 500] [--training 1000] [--samples 64]

Seed 3 draws the validation split, on which all choices were made. Seed 8 draws the test split, used once. Prints one JSON
object: accuracy of the reasoner on true descriptions, share of captions that are wholly right, pass@1 and pass@k of the
base model (k = samples), and the accuracy after training on true reasoning about images (the ceiling).
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

from recipes.tiny.traces import reason_aloud
from sophia_cli.steps.world import make_item

SOPHIA = [sys.executable, "-m", "sophia_cli"]
TRAINING_SEED = 2


def run(folder: Path, *arguments: str) -> None:
    subprocess.run([*SOPHIA, *arguments], cwd=folder, check=True, stdout=sys.stderr)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def items_of(folder: Path, name: str) -> list[dict]:
    return [{**row, "image": f"{name}/{row.pop('file_name')}"} for row in read(folder / name / "metadata.jsonl")]


def exact(path: Path) -> float:
    """Returns the share of captions that equal the true description."""
    rows = read(path)
    return sum(row["caption"] == row["description"] for row in rows) / len(rows)


def pass_at(k: int, rows: list[dict]) -> float:
    """Returns the unbiased pass@k estimate 1 − C(n−c, k)/C(n, k), averaged over questions."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["id"], []).append(row["reward"] or 0.0)
    misses = [math.comb(len(part) - int(sum(part)), k) / math.comb(len(part), k) for part in scores.values()]
    return 1 - sum(misses) / len(misses)


def reasoner(folder: Path) -> float:
    """Returns the accuracy of the reasoner on true descriptions."""
    rows = [
        {**row, "caption_id": f"{row['id']}/c0", "caption": row["description"], "caption_count": 1}
        for row in items_of(folder, "held")
    ]
    write(folder / "true.jsonl", rows)
    run(folder, "reason", "true.jsonl", "-n", "2", "-o", "true-raw.jsonl")
    run(folder, "grade", "true-raw.jsonl", "-o", "true-graded.jsonl")
    rows = read(folder / "true-graded.jsonl")
    return sum(row["reward"] or 0.0 for row in rows) / len(rows)


def ceiling(folder: Path, training: int) -> float:
    """Returns pass@1 after training on true reasoning about images: an upper bound for any reward."""
    run(folder, "world", "train", "-n", str(training), "--seed", str(TRAINING_SEED))
    rows = []
    for number, item in enumerate(items_of(folder, "train")):
        scene, question = make_item(number, TRAINING_SEED, "medium")
        rows.append(
            {**item, "trajectory_id": f"{item['id']}/true", "trajectory": reason_aloud(scene, question), "weight": 1.0}
        )
    write(folder / "true-traces.jsonl", rows)
    run(folder, "train", "true-traces.jsonl", "-o", "ceiling")
    run(folder, "eval", "--model", "ceiling", "--data", "held", "--summary", "ceiling.json", "-o", "ceiling.jsonl")
    return float(json.loads((folder / "ceiling.json").read_text())["accuracy"])


def main(folder: Path, seed: int, questions: int, training: int, samples: int) -> None:
    folder.mkdir(parents=True)
    run(folder, "world", "held", "-n", str(questions), "--seed", str(seed))
    run(folder, "caption", "held", "-k", "1", "-o", "caps.jsonl")
    run(folder, "eval", "--data", "held", "-n", str(samples), "--summary", "base.json", "-o", "base.jsonl")
    answers = read(folder / "base.jsonl")
    figures = {
        "seed": seed,
        "questions": questions,
        "reasoner_right_on_true_descriptions": reasoner(folder),
        "captions_fully_right": exact(folder / "caps.jsonl"),
        "base_pass_at_1": pass_at(1, answers),
        f"base_pass_at_{samples}": pass_at(samples, answers),
        "ceiling_pass_at_1": ceiling(folder, training),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("seed", 3), ("questions", 500), ("training", 1000), ("samples", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    main(**vars(parser.parse_args()))
