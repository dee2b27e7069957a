"""The paper's results (arXiv 2507.16814, method.md): the mean of the eight benchmarks, pass@1 in percent."""

from typing import Any

from rich.table import Table

from sophia_cli import registry
from sophia_cli.runtime.tables import fitted_table

PAPER_MEANS: dict[str, dict[str, float]] = {
    "InternVL3.0-38B": {"base": 47.01, "MPO": 49.51, "GRPO": 50.98, "SOPHIA": 55.51, "SOPHIA+GRPO": 57.28},
    "InternVL2.5-38B": {"base": 43.09, "MPO": 47.74, "SOPHIA": 54.03},
    "InternVL3.0-8B": {"base": 37.55, "MPO": 43.41, "SOPHIA": 44.71},
    "InternVL2.5-8B": {"base": 32.70, "MPO": 36.45, "SOPHIA": 36.33},
}
NOISE_POINTS = 0.7
"""Percentage points: at 50% accuracy, the mean of the eight benchmarks has a standard error of 0.48."""


def comparison_rows(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Returns (model, training, mean of the eight) of the paper, and of this run if it has all eight, complete."""
    found = [(model, method, f"{mean:.2f}") for model, means in PAPER_MEANS.items() for method, mean in means.items()]
    asked = {one["benchmark"]: one["asked"] for one in figures.get("benchmarks", ())}
    eight = {name: registry.find("benchmarks", name).QUESTION_COUNT for name in registry.names("benchmarks")}
    whole = asked.keys() == eight.keys() and all(asked[name] >= eight[name] for name in eight)
    if whole and figures["accuracy"] is not None:
        found.append((str(figures["model"]), "this run", f"{100 * figures['accuracy']:.2f}"))
    return found


def comparison_table(figures: dict[str, Any], width: int) -> Table:
    """Returns these rows as a table for the terminal."""
    title, caption = "the paper, mean of its eight benchmarks, pass@1 in %", f"differences below {NOISE_POINTS} are noise"
    texts = ("model", "training")
    return fitted_table(title, (*texts, "mean of 8"), comparison_rows(figures), width, texts, caption)
