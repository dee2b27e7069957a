"""The `sophia` command: its list of subcommands and its entry point."""

import os
import sys
from typing import Annotated

import typer

from sophia_cli.cli import data, evaluation, pipeline, servers, training
from sophia_cli.cli.inputs import show_help
from sophia_cli.errors import INTERRUPTED

app = typer.Typer(
    name="sophia",
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Teaches vision-language models to think before they answer.\n\n"
    "caption | reason | grade | propagate | train | eval: each step reads JSONL and writes JSONL.",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    """Shows the help or the version."""
    if context.invoked_subcommand is None and not version:
        show_help(context)
    if version:
        from sophia_cli import __version__

        print(f"sophia {__version__}")
        raise typer.Exit()


for command in (
    pipeline.caption,
    pipeline.reason,
    pipeline.grade,
    pipeline.propagate,
    training.train,
    evaluation.evaluate,
    evaluation.compare,
    evaluation.agreement,
    data.decontaminate,
    data.export,
    data.stats,
    data.world,
    servers.serve,
    servers.models,
):
    app.command(name="eval" if command is evaluation.evaluate else None)(command)


def main(typed: list[str]) -> int:
    """Runs `sophia` with these arguments and returns its exit code."""
    if "LOCAL_RANK" in os.environ:  # DeepSpeed's launcher adds it as the first argument
        typed = [word for word in typed if not word.startswith("--local_rank=")]
    try:
        code = app(typed, prog_name="sophia", standalone_mode=False)
    except SystemExit as leaving:
        code = leaving.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        message = getattr(error, "format_message", None)  # usage errors of click, which Typer vendors
        if message is None:
            raise
        print(f"sophia: {' '.join(message().split())} (--help shows the options)", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0
