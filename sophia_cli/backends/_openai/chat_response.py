"""A response of a chat endpoint → a completion, a failure, or what the server says is wrong.

Three kinds of faults: those that may pass (`UnusableResponse`: cut off) are retried; an error inside a response with
status 200 (`ErrorResponse`) counts as its code; what is a server's way to answer (`OddResponse`: an unknown finish reason,
no token count, an error without a code) is retried once.
"""

import math
import re
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
        ("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "sensitive", "refusal"),
        "content filter: the server withheld it",
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
)
TOO_LONG = re.compile(r"(?<!took )too long")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
ERROR_TYPES = {
    "invalid_request_error": 400, "invalid_api_key": 401, "authentication_error": 401, "insufficient_quota": 402,
    "permission_error": 403, "not_found_error": 404, "rate_limit_error": 429, "rate_limit_exceeded": 429,
    "overloaded_error": 503, "server_error": 500, "internal_server_error": 500, "internal_error": 500,
}  # fmt: skip
"""The status that the type of an error means, where it has no number."""
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
        status: The HTTP status that its code means.
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
    if (refusal := refusal_of(message)) and not said.strip():
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
        raise OddResponse(f"the response counts {tokens} tokens for a text that is not empty")
    completion = Completion(join_thinking(said, thought), tokens, FINISH_REASONS[reason])
    return _with_logprob(completion, choice) if logprobs else completion


def _only_choice(body: bytes) -> dict[str, Any]:
    """Returns the only choice of a response, with the whole response in `answer`."""
    try:
        answer = orjson.loads(body.removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError:
        # One that was cut off may pass; a page or a stream is the server's way to answer.
        fault = UnusableResponse if body.lstrip()[:1] in (b"", b"{") else OddResponse
        raise fault(f"not JSON: {_first_words(body)}") from None
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, dict):
        raise OddResponse(f"not a JSON object: {_first_words(body)}")
    choices = answer.get("choices")
    if answer.get("error") or not choices:
        raise _error_inside(answer)
    if not isinstance(choices, list):
        raise OddResponse(f"field `choices` is not a list: {_first_words(body)}")
    if len(choices) != 1:
        raise OddResponse(f"the response has {len(choices)} choices instead of one")
    if not isinstance(choices[0], dict):
        raise OddResponse("field `choices[0]` is not an object")
    if choices[0].get("error"):
        raise _error_inside(choices[0])
    return {**choices[0], "answer": answer}


def _error_inside(answer: dict[str, Any]) -> Exception:
    """Returns the error that a response with status 200 holds; an odd response where it has no code."""
    error = answer.get("error") or answer
    names = ("code", "status", "type", "status_code", "error_code")
    given = [error.get(name) for name in names] if isinstance(error, dict) else []
    codes = [str(code) for code in [*given, answer.get("code")] if code is not None]
    found = [int(code) for code in codes if code.isdigit() and 400 <= int(code) < 600]
    found += [ERROR_TYPES[code] for code in codes if code in ERROR_TYPES]
    if found:
        return ErrorResponse(found[0], error_message(found[0], orjson.dumps(answer)))
    return OddResponse(
        f"field `choices` is missing or empty: {_said_of_error(answer) or _first_words(orjson.dumps(answer))}"
    )


def _texts(message: dict[str, Any]) -> tuple[str, str]:
    """Returns the text and the thinking of a message; its content may be a list of parts.

    Raises:
        OddResponse: the content has no form that is known.
    """
    names = ("reasoning", "reasoning_content", "thinking", "reasoning_details")
    thoughts = [next((message[name] for name in names if message.get(name)), None)]
    content = message.get("content")
    if content is None:
        content = ""
    parts = content if isinstance(content, list) else [content]
    said = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, dict) and kind in ("thinking", "reasoning"):
            thoughts.append(part.get("thinking") or part.get("text") or part.get("summary"))
        elif kind != "refusal":
            said.append(_text_of_part(part))
    return "".join(said), "\n".join(filter(None, map(_thought_text, thoughts)))


