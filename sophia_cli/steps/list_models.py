"""`sophia models`: lists the aliases."""

import sys

from sophia_cli.models.aliases import load_aliases


def print_models() -> int:
    """Prints the aliases to stdout. Returns the exit code."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("alias", "sees images", "stands for", "runs on"):
        table.add_column(heading, overflow="fold")
    for name, alias in load_aliases().items():
        table.add_row(name, "yes" if alias.sees else "no", alias.target, alias.needs)
    Console(file=sys.stdout, soft_wrap=True, width=None if sys.stdout.isatty() else 160).print(table)
    return 0
