"""`sophia propagate` compared with DuckDB, and with a loop that parses and writes with orjson, on one large file.

    make bench-propagate

Writes a file of trajectories (200,000 of about 6 KB, grouped by item or shuffled), runs each in turn, checks that they
select the same, and prints seconds, peak memory and ratios.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pages

ROOT = Path(__file__).parent.parent
K = N = 8
LEAST_OF_DUCKDB, LEAST_OF_ORJSON, MOST_MB, MOST_BYTES_A_RECORD = 1.2, 0.6, 150, 100
SELECTION = """
COPY (
    WITH records AS (
        SELECT * FROM read_json('{file}', format='newline_delimited', maximum_object_size=268435456, columns={{
            id: 'VARCHAR', image: 'VARCHAR', question: 'VARCHAR', answer: 'VARCHAR', caption_id: 'VARCHAR',
            caption_count: 'INT', caption: 'VARCHAR', caption_model: 'VARCHAR', caption_tokens: 'INT',
            trajectory_id: 'VARCHAR', trajectory_count: 'INT', trajectory: 'VARCHAR', reason_model: 'VARCHAR',
            trajectory_tokens: 'INT', finish_reason: 'VARCHAR', verdict: 'VARCHAR', reward: 'DOUBLE'}})
    ),
    captions AS (
        SELECT caption_id, reason_model, avg(reward) AS caption_reward,
            sum(coalesce(reward, 0)) / greatest(max(trajectory_count), count(*)) AS share
        FROM records GROUP BY ALL
    ),
    ranked AS (
        SELECT id, trajectory_id, caption_reward,
            row_number() OVER (PARTITION BY id ORDER BY trajectory_tokens, trajectory_id) AS place
        FROM records JOIN captions USING (caption_id, reason_model) WHERE reward = 1 AND share > 0.75
    )
    SELECT records.*, caption_reward, true AS selected, 1.0 AS weight
    FROM records JOIN ranked USING (trajectory_id) WHERE place = 1
) TO '{out}' (FORMAT JSON)
"""


def make(path: Path, trajectories: int, shuffled: bool) -> None:
    """Writes the file: items of K x N trajectories with random lengths and rewards, about 6 KB per record."""
    draw = random.Random(1)
    words = [
        "square",
        "angle",
        "therefore",
        "the",
        "of",
        "image",
        "\\\\frac{a}{b}",
        "we",
        "see",
        "that",
        "radius",
        "is",
        "7",
    ]
    text = " ".join(draw.choice(words) for _ in range(4000))
    names = [(i, c, t) for i in range(trajectories // (K * N)) for c in range(K) for t in range(N)]
    ease = [draw.random() for _ in range(len(names) // N)]
    if shuffled:
        draw.shuffle(names)
    with path.open("w") as file:
        for item, caption, number in names:
            tokens = int(draw.lognormvariate(7.0, 0.5))
            start = draw.randrange(2000)
            right = draw.random() < ease[item * K + caption] ** 0.25
            record = {
                "id": f"item-{item}", "image": f"images/{item:08}.png", "question": text[:200], "answer": "7",
                "caption_id": f"item-{item}/c{caption}", "caption_count": K, "caption": text[start : start + 700],
                "caption_model": "internvl3-8b", "caption_tokens": 180,
                "trajectory_id": f"item-{item}/c{caption}/t{number}", "trajectory_count": N,
                "trajectory": "<think>" + text[start : start + 4300 + tokens % 800] + "</think> \\boxed{7}",
                "reason_model": "qwq", "trajectory_tokens": tokens, "finish_reason": "stop",
                "verdict": "correct" if right else "wrong", "reward": float(right),
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")


def run_duckdb(file: str, out: str) -> None:
    import duckdb

    duckdb.sql(SELECTION.format(file=file, out=out))


def run_orjson(file: str, out: str) -> None:
    import orjson

    with open(file, "rb") as lines, open(out, "wb") as target:
        for line in lines:
            record = orjson.loads(line)
            record["caption_reward"], record["selected"], record["weight"] = 0.5, False, 0.0
            target.write(orjson.dumps(record) + b"\n")


PEERS = {"duckdb": run_duckdb, "orjson": run_orjson}


def measured(command: list[str]) -> tuple[float, float]:
    """Returns the seconds and the peak memory in MB of a command."""
    watch = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
    watch += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", watch, *command], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 1024


def command_of(name: str, python: str, file: Path, out: Path, options: list[str]) -> list[str]:
    if name == "sophia":
        return [sys.executable, "-m", "sophia_cli", "propagate", str(file), *options, "-o", str(out), "--force", "--quiet"]
    return [python, __file__, "--peer", name, str(file), str(out)]


def selected(path: Path) -> set[str]:
    return {json.loads(line)["trajectory_id"] for line in path.open()}


def compare(file: Path, folder: Path, peer: str, python: str, runs: int, options: list[str]) -> tuple[str, float, float]:
    """Returns a table row, the peer's seconds divided by ours, and our memory."""
    found: dict[str, list[tuple[float, float]]] = {peer: [], "sophia": []}
    for name in (peer, "sophia") * runs:
        found[name].append(measured(command_of(name, python, file, folder / name, options)))
    if peer == "duckdb" and selected(folder / "duckdb") != selected(folder / "sophia"):
        raise SystemExit("the two do not select the same")
    seconds = {name: median(took for took, _ in values) for name, values in found.items()}
    memory = {name: max(most for _, most in values) for name, values in found.items()}
    ratio = seconds[peer] / seconds["sophia"]
    row = f"{seconds['sophia']:.2f} s, {memory['sophia']:.0f} MB | {peer}: {seconds[peer]:.2f} s, {memory[peer]:.0f} MB"
    return f"{row} | {ratio:.2f} ×", ratio, memory["sophia"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", nargs=3, metavar=("NAME", "FILE", "OUT"))
    parser.add_argument("--trajectories", type=int, default=200_000)
    parser.add_argument("--peers", default=sys.executable, help="a Python with duckdb and orjson")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/propagate.md")
    options = parser.parse_args()
    if options.peer:
        name, file, out = options.peer
        PEERS[name](file, out)
        return 0
    lines, holds = ["| file | `sophia propagate` | peer | faster |", "|---|---|---|---|"], True
    most = MOST_MB + MOST_BYTES_A_RECORD * options.trajectories / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for order in ("grouped", "shuffled"):
            file = folder / f"{order}.jsonl"
            make(file, options.trajectories, order == "shuffled")
            size = f"{order}, {options.trajectories:,} records, {file.stat().st_size / 1e9:.1f} GB"
            for title, peer, least, how in (
                ("`--selected`", "duckdb", LEAST_OF_DUCKDB, ["--selected"]),
                ("all, annotated", "orjson", LEAST_OF_ORJSON, []),
            ):
                row, ratio, memory = compare(file, folder, peer, options.peers, options.runs, how)
                lines.append(f"| {size} | {title}: {row} |")
                print(lines[-1], flush=True)
                holds = holds and ratio >= least and memory <= most
            file.unlink()
    if options.write:
        pages.write(ROOT / "docs" / "propagate.md", "\n".join(lines))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
