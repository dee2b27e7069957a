"""Types."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from sophia_cli.models.aliases import ModelRef
from sophia_cli.records import Record
from sophia_cli.runtime.read_ahead import ReadAhead


@dataclass(frozen=True)
class SamplingParams:
    """Temperature 0 means greedy; `max_tokens` counts the end token. 0 tokens: the model's own default of the step.

    logprobs: completions come with their log-probability.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 0
    logprobs: bool = False

    def with_defaults(self, model: ModelRef, step: str, longest: int) -> "SamplingParams":
        """With `max_tokens` from the model's folder, else `longest`, when the user gave none."""
        return replace(self, max_tokens=self.max_tokens or int(model.default(step, "max_tokens", longest)))

    def manifest_settings(self) -> dict[str, Any]:
        """For the manifest."""
        return {name: value for name, value in asdict(self).items() if name != "logprobs" or value}


@dataclass(frozen=True)
class Request:
    """Chat messages (parts of a content list are `{"type": "image", "image": reference}` or `{"type": "text", …}`)."""

    messages: list[dict[str, Any]]
    sampling: SamplingParams
    seed: int


@dataclass(frozen=True)
class Completion:
    """What a model said: the whole text, its length in tokens (the end token counted), and why it ended (stop, length).

    logprob: the sum over its tokens of log µ(token), by the model itself: before temperature and top-p; where asked for.
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
    """The model said nothing at all: a failure of whoever needs a text, an answer like any other to whoever grades."""

    error: str = "empty answer: the model said nothing"
    tokens: int = 0


@dataclass(frozen=True)
class Job:
    """A record, the ids and counts that its sample will carry, and the request that makes the sample."""

    record: Record
    ids: dict[str, Any]
    request: Request = field(repr=False)


class Backend(Protocol):
    """Where a model runs: a file of `backends/` whose `Backend(model, place)` is one of these and does no work yet."""

    def stream(self, jobs: "ReadAhead[Job]") -> Iterator[tuple[Job, Completion | Failure]]:
        """Every job once, in any order, with what came of it."""
        ...

    def status(self) -> str:
        """What the progress line says of it; may be nothing."""
        ...

    def close(self) -> None:
        """Ends what it has started. Called once by the main thread, however the step ends, perhaps while it streams."""
        ...
