"""`sophia models`: lists the aliases."""

import io

from sophia_cli.io.stdio import claim_stdout, write_stdout
from sophia_cli.models.aliases import load_aliases
from sophia_cli.runtime.tables import fitted_table


def print_models() -> int:
    """Prints the aliases to stdout. Returns the exit code."""
    from rich.console import Console

    rows = [[name, "yes" if alias.sees else "no", alias.needs, alias.target] for name, alias in load_aliases().items()]
    stdout = claim_stdout()
    console = Console(file=io.StringIO(), width=None if stdout.isatty() else 160)
    headings = ("alias", "sees images", "runs on", "stands for")
    with console.capture() as captured:
        console.print(fitted_table("", headings, rows, console.width, texts=headings))
    write_stdout(stdout, captured.get().encode())
    return 0
