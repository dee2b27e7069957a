"""The commands serve and models."""

from typing import Annotated

import typer

from sophia_cli.cli import options as o


@o.takes(o.debugging)
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Alias, folder or hub id of the model.", show_default=False)],
    gpus: o.Gpus = None,
    tensor_parallel: o.TensorParallel = 1,
    server_options: o.ServerOptions = "",
    start_timeout: o.StartTimeout = 1800.0,
    shared_disk: o.SharedDisk = False,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 also serves other machines.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="The first server's port; the others follow it.", show_default="free ones"),
    ] = 0,
) -> int:
    """Start vLLM servers of a model and keep them until Ctrl-C; their addresses go to stdout."""
    from sophia_cli.serving.vllm_server import ServerConfig
    from sophia_cli.steps import serve as step

    setup = ServerConfig(gpus, tensor_parallel, server_options, start_timeout, shared_disk, host, port)
    return step.run(model, setup)


@o.takes(o.debugging)
def models() -> int:
    """List the aliases: what each stands for, and where it can run."""
    from sophia_cli.steps import list_models as step

    return step.print_models()
