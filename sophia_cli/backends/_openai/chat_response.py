"""A response of a chat endpoint → a completion, a failure, or what the server says is wrong.

Three kinds of faults: those that may pass (`UnusableResponse`: cut off, not JSON) are retried; an error inside a response
with status 200 (`ErrorResponse`) counts as its code; what is a server's way to answer (`OddResponse`: an unknown finish
reason, no token count) is retried once where the server has not answered well before.
"""

import math
from dataclasses import replace
from typing import Any

import orjson

from sophia_cli.inference.types import Completion, EmptyResponse, Failure
from sophia_cli.models.thinking import thinking_of, to_think_tags
from sophia_cli.records import THINK_CLOSE, THINK_OPEN

# To support another server, add its finish reasons here, in lower case. An unknown one is an error, never guessed.
FINISH_REASONS = {
    **dict.fromkeys(
        ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed"), "stop"
    ),
    **dict.fromkeys(("length", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "model_length"), "length"),
    # A loop that the server cut off: there is no final answer, as with the token limit.
    "repetition": "length",
}
FILTERED_REASONS = {
    **dict.fromkeys(
        ("content_filter", "safety", "recitation", "prohibited_content"), "content filter: the server withheld it"
    ),
    **dict.fromkeys(("tool_calls", "tool_use"), "tool call: the server returned a tool call instead of a text"),
    "function_call": "tool call: the server returned a function call instead of a text",
}
PASSING_REASONS = frozenset(("error", "abort", "cancelled"))
"""The server stopped for a reason of its own, for example because it shuts down."""
CONTEXT_ERROR_MARKS = (
    "context length",
    "context_length",
    "context window",
    "max_model_len",
    "maximum model length",
    "too long",
)
# Some servers return a whole HTML page or a traceback as the error.
MAX_MESSAGE_CHARS = 300
# More tokens than any context has: such a count is a fault of the server, and would overflow a column of `propagate`.
MAX_TOKEN_COUNT = 1 << 30
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnusableResponse(Exception):
    """A response with status 200 that does not answer the request: cut off, not JSON, or another number of choices."""


class OddResponse(UnusableResponse):
    """A response that lacks what every response must have; a server that answers so once does it every time."""


