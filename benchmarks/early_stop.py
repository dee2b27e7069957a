"""How many tokens `reason --stop-early` spares on the embedded world, and how many more a bound on lengths would.

    make bench-early-stop

Three levels of difficulty. Each is run in full and with early stop, K = N = 8; what `propagate` selects is compared byte
for byte, and tokens are those of the two runs. The bound on lengths (method.md, "lossless length bound") is simulated on the
full run, its continued trajectories once for nothing (as if the engine's cache held them) and once paid again.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages

from sophia_cli.waves import allowed_failures

PAGE = Path(__file__).parent.parent / "docs" / "servers.md"
K = N = 8
ALPHA = 0.75
Row = dict[str, Any]


def sophia(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-m", "sophia_cli", *arguments, "--quiet"], cwd=folder, check=True, env=environment)


def rows_of(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def runs(folder: Path, items: int, level: str) -> tuple[list[Row], int]:
    """The graded rows of a full run, and the tokens of one with early stop. Fails unless both select the same."""
    subprocess.run(
        [sys.executable, "-m", "sophia_cli", "world", "imgs", "-n", str(items), "--seed", "9", "--difficulty", level],
        cwd=folder, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    sophia(folder, "caption", "imgs", "-k", str(K), "-o", "caps.jsonl")
    kept = []
    for name, options in (("full", []), ("early", ["--stop-early", "--alpha", str(ALPHA)])):
        sophia(folder, "reason", "caps.jsonl", "-n", str(N), *options, "-o", f"{name}.raw.jsonl")
        sophia(folder, "grade", f"{name}.raw.jsonl", "-o", f"{name}.jsonl")
        sophia(folder, "propagate", f"{name}.jsonl", "--alpha", str(ALPHA), "--selected", "-o", f"{name}.kept.jsonl")
        kept.append(sorted((folder / f"{name}.kept.jsonl").read_bytes().splitlines()))
    assert kept[0] == kept[1], "early stop selected something else"
    return rows_of(folder / "full.jsonl"), tokens(rows_of(folder / "early.jsonl"))


def tokens(rows: list[Row]) -> int:
    return sum(row["trajectory_tokens"] for row in rows)


def groups(rows: list[Row], key: str) -> Iterator[list[Row]]:
    ordered = sorted(rows, key=lambda row: (row[key], row["trajectory_id"]))
    for _, group in itertools.groupby(ordered, key=lambda row: row[key]):
        yield list(group)


def bounded_tokens(rows: list[Row], continued_is_free: bool) -> int:
    """Tokens of early stop with a bound on lengths: an item's captions one after the other."""
    spent = 0
    for item in groups(rows, "id"):
        bound = float("inf")
        for caption in groups(item, "caption_id"):
            cost, shortest = one_caption(caption, bound, continued_is_free)
            spent += cost
            bound = min(bound, shortest)
    return spent


def one_caption(caption: list[Row], bound: float, continued_is_free: bool) -> tuple[int, float]:
    """What a caption costs under a bound, and its shortest right trajectory if it qualifies.

    First all of it up to the bound, until it has failed too often; if one is right by then, the rest of those cut off.
    """
    allowed, failures, spent = allowed_failures(ALPHA, N), 0, 0
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


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--write", action="store_true", help="put the table into docs/servers.md")
    options = parser.parse_args()
    lines = [
        "| world | right | qualify | full run, tokens | early stop | with a bound on lengths, continued | sampled anew |",
        "|---|---|---|---|---|---|---|",
    ]
    for level in ("easy", "medium", "hard"):
        with tempfile.TemporaryDirectory() as folder:
            rows, early = runs(Path(folder), options.items, level)
        full = tokens(rows)
        right = sum(row["reward"] == 1.0 for row in rows) / len(rows)
        captions = list(groups(rows, "caption_id"))
        qualify = sum(sum(row["reward"] == 1.0 for row in caption) / N > ALPHA for caption in captions) / len(captions)
        shares = [early / full, bounded_tokens(rows, True) / full, bounded_tokens(rows, False) / full]
        lines.append(
            f"| {level} | {right:.1%} | {qualify:.1%} | {full:,} | " + " | ".join(f"{x:.1%}" for x in shares) + " |"
        )
        print(lines[-1], flush=True)
    print("\n".join(lines))
    if options.write:
        pages.write(PAGE, "\n".join(lines), "early stop")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
