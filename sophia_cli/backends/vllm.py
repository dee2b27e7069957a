"""Starts vLLM servers with the first job, one per GPU or per `--tensor-parallel` GPUs, and stops them at the end.

Requests go to these servers as in the openai backend.
"""

from collections.abc import Iterator
from dataclasses import replace

from sophia_cli.backends._openai.client import Client
from sophia_cli.backends._openai.connect import make_client
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.inference.types import Completion, Failure, Job
from sophia_cli.models.aliases import ModelRef
from sophia_cli.runtime.read_ahead import ReadAhead
from sophia_cli.serving.vllm_server import VLLMServer, VLLMServers


class Backend:
    """The servers of one model and their client. The servers live from the first job to `close`."""

    def __init__(self, model: ModelRef, options: BackendOptions):
        self.model, self.options = model, options
        self.servers = VLLMServers(model, replace(options.server_config, shared_disk=options.shared_disk))
        self.client: Client | None = None

    def stream(self, jobs: ReadAhead[Job]) -> Iterator[tuple[Job, Completion | Failure]]:
        """Starts the servers, then yields completions as they finish.

        Raises:
            SophiaError: the servers do not start, or all end.
        """
        try:
            self.servers.start()
            self.client = make_client(
                [server.url for server in self.servers.replicas], self.model, self.options, "VLLM_API_KEY"
            )
            self.servers.watch_servers(self._on_server_ended)
            yield from self.client.stream(jobs)
        finally:
            self.servers.stop()

    def _on_server_ended(self, server: VLLMServer, trouble: str) -> None:
        """Sends no more requests to a server that has ended."""
        if self.client:
            self.client.balancer.on_server_ended(server.url, trouble)

    def status(self) -> str:
        """Returns requests in flight, retries, and the health of the fleet."""
        return self.client.status() if self.client else "servers are starting"

    def close(self) -> None:
        """Stops the servers and waits until they have ended."""
        self.servers.stop()