def refusal_of(message: dict[str, Any]) -> str | None:
    """Returns the words of a refusal, in its own field or as a part of the content."""
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return message.get("refusal") or next((part.get("refusal") for part in parts if part.get("type") == "refusal"), None)


def _text_of_part(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    text = text.get("value") if isinstance(text, dict) else text
    if isinstance(text, str):
        return text
    if isinstance(text, int | float) and not isinstance(text, bool):
        return str(text)
    raise OddResponse(f"field `choices[0].message.content` has {_first_words(orjson.dumps(part))} instead of a text")


def _thought_text(thought: Any) -> str:
    """Returns thinking as a text, without marks of its own."""
    if isinstance(thought, dict):
        thought = thought.get("content") or thought.get("text")
    if isinstance(thought, list):
        parts = [part for part in thought if isinstance(part, dict)]
        thought = "".join(str(part.get("text") or part.get("summary") or "") for part in parts)
    text = to_think_tags(thought) if isinstance(thought, str) else ""
    return text.replace(THINK_OPEN, "").replace(THINK_CLOSE, "").strip()


def _token_count(answer: dict[str, Any]) -> int | None:
    """Returns the tokens of the completion; some servers send them as 12.0 or "12", or under Anthropic's name."""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = (usage.get(name) for name in ("completion_tokens", "output_tokens"))
    count = next((count for count in counts if count is not None), None)
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
    said = said.lstrip().removeprefix(f"{THINK_OPEN}\n{THINK_CLOSE}")  # the server's parser took the opening mark only
    rest = said.lstrip().removeprefix(thought.strip())
    if rest.startswith("\n") and rest.strip():  # the same without marks
        said = rest
    opened = f"{THINK_OPEN}\n{thought.strip()}"
    return f"{opened}\n{THINK_CLOSE}\n\n{said.strip()}" if said.strip() else opened


def error_message(status: int, body: bytes) -> str:
    """Returns what a server says is wrong, in one line of at most MAX_MESSAGE_CHARS characters: `400: …`."""
    try:
        text = _said_of_error(orjson.loads(body)) or _first_words(body)
    except orjson.JSONDecodeError:
        text = _first_words(body)
    return f"{status}: {text or 'no reason given'}"


def _said_of_error(answer: Any) -> str | None:
    """Returns the words of an error, in any of the fields where servers put them."""
    answer = answer[0] if isinstance(answer, list) and answer else answer
    if not isinstance(answer, dict):
        return None
    if isinstance(answer.get("errors"), list) and answer["errors"]:
        answer = {"error": answer["errors"][0]}
    error = answer.get("error") or answer.get("base_resp") or answer
    if not isinstance(error, dict):
        return _one_line(str(error))
    found = next((error[name] for name in ("message", "detail", "msg", "error_msg", "status_msg") if error.get(name)), None)
    if found is None:
        return None
    raw = error.get("metadata", {}).get("raw") if isinstance(error.get("metadata"), dict) else None
    words = found if isinstance(found, str) else orjson.dumps(found).decode()
    return _one_line(f"{words} ({raw})" if raw else words)


def _first_words(body: bytes) -> str:
    """Returns the beginning of a body; of a page, its text without markup."""
    text = body.decode("utf-8", "replace")
    if "<html" in text[:200].casefold() or "<!doctype" in text[:200].casefold():
        text = re.sub(r"(?is)<(style|script)\b.*?</\1>|<[^>]*>", " ", text[:20_000])
    return _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(CONTROL_CHARACTERS.sub(" ", text).split())[:MAX_MESSAGE_CHARS]


def exceeds_context(message: str) -> bool:
    """Tells whether a refusal means that prompt and answer exceed the model's context."""
    folded = message.casefold()
    return any(mark in folded for mark in CONTEXT_ERROR_MARKS) or bool(TOO_LONG.search(folded))
