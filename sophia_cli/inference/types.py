"""The types that steps and backends share: sampling parameters, requests, completions, failures, jobs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from sophia_cli.models.aliases import ModelRef
from sophia_cli.records import Record
from sophia_cli.runtime.read_ahead import ReadAhead


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. Temperature 0 is greedy.

    Attributes:
        max_tokens: Longest completion, the end token included; 0 means the model's default for the step.
        logprobs: Return the log-probability of each completion.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 0
    logprobs: bool = False

    def with_defaults(self, model: ModelRef, step: str, longest: int) -> "SamplingParams":
        """Returns the parameters with `max_tokens` from the model's folder, else `longest`, when the user gave none."""
        return replace(self, max_tokens=self.max_tokens or int(model.default(step, "max_tokens", longest)))

    def manifest_settings(self) -> dict[str, Any]:
        """Returns the settings for the manifest."""
        return {name: value for name, value in asdict(self).items() if name != "logprobs" or value}


@dataclass(frozen=True)
class Request:
    """Chat messages, and how to sample the answer.

    A message's content is a text, or a list of parts: `{"type": "image", "image": reference}` or `{"type": "text",
    …}`.
    """

    messages: list[dict[str, Any]]
    sampling: SamplingParams
    seed: int


@dataclass(frozen=True)
class Completion:
    """What a model said.

    Attributes:
        text: The whole text.
        tokens: Its length in tokens, the end token included.
        finish_reason: `stop` or `length`.
        logprob: Σ log µ(token) under the model itself, before temperature and top-p, if requested.
    """

    text: str
    tokens: int
    finish_reason: str
    logprob: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why a request got no completion, in one line."""

    error: str


@dataclass(frozen=True)
class EmptyResponse(Failure):
    """The model said nothing: a failure for a step that needs a text, an answer like any other for a step that grades."""

    error: str = "empty response: the model generated no text"
    tokens: int = 0


@dataclass(frozen=True)
class Job:
    """A record, the ids and counts that its sample will have, and the request for the sample."""

    record: Record
    ids: dict[str, Any]
    request: Request = field(repr=False)


class Backend(Protocol):
    """Where a model runs: a file of `backends/` with a class `Backend(model, options)` that implements this protocol."""

    def stream(self, jobs: "ReadAhead[Job]") -> Iterator[tuple[Job, Completion | Failure]]:
        """Yields every job once, in any order, with its completion or failure."""
        ...

    def status(self) -> str:
        """Returns a text for the progress line; it may be empty."""
        ...

    def close(self) -> None:
        """Stops what the backend has started. The main thread calls it once, however the step ends, perhaps while it
        streams.
        """
        ...
