"""How far a person agrees with the judge of an audit (`eval --audit`, Table 9): Cohen's κ for each fault."""

from pathlib import Path
from typing import Any

from sophia_cli.errors import InputError
from sophia_cli.evaluation.audit import FAULTS, judge_labels_file, label_agreement
from sophia_cli.evaluation.report import NO_VALUE, format_percent
from sophia_cli.io.jsonl import write_json
from sophia_cli.io.paths import check_side_files
from sophia_cli.runtime.progress import stderr_console
from sophia_cli.runtime.tables import fitted_table


def run(sheet: Path, summary_file: Path | None) -> int:
    """`sophia agreement`: reads the person's labels and the judge's, and shows how far they agree. Returns the exit code."""
    check_side_files([summary_file], [str(sheet), str(judge_labels_file(sheet))])
    figures = label_agreement(sheet)
    if not any(found["n"] for found in figures.values()):
        raise InputError(f"{sheet}: no answer has both labels; write yes or no in the columns {' and '.join(FAULTS)}")
    print_agreement(figures)
    if summary_file:
        write_json(summary_file, figures)
    return 0


def print_agreement(figures: dict[str, Any]) -> None:
    """Prints the agreement as a table to stderr."""
    rows = []
    for fault, found in figures.items():
        kappa = NO_VALUE if found["kappa"] is None else f"{found['kappa']:.2f}"
        cells = [format_percent(found[name]) for name in ("person", "judge", "agreed")]
        rows.append([FAULTS[fault], str(found["n"]), *cells, kappa])
    console, headings = stderr_console(), ("fault", "answers", "person", "judge", "agreed", "κ")
    console.print(fitted_table("a person and the judge", headings, rows, console.width, ("fault",)))
