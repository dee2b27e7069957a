"""`sophia serve`: starts vLLM servers of one model and keeps them for several steps.

Once all are ready, each server's address goes to stdout as one JSON object per line. They end with this process,
however it ends.
"""

import time

import orjson

from sophia_cli.errors import INTERRUPTED, SophiaError
from sophia_cli.io.stdio import claim_stdout, write_stdout
from sophia_cli.models.aliases import resolve_model
from sophia_cli.runtime.progress import log_line
from sophia_cli.serving.vllm_server import POLL_SECONDS, ServerConfig, VLLMServers


def run(model: str, setup: ServerConfig) -> int:
    """Starts the servers and waits while at least one of them runs.

    Raises:
        SophiaError: they do not start, or all have ended.
    """
    servers = VLLMServers(resolve_model(model), setup)
    stdout = claim_stdout()
    try:
        servers.start()
        for server in servers.replicas:
            line = {"model": model, "base_url": server.url, "gpus": server.gpus, "log": str(server.log)}
            write_stdout(stdout, orjson.dumps(line) + b"\n")
        urls = " ".join(f"--base-url {server.url}" for server in servers.replicas)
        log_line(f"{model}: serving until Ctrl-C; use {urls}")
        _wait_for_servers(servers)
    except KeyboardInterrupt:
        log_line(f"{model}: stopping the servers")
        return INTERRUPTED
    finally:
        servers.stop()
    raise SophiaError(f"{model}: all servers have ended; see their logs above")


def _wait_for_servers(servers: VLLMServers) -> None:
    """Returns when no server is left; logs each one that ends."""
    named: set[int] = set()
    while len(named) < len(servers.replicas):
        for server in servers.ended_servers():
            if server.number not in named:
                named.add(server.number)
                log_line(server.log_tail())
                log_line(
                    f"{server.model.name}: the server at {server.url} ended with code {server.exit_code()}; log {server.log}"
                )
        time.sleep(POLL_SECONDS)
