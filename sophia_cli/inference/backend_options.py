"""Where a model runs: what the options of "Where the model runs" say, and the backend that they stand for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from urllib.parse import urlsplit

from sophia_cli import registry
from sophia_cli.errors import UsageError
from sophia_cli.inference.types import Backend, Completion, Failure, Job
from sophia_cli.models.aliases import ModelRef, resolve_model
from sophia_cli.runtime.read_ahead import ReadAhead
from sophia_cli.serving.vllm_server import ServerConfig, can_serve


@dataclass(frozen=True)
class BackendOptions:
    """Where a model runs (`--backend`), how many samples at once, how servers are reached, and how ours are started.

    timeout: seconds of one request; None follows the token budget. retries: how often a request is sent again. shared_disk:
    the servers read images by their paths. setup: of the servers that the vllm backend starts.
    """

    name: str | None = None
    concurrency: int | None = None
    base_urls: tuple[str, ...] = ()
    timeout: float | None = None
    retries: int = 8
    shared_disk: bool = False
    server_config: ServerConfig = field(default_factory=ServerConfig)

    def with_servers(self, base_urls: tuple[str, ...]) -> "BackendOptions":
        """The servers at these addresses instead, reached in the same way."""
        return replace(self, name="openai", base_urls=base_urls, server_config=ServerConfig())

    def resolve_model(self, name: str) -> ModelRef:
        """The model of this name: an alias, a folder or a hub id; with `openai` any name. Raises UsageError."""
        try:
            return resolve_model(name)
        except UsageError:
            if self.name == "openai" or (self.base_urls and not self.name):
                return ModelRef(name, name)
            raise

    def backend_name(self, model: ModelRef) -> str:
        """The backend's name: as typed; else `openai` with an address, `vllm` with one of its options, or where it and a GPU
        are there and the model is not an embedded one; else `hf`."""
        if self.name or self.base_urls:
            return self.name or "openai"
        if self.server_config.given_options or ("hf" not in model.defaults and can_serve()):
            return "vllm"
        return "hf"

    def make_backend(self, model: ModelRef) -> "LazyBackend":
        """The backend, which does nothing before its first job. Raises UsageError for an unknown name or an unfit option."""
        kind = self.backend_name(model)
        if kind not in registry.names("backends"):
            registry.find("backends", kind)
        if self.timeout is not None and not math.isfinite(self.timeout):
            raise UsageError(f"--timeout {self.timeout}: not a number of seconds")
        for url in self.base_urls:
            check_base_url(url)
        if self.base_urls and kind != "openai":
            raise UsageError(f"--base-url: is for --backend openai; {kind} runs the model itself")
        if self.server_config.given_options and kind != "vllm":
            raise UsageError(
                f"{self.server_config.given_options[0]}: is for --backend vllm, which starts servers; this is {kind}"
            )
        return LazyBackend(kind, self, model)


def check_base_url(url: str) -> None:
    """Raises UsageError for what is no address of a server, or holds a secret that would end up in logs and manifests."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    else:
        if parts.username or parts.password:
            raise UsageError(f"--base-url at {parts.hostname}: holds a name or password; set OPENAI_API_KEY instead")
    if not good or any(character.isspace() for character in url):
        raise UsageError(f"--base-url {url}: no address of a server; give one as in http://127.0.0.1:8000/v1")


class LazyBackend:
    """A backend that is imported, and set to work, when the first job is there: no work, no model, no server.

    To be used as a context: however the step ends, what the backend has started is ended.
    """

    def __init__(self, kind: str, place: BackendOptions, model: ModelRef):
        self.backend_name, self.options, self.model = kind, place, model
        self.loaded: Backend | None = None

    def stream(self, jobs: ReadAhead[Job]) -> Iterator[tuple[Job, Completion | Failure]]:
        """As the backend's own `stream`."""
        if first := jobs.take_batch(1):
            jobs.put_back(first)
            self.loaded = registry.find("backends", self.backend_name).Backend(self.model, self.options)
            yield from self.loaded.stream(jobs)

    def status(self) -> str:
        """As the backend's own, once there is one."""
        return self.loaded.status() if self.loaded else ""

    def close(self) -> None:
        """As the backend's own, if there is one."""
        if self.loaded:
            self.loaded.close()

    def __enter__(self) -> "LazyBackend":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
