"""How requests are sent: what all files of the client share."""

from dataclasses import dataclass

BASE_TIMEOUT_SECONDS, TIMEOUT_SECONDS_PER_TOKEN = 120.0, 0.2
"""Default timeout: time in the server's queue, plus twice what a loaded server takes per token (88 ms, design.md)."""


@dataclass(frozen=True)
class ClientConfig:
    """How requests are sent.

    Attributes:
        names: Names that servers may use for the model, the most likely first.
        otherwise: The name to use where servers do not list their models.
        concurrency: Requests in flight.
        timeout: Seconds per request; None follows the token budget.
        retries: Retries per request.
        images: `data` or `file`.
        key, key_name: The API key and its environment variable.
    """

    names: tuple[str, ...]
    otherwise: str
    concurrency: int
    timeout: float | None = None
    retries: int = 8
    images: str = "data"
    key: str | None = None
    key_name: str = "OPENAI_API_KEY"

    def timeout_seconds(self, max_tokens: int) -> float:
        """Returns the timeout of a request; it follows the token budget unless the user set one."""
        return self.timeout or BASE_TIMEOUT_SECONDS + TIMEOUT_SECONDS_PER_TOKEN * max_tokens