class ErrorResponse(Exception):
    """A response with status 200 that holds an error.

    Attributes:
        status: The HTTP status that its code means; 500 where it gives none.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def parse_response(body: bytes, logprobs: bool = False) -> Completion | Failure:
    """Returns the completion in a response with status 200, or why there is none.

    Args:
        body: The response.
        logprobs: Its log-probability was requested: the sum over all of its tokens.

    Raises:
        UnusableResponse: another try may succeed.
        OddResponse: the server answers in a way that is not understood.
        ErrorResponse: it holds an error.
    """
    choice = _only_choice(body)
    answer, message, finish = choice["answer"], choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise OddResponse("no field `choices[0].message`; give the address of a chat endpoint (…/v1)")
    reason = finish.casefold() if isinstance(finish, str) else None
    if reason in FILTERED_REASONS or message.get("tool_calls"):
        return Failure(FILTERED_REASONS.get(reason or "", FILTERED_REASONS["tool_calls"]))
    if reason in PASSING_REASONS:
        raise UnusableResponse(f"the response ended with {finish!r}")
    said, thought = _texts(message)
    if (refusal := message.get("refusal")) and not said.strip():
        return Failure(f"refusal: {' '.join(str(refusal).split())[:MAX_MESSAGE_CHARS]}")
    if reason not in FINISH_REASONS:
        found = "missing" if "finish_reason" not in choice else "null" if finish is None else f"{str(finish)[:40]!r}"
        raise OddResponse(f"field `choices[0].finish_reason` is {found}; without it nothing says if it is complete")
    tokens = _token_count(answer)
    if not said.strip() and not thought.strip():
        return EmptyResponse(tokens=max(tokens or 0, 0))
    if tokens is None:
        raise OddResponse("no field `usage.completion_tokens`; selection needs lengths, so let the server send usage")
    if not 0 < tokens <= MAX_TOKEN_COUNT:
        raise UnusableResponse(f"the response counts {tokens} tokens for a text that is not empty")
    completion = Completion(join_thinking(said, thought), tokens, FINISH_REASONS[reason])
    return _with_logprob(completion, choice) if logprobs else completion


def _only_choice(body: bytes) -> dict[str, Any]:
    """Returns the only choice of a response, with the whole response in `answer`."""
    try:
        answer = orjson.loads(body.removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError:
        raise UnusableResponse("not JSON") from None
    if not isinstance(answer, dict):
        raise UnusableResponse("not a JSON object")
    choices = answer.get("choices")
    if answer.get("error") or (not choices and (answer.get("message") or answer.get("detail"))):
        raise _error_inside(answer)
    if not isinstance(choices, list) or not choices:
        raise UnusableResponse("field `choices` is missing or empty")
    if len(choices) != 1:
        raise UnusableResponse(f"the response has {len(choices)} choices instead of one")
    if not isinstance(choices[0], dict):
        raise UnusableResponse("field `choices[0]` is not an object")
    if choices[0].get("error"):
        raise _error_inside(choices[0])
    return {**choices[0], "answer": answer}


def _error_inside(answer: dict[str, Any]) -> ErrorResponse:
    error = answer.get("error") or answer
    codes = [error.get("code"), error.get("status"), answer.get("code")] if isinstance(error, dict) else [answer.get("code")]
    found = [int(code) for code in map(str, codes) if code.isdigit()]
    status = next((code for code in found if 400 <= code < 600), 500)
    return ErrorResponse(status, error_message(status, orjson.dumps(answer)))


def _texts(message: dict[str, Any]) -> tuple[str, str]:
    """Returns the text and the thinking of a message; its content may be a list of parts."""
    content, thoughts = message.get("content"), [message.get("reasoning") or message.get("reasoning_content")]
    said = content if isinstance(content, str) else ""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        said = "".join(
            str(part["text"]) for part in parts if part.get("type") in ("text", "output_text") and part.get("text")
        )
        thoughts += [
            part.get("thinking") or part.get("text") for part in parts if part.get("type") in ("thinking", "reasoning")
        ]
    return said, "\n".join(filter(None, map(_thought_text, thoughts)))


def _thought_text(thought: Any) -> str:
    if isinstance(thought, list):
        return "".join(str(part.get("text") or "") for part in thought if isinstance(part, dict))
    return thought if isinstance(thought, str) else ""


def _token_count(answer: dict[str, Any]) -> int | None:
    """Returns the tokens of the completion; some servers send them as 12.0 or "12", or under Anthropic's name."""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    count = usage.get("completion_tokens", usage.get("output_tokens"))
    try:
        found = float(count) if count is not None and not isinstance(count, bool) else math.nan
    except (TypeError, ValueError):
        return None
    return int(found) if found.is_integer() else None


def _with_logprob(completion: Completion, choice: dict[str, Any]) -> Completion | Failure:
    """Returns the completion with its log-probability, or a failure if that is missing."""
    if (logprob := _logprob_sum(choice, completion.tokens)) is None:
        missing = f"the server did not return log-probabilities for all {completion.tokens} tokens"
        return Failure(f"{missing}; omit --logprobs, or use vLLM")
    return replace(completion, logprob=logprob)


def _logprob_sum(choice: dict[str, Any], tokens: int) -> float | None:
    """Returns the sum of the log-probabilities if all tokens have one (the end token may lack it)."""
    try:
        found = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
    except (KeyError, TypeError, ValueError):
        return None
    return math.fsum(found) if len(found) in (tokens, tokens - 1) else None


def join_thinking(said: str, thought: str = "") -> str:
    """Joins thinking that the server's parser separated with the answer. Thinking that is in the answer as well, as some
    gateways send it (https://github.com/QuantumNous/new-api/issues/780), is not repeated.
    """
    said = to_think_tags(said)
    if not thought.strip() or thinking_of(said).strip() == thought.strip():
        return said
    if said.lstrip().startswith(thought.strip()):  # the same without marks
        said = said.lstrip().removeprefix(thought.strip())
    opened = f"{THINK_OPEN}\n{thought.strip()}"
    return f"{opened}\n{THINK_CLOSE}\n\n{said.strip()}" if said.strip() else opened


def error_message(status: int, body: bytes) -> str:
    """Returns what a server says is wrong, in one line of at most MAX_MESSAGE_CHARS characters: `400: …`."""
    text = body.decode("utf-8", "replace")
    try:
        answer = orjson.loads(body)
        error = answer.get("error", answer)
        found = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        text = found if isinstance(found, str) else text
    except (orjson.JSONDecodeError, AttributeError):
        pass
    return f"{status}: {' '.join(text.split())[:MAX_MESSAGE_CHARS] or 'no reason given'}"


def exceeds_context(message: str) -> bool:
    """Tells whether a refusal means that prompt and answer exceed the model's context."""
    folded = message.casefold()
    return any(mark in folded for mark in CONTEXT_ERROR_MARKS)
