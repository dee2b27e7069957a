"""OpenAI-compatible chat servers, one or a fleet: vLLM, SGLang, or a provider (`--base-url`, repeatable).

Each sample is one request with its own seed. What a server does with a seed is its own: vLLM draws the same sample
again, up to the rounding that depends on the other requests in its batch.
"""

import os
from collections.abc import Iterator

from sophia_cli.backends._openai.client import Client
from sophia_cli.backends._openai.connect import make_client
from sophia_cli.errors import UsageError
from sophia_cli.inference.backend_options import BackendOptions, check_base_url
from sophia_cli.inference.types import Completion, Failure, Job
from sophia_cli.models.aliases import ModelRef
from sophia_cli.runtime.read_ahead import ReadAhead


class Backend:
    """A client of the servers at `options.base_urls`, else at OPENAI_BASE_URL."""

    def __init__(self, model: ModelRef, options: BackendOptions):
        self.model, self.options = model, options
        self.urls = [url.rstrip("/") for url in options.base_urls or _environment_urls()]
        self.client: Client | None = None

    def stream(self, jobs: ReadAhead[Job]) -> Iterator[tuple[Job, Completion | Failure]]:
        """Yields completions as they finish."""
        self.client = make_client(self.urls, self.model, self.options, "OPENAI_API_KEY")
        yield from self.client.stream(jobs)

    def status(self) -> str:
        """Returns requests in flight, retries, and the health of the fleet."""
        return self.client.status() if self.client else ""

    def close(self) -> None:
        """Does nothing: the servers are not ours."""


def _environment_urls() -> list[str]:
    url = os.environ.get("OPENAI_BASE_URL")
    if not url:
        raise UsageError("--backend openai needs --base-url, for example --base-url http://127.0.0.1:8000/v1")
    check_base_url(url)
    return [url]
