"""Turns typed options into input files and the option objects that steps take."""

import contextlib
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from sophia_cli.inference.backend_options import BackendOptions
    from sophia_cli.steps._common import StepOptions


def input_files(context: typer.Context, files: list[str] | None) -> list[str]:
    """Returns the files given, or stdin; without either, shows the command's help and exits with code 2."""
    if files:
        return files
    return ["-"] if not sys.stdin.isatty() else show_help(context)


def one_source(context: typer.Context, source: str | None) -> str:
    """Returns the source given, or stdin."""
    return source if source else input_files(context, None)[0]


def step_options(context: typer.Context) -> "StepOptions":
    """Returns the options that every step has."""
    from sophia_cli.steps._common import StepOptions

    return StepOptions(**{name: value for name, value in context.obj.items() if name in StepOptions.__dataclass_fields__})


def backend_options(context: typer.Context) -> "BackendOptions":
    """Returns the options that say where the model runs."""
    from sophia_cli.errors import UsageError
    from sophia_cli.inference.backend_options import BackendOptions
    from sophia_cli.models.thinking import ThinkTags
    from sophia_cli.serving.vllm_server import ServerConfig

    given = context.obj
    tags = given["think_tags"]
    if tags and (not all(tag.strip() for tag in tags) or tags[0] == tags[1]):
        raise UsageError(f"--think-tags {tags[0]} {tags[1]}: give two different marks, as in --think-tags '<<' '>>'")
    setup = ServerConfig(given["gpus"], given["tensor_parallel"], given["server_options"], given["start_timeout"])
    return BackendOptions(
        given["backend"],
        given["concurrency"],
        tuple(given["base_url"] or ()),
        given["timeout"],
        given["retries"],
        given["shared_disk"],
        setup,
        ThinkTags(*tags) if tags else None,
    )


def show_help(context: typer.Context) -> NoReturn:
    """Prints the command's help to stderr and exits with code 2."""
    with contextlib.redirect_stdout(sys.stderr):
        print(context.get_help())
    raise SystemExit(2)
