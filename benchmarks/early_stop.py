"""Tokens that `reason --stop-early` saves on the embedded world, and that `--bound-length` saves in addition.

    make bench-early-stop

Three levels of difficulty. Each is run in full, with early stop, and with the bound on lengths as well, K = N = 8; the
selections of `propagate` are compared byte for byte, and sampled tokens are counted. Trajectories of the embedded
world have similar lengths, so a second table is simulated with lengths typical of reasoners. It also shows the cost of
the bound if cut trajectories could be continued for free (an engine's cache would have them, but not the state of
their random generators).
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages

from sophia_cli.inference.early_stop import max_failures

PAGE = Path(__file__).parent.parent / "docs" / "servers.md"
K = N = 8
ALPHA = 0.75
EARLY = ["--stop-early", "--alpha", str(ALPHA)]
RUNS = {"full": [], "early": EARLY, "shortest": [*EARLY, "--bound-length"]}
Row = dict[str, Any]


def sophia(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-m", "sophia_cli", *arguments, "--quiet"], cwd=folder, check=True, env=environment)


def rows_of(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def runs(folder: Path, items: int, level: str) -> tuple[list[Row], list[int]]:
    """Returns the graded rows of a full run, and the tokens of the two shorter ones. Fails unless all select the same."""
    subprocess.run(
        [sys.executable, "-m", "sophia_cli", "world", "imgs", "-n", str(items), "--seed", "9", "--difficulty", level],
        cwd=folder, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    sophia(folder, "caption", "imgs", "-k", str(K), "-o", "caps.jsonl")
    kept, spent = [], []
    for name, options in RUNS.items():
        sophia(folder, "reason", "caps.jsonl", "-n", str(N), *options, "-o", f"{name}.raw.jsonl")
        sophia(folder, "grade", f"{name}.raw.jsonl", "-o", f"{name}.jsonl")
        sophia(folder, "propagate", f"{name}.jsonl", "--alpha", str(ALPHA), "--selected", "-o", f"{name}.kept.jsonl")
        kept.append(sorted((folder / f"{name}.kept.jsonl").read_bytes().splitlines()))
        manifest = json.loads((folder / f"{name}.raw.jsonl.manifest.json").read_text())
        spent.append(manifest["early_stop"]["tokens_sampled"] if options else manifest["tokens"])
    assert kept[0] == kept[1] == kept[2], "the selections differ"
    return rows_of(folder / "full.jsonl"), spent[1:]


def tokens(rows: list[Row]) -> int:
    return sum(row["trajectory_tokens"] for row in rows)


def groups(rows: list[Row], key: str) -> Iterator[list[Row]]:
    ordered = sorted(rows, key=lambda row: (row[key], row["trajectory_id"]))
    for _, group in itertools.groupby(ordered, key=lambda row: row[key]):
        yield list(group)


def bounded_tokens(rows: list[Row], continued_is_free: bool) -> int:
    """Tokens of early stop with a bound on lengths: the captions of an item one after the other."""
    spent = 0
    for item in groups(rows, "id"):
        bound = float("inf")
        for caption in groups(item, "caption_id"):
            cost, shortest = one_caption(caption, bound, continued_is_free)
            spent += cost
            bound = min(bound, shortest)
    return spent


def one_caption(caption: list[Row], bound: float, continued_is_free: bool) -> tuple[int, float]:
    """Returns the tokens of a caption under a bound, and the length of its shortest right trajectory if it qualifies.

    All trajectories are sampled up to the bound, until too many have failed; if one is right, the cut ones are sampled
    in full.
    """
    allowed, failures, spent = max_failures(ALPHA, N), 0, 0
    cut = [row for row in caption if row["trajectory_tokens"] > bound]
    for row in caption:
        spent += int(min(row["trajectory_tokens"], bound))
        failures += row not in cut and row["reward"] == 0.0
        if failures > allowed:
            return spent, float("inf")
    right = [row["trajectory_tokens"] for row in caption if row not in cut and row["reward"] == 1.0]
    if not right:
        return spent, float("inf")
    for row in cut:
        spent += row["trajectory_tokens"] - (int(bound) if continued_is_free else 0)
        failures += row["reward"] == 0.0
        if failures > allowed:
            return spent, float("inf")
    return spent, min(right)


def drawn(right: float, items: int = 1500) -> list[Row]:
    """Simulated captions: the share of right trajectories is Beta-distributed around `right`; lengths are lognormal,
    doubled if wrong.
    """
    draw = random.Random(0)
    rows = []
    for item, caption in itertools.product(range(items), range(K)):
        quality = draw.betavariate(right, 1 - right)
        for n in range(N):
            good = draw.random() < quality
            length = 2000 * draw.lognormvariate(0, 0.5) * (1 if good else 2)
            name = f"{item:05}/c{caption}"
            rows.append({"id": f"{item:05}", "caption_id": name, "trajectory_id": f"{name}/t{n}", "reward": float(good),
                         "trajectory_tokens": int(length) + 1})  # fmt: skip
    return rows


def early_tokens(rows: list[Row]) -> int:
    """Tokens of early stop alone."""
    return sum(one_caption(caption, float("inf"), True)[0] for caption in groups(rows, "caption_id"))


def drawn_table() -> list[str]:
    lines = ["| right | `--stop-early` | `--stop-early --bound-length` | free continuation |", "|---|---|---|---|"]
    for right in (0.9, 0.7, 0.5, 0.3):
        rows = drawn(right)
        spent = (early_tokens(rows), bounded_tokens(rows, False), bounded_tokens(rows, True))
        lines.append(f"| {right:.0%} | " + " | ".join(f"{part / tokens(rows):.1%}" for part in spent) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--write", action="store_true", help="put the table into docs/servers.md")
    options = parser.parse_args()
    lines = [
        "| world | right | captions that pass | full run, tokens | `--stop-early` | `--stop-early --bound-length` |",
        "|---|---|---|---|---|---|",
    ]
    for level in ("easy", "medium", "hard"):
        with tempfile.TemporaryDirectory() as folder:
            rows, spent = runs(Path(folder), options.items, level)
        full = tokens(rows)
        right = sum(row["reward"] == 1.0 for row in rows) / len(rows)
        captions = list(groups(rows, "caption_id"))
        qualify = sum(sum(row["reward"] == 1.0 for row in caption) / N > ALPHA for caption in captions) / len(captions)
        shares = [part / full for part in spent]
        lines.append(
            f"| {level} | {right:.1%} | {qualify:.1%} | {full:,} | " + " | ".join(f"{x:.1%}" for x in shares) + " |"
        )
        print(lines[-1], flush=True)
    lines += [
        "",
        "Simulated, with lognormal lengths (σ = 0.5) and wrong answers twice as long; the last column, if cut trajectories "
        "could be continued for free:",
        "",
        *drawn_table(),
    ]
    print("\n".join(lines))
    if options.write:
        pages.write(PAGE, "\n".join(lines), "early stop")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
