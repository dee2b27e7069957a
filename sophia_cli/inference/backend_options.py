"""Where a model runs: the options under "Where the model runs", and the backend that they select."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from sophia_cli import registry
from sophia_cli.errors import UsageError
from sophia_cli.inference.types import Backend, Completion, Failure, Job
from sophia_cli.models.aliases import ModelRef, resolve_model
from sophia_cli.models.thinking import ThinkTags, to_think_tags
from sophia_cli.runtime.read_ahead import ReadAhead
from sophia_cli.serving.vllm_server import ServerConfig, can_serve


@dataclass(frozen=True)
class BackendOptions:
    """Where a model runs, how many samples at a time, how servers are reached, and how our own are started.

    Attributes:
        name: `--backend`.
        concurrency: Samples in flight, or rows of a batch.
        base_urls: Addresses of OpenAI-compatible servers.
        timeout: Seconds per request; None follows the token budget.
        retries: How often a failed request is sent again.
        shared_disk: The servers can read images by their paths.
        server_config: Settings of the servers that the vllm backend starts.
        think_tags: The marks of the model's thinking, where `models/thinking.py` does not know them.
    """

    name: str | None = None
    concurrency: int | None = None
    base_urls: tuple[str, ...] = ()
    timeout: float | None = None
    retries: int = 8
    shared_disk: bool = False
    server_config: ServerConfig = field(default_factory=ServerConfig)
    think_tags: ThinkTags | None = None

    def manifest_settings(self) -> dict[str, Any]:
        """Returns what changes the records: nothing about where and how fast the model runs."""
        return {"think_tags": [self.think_tags.opens, self.think_tags.closes]} if self.think_tags else {}

    def with_servers(self, base_urls: tuple[str, ...]) -> "BackendOptions":
        """Returns the same options for the servers at these addresses."""
        return replace(self, name="openai", base_urls=base_urls, server_config=ServerConfig())

    def resolve_model(self, name: str) -> ModelRef:
        """Returns the model of this name: an alias, a folder or a hub id; with `openai` any name.

        Raises:
            UsageError: there is no such model.
        """
        try:
            return resolve_model(name)
        except UsageError:
            if self.name == "openai" or (self.base_urls and not self.name):
                return ModelRef(name, name)
            raise

    def backend_name(self, model: ModelRef) -> str:
        """Returns the backend: the one that was typed; `openai` with an address; `vllm` with one of its options, or where
        vLLM and a GPU are available and the model is not embedded; else `hf`.
        """
        if self.name or self.base_urls:
            return self.name or "openai"
        if self.server_config.given_options or ("hf" not in model.defaults and can_serve()):
            return "vllm"
        return "hf"

    def make_backend(self, model: ModelRef) -> "LazyBackend":
        """Returns the backend, which does nothing before its first job.

        Raises:
            UsageError: the name is unknown or an option does not fit.
        """
        kind = self.backend_name(model)
        if kind not in registry.names("backends"):
            registry.find("backends", kind)
        if self.timeout is not None and not math.isfinite(self.timeout):
            raise UsageError(f"--timeout {self.timeout}: give a finite number of seconds")
        for url in self.base_urls:
            check_base_url(url)
        if self.base_urls and kind != "openai":
            raise UsageError(f"--base-url applies to --backend openai; {kind} runs the model itself")
        if self.server_config.given_options and kind != "vllm":
            raise UsageError(
                f"{self.server_config.given_options[0]} applies to --backend vllm, which starts servers; this is {kind}"
            )
        return LazyBackend(kind, self, model)


def check_base_url(url: str) -> None:
    """Checks that a URL is the address of a server.

    Raises:
        UsageError: it is not, or it holds a secret, which would end up in logs and manifests.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    else:
        if parts.username or parts.password:
            raise UsageError(f"--base-url at {parts.hostname}: contains a user name or password; set OPENAI_API_KEY instead")
    if not good or any(character.isspace() for character in url):
        raise UsageError(f"--base-url {url}: not the address of a server; give one like http://127.0.0.1:8000/v1")


class LazyBackend:
    """A backend that is imported and started with its first job: without work there is no model and no server.

    Use it as a context manager: it closes the backend however the step ends.
    """

    def __init__(self, kind: str, options: BackendOptions, model: ModelRef):
        self.backend_name, self.options, self.model = kind, options, model
        self.loaded: Backend | None = None

    def stream(self, jobs: ReadAhead[Job]) -> Iterator[tuple[Job, Completion | Failure]]:
        """Streams jobs through the backend; starts it with the first job. Completions have `<think>` tags, whatever the
        model's own are.
        """
        if first := jobs.take_batch(1):
            jobs.put_back(first)
            self.loaded = registry.find("backends", self.backend_name).Backend(self.model, self.options)
            for job, outcome in self.loaded.stream(jobs):
                if isinstance(outcome, Completion):
                    outcome = replace(outcome, text=to_think_tags(outcome.text, self.options.think_tags))
                yield job, outcome

    def status(self) -> str:
        """Returns the status of the backend, empty before it has started."""
        return self.loaded.status() if self.loaded else ""

    def close(self) -> None:
        """Closes the backend, if it has started."""
        if self.loaded:
            self.loaded.close()

    def __enter__(self) -> "LazyBackend":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
