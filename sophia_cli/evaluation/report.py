"""The figures of an evaluation as tables, for the terminal and in Markdown for a model card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sophia_cli.errors import SophiaError
from sophia_cli.evaluation.audit import FAULTS
from sophia_cli.runtime.tables import fitted_table

NO_VALUE = "–"
TEXT_HEADINGS = ("benchmark", "by", "category", "fault")
"""Columns that are aligned to the left."""


def report_tables(figures: dict[str, Any], width: int) -> list[Table]:
    """Returns the tables of all benchmarks (scores, kinds of answers, several samples), and one table of categories for
    each.
    """
    title = str(figures["model"]) if "benchmarks" in figures else f"{figures['model']} on {figures['benchmark']}"
    made = [
        fitted_table(title if not index else "", *cells, width, TEXT_HEADINGS)
        for index, cells in enumerate(overview_tables(figures))
    ]
    return made + [fitted_table(title, *cells, width, TEXT_HEADINGS) for title, cells in category_tables(figures)]


def audit_table(figures: dict[str, Any], width: int) -> Table:
    """Returns the shares of faults that an audit found."""
    return fitted_table(f"audit by {figures['audit']['judge']}", *audit_rows(figures), width, TEXT_HEADINGS)


def overview_tables(figures: dict[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """Returns headings and cells of each table: a row per benchmark, and their mean; columns without values are dropped."""
    each = figures.get("benchmarks", [figures])
    parts = (
        [_score_cells, _answer_cells, _sample_cells]
        if len(each) > 1
        else [lambda one: _score_cells(one) | _answer_cells(one), _sample_cells]
    )
    found = []
    for part in parts:
        rows = [{"benchmark": str(one["benchmark"]), **part(one)} for one in each]
        if part is _score_cells:
            mean = {
                "benchmark": "mean",
                "accuracy": format_percent(figures["accuracy"]),
                "95% interval": format_interval(figures["ci95"]),
            }
            counts = {"graded": f"{figures['n']:,}", "failed": f"{figures['failed']:,}"}
            rows.append(mean | counts | {"unreadable": format_percent(figures["unreadable"])})
        headings = list(dict.fromkeys(name for row in rows for name in row))
        if len(headings) > 1:
            shown = headings if len(each) > 1 else headings[1:]
            found.append((shown, [[row.get(name, "") for name in shown] for row in rows]))
    return found


def _score_cells(one: dict[str, Any]) -> dict[str, str]:
    return {
        "accuracy": format_percent(one["accuracy"]),
        "95% interval": format_interval(one["ci95"]),
        "graded": f"{one['n']:,}",
        "unreadable": format_percent(one["unreadable"]),
        "failed": f"{one['failed']:,}",
    } | ({"cannot tell": f"{one['ungraded']:,}"} if one["ungraded"] else {})


def _answer_cells(one: dict[str, Any]) -> dict[str, str]:
    extracted = {"extracted": format_percent(one["extracted"])} if "extracted" in one else {}
    return extracted | {
        "cut off": format_percent(one["truncated"]),
        "thinks": format_percent(one["thinking"]),
        "tokens": NO_VALUE if one["mean_tokens"] is None else f"{one['mean_tokens']:,.0f}",
    }


def _sample_cells(one: dict[str, Any]) -> dict[str, str]:
    found = {
        f"{heading}@{k}": format_percent(share)
        for name, heading in (("pass_at", "pass"), ("maj_at", "maj"))
        for k, share in one.get(name, {}).items()
        if k != "1"
    }
    if "worst_case" in one:
        found["worst case"] = format_percent(one["worst_case"])
    if "parts" in one:
        found["parts"] = format_percent(one["parts"]["right"])
    if twice := one.get("rules_and_judge"):
        found |= {name: format_percent(twice[name]) for name in ("rules", "judge", "both", "either")}
    if "unsure" in one:
        found["judge unsure"] = f"{one['unsure']:,}"
    return found


def category_tables(figures: dict[str, Any]) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    """Returns title, headings and cells of the categories of each benchmark."""
    found = []
    for one in figures.get("benchmarks", [figures]):
        rows = [
            [
                by if first else "",
                value,
                format_percent(group["accuracy"]),
                format_interval(group["ci95"]),
                f"{group['n']:,}",
            ]
            for by, groups in one.get("by", {}).items()
            for first, (value, group) in zip([True] + [False] * len(groups), groups.items(), strict=False)
        ]
        if rows:
            found.append((str(one["benchmark"]), (["by", "category", "accuracy", "95% interval", "graded"], rows)))
    return found


def audit_rows(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns headings and cells of the shares of faults."""
    found = {fault: figures["audit"][fault] for fault in FAULTS}
    rows = [
        [FAULTS[name], format_percent(one["share"]), format_interval(one["ci95"]), str(one["labeled"])]
        for name, one in found.items()
    ]
    return ["fault", "share", "95% interval", "labeled"], rows


def format_percent(share: float | None) -> str:
    return NO_VALUE if share is None else f"{100 * share:.1f}%"


def format_interval(bounds: Sequence[float] | None) -> str:
    return NO_VALUE if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}%"


def write_model_card(file: Path, figures: dict[str, Any], paper: Sequence[Sequence[str]]) -> None:
    """Writes the tables in Markdown, and how the samples were made.

    Raises:
        SophiaError: the file cannot be written.
    """
    settings = figures["settings"]
    asked = f"n = {settings['n']}, temperature {settings['temperature']}, top-p {settings['top_p']}, seed {settings['seed']}"
    judge = f"rules, and by {settings['judge']['model']}" if "judge" in settings else "rules"
    parts = [f"## Evaluation of {figures['model']}", f"{asked}, at most {settings['max_tokens']:,} tokens per answer."]
    parts.append(f"Graded by {judge}. System prompt: {' '.join(settings['system'].split())}")
    parts += [_markdown_table(*cells) for cells in overview_tables(figures)]
    for title, cells in category_tables(figures):
        parts += [f"### {title}", _markdown_table(*cells)]
    if "audit" in figures:
        parts += [f"### Audit by {figures['audit']['judge']}", _markdown_table(*audit_rows(figures))]
    if paper:
        parts += [
            "### The paper, mean of its eight benchmarks (%)",
            _markdown_table(["model", "training", "mean of 8"], paper),
        ]
    try:
        file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise SophiaError(f"{file}: cannot be written ({error.strerror}); choose another file with --model-card") from None


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
