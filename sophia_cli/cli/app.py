"""The `sophia` command: its list of subcommands and its entry point."""

import os
import sys
from typing import Annotated

import typer

from sophia_cli.cli import data, evaluation, pipeline, servers, training
from sophia_cli.cli.inputs import show_help

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


def main() -> None:
    """The entry point of `sophia`."""
    from sophia_cli.io.stdio import open_descriptors

    open_descriptors()
    typed = sys.argv[1:]
    if "LOCAL_RANK" in os.environ:  # DeepSpeed's launcher adds it as the first argument
        typed = [word for word in typed if not word.startswith("--local_rank=")]
    try:
        code = app(typed, prog_name="sophia", standalone_mode=False)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        message = getattr(error, "format_message", None)  # usage errors of click, which Typer vendors
        if message is None:
            raise
        print(f"sophia: {' '.join(message().split())} (--help shows the options)", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)  # Typer returns the code of an interrupt
