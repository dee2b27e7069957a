"""`sophia models`: lists the aliases."""

import io

from sophia_cli.io.stdio import claim_stdout, write_stdout
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
    stdout = claim_stdout()
    console = Console(file=io.StringIO(), soft_wrap=True, width=None if stdout.isatty() else 160)
    with console.capture() as captured:
        console.print(table)
    write_stdout(stdout, captured.get().encode())
    return 0
