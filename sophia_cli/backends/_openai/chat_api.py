"""One sample on an OpenAI-compatible chat endpoint: request → JSON body, response → completion or failure.

One request asks for one sample with its own seed. With `n` samples per request they would share a seed, and `usage`
would add up their lengths (Eq. 6 needs exact lengths). Nothing is computed twice all the same: the server's prefix
cache holds the prompt, and `uuid` (vLLM) names an image that it has encoded before.
"""

import hashlib
import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import orjson

from sophia_cli.errors import RecordError
from sophia_cli.inference.types import Completion, EmptyResponse, Failure, Request
from sophia_cli.io.downloads import DownloadError, encode_url
from sophia_cli.io.images import data_uri, image_bytes, is_download, is_embedded, local_path, shorten_reference, wire_bytes
from sophia_cli.models.thinking import thinking_of, to_think_tags
from sophia_cli.records import THINK_CLOSE, THINK_OPEN

# To support another server, add its finish reasons here. An unknown one is retried, never guessed.
FINISH_REASONS = {"stop": "stop", "eos": "stop", "end_turn": "stop", "length": "length", "max_tokens": "length"}
FILTERED_REASONS = {
    "content_filter": "content filter: the server withheld the response",
    "tool_calls": "tool call: the server returned a tool call instead of a text",
    "function_call": "tool call: the server returned a function call instead of a text",
}
MODEL_TUNED_ENGINES = ("vllm", "sglang")
"""Engines that fill unset sampling parameters from the model's generation_config.json. We set them, so that samples do
not depend on that file.
"""
# The values at which vLLM and SGLang do nothing.
NEUTRAL_SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
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


class UnusableResponse(Exception):
    """A response with status 200 that does not answer the request: cut off, not JSON, or another number of choices."""


def request_body(request: Request, model: str, images: str = "data", engine: str = "", bounded: bool = True) -> bytes:
    """Returns the JSON body of one sample's request.

    Args:
        request: The request.
        model: The name of the model on the server.
        images: `data` sends the bytes; `file` sends the path, for servers that share the disk.
        engine: The server software, if known; vLLM also gets a name for each image.
        bounded: Send `max_tokens`. Without it the server stops at the end of its context.

    Raises:
        RecordError: an image cannot be read, or a text is not valid UTF-8.
    """
    sampling = request.sampling
    fields: dict[str, Any] = {
        "model": model,
        "messages": [_api_message(message, images, engine == "vllm") for message in request.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
    }
    if sampling.logprobs:
        fields["logprobs"] = True
    if engine in MODEL_TUNED_ENGINES:
        fields |= NEUTRAL_SAMPLING
    if bounded:
        fields["max_tokens"] = sampling.max_tokens
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError as error:
        raise RecordError(f"the request cannot be written as JSON ({error}); fix the record's text") from None


def has_images(request: Request) -> bool:
    """Tells whether a request has images, which must be read first."""
    contents = (message["content"] for message in request.messages)
    return any(part["type"] == "image" for content in contents if isinstance(content, list) for part in content)


def _api_message(message: dict[str, Any], images: str, uuid: bool) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = [_image_part(part["image"], images, uuid) if part["type"] == "image" else part for part in content]
    return {**message, "content": parts}


@lru_cache(maxsize=64)
def _image_part(reference: str, images: str, uuid: bool) -> dict[str, Any]:
    """Returns the part of one image. The K requests of an image follow each other, so its bytes are read once for all."""
    if is_download(reference):
        return {"type": "image_url", "image_url": {"url": _encoded(reference)}}
    media_type, data = wire_bytes(reference)
    # A server that shares the disk would decode a re-encoded file in its own way, so that one is sent.
    as_file = images == "file" and not is_embedded(reference) and data == image_bytes(reference)
    url = _file_url(local_path(reference)) if as_file else data_uri(media_type, data)
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
    # vLLM caches the encoded image by this name, so K requests for one image encode it once.
    return {**part, "uuid": hashlib.sha256(data).hexdigest()[:32]} if uuid else part


def _encoded(url: str) -> str:
    try:
        return encode_url(url)
    except DownloadError as error:
        raise RecordError(f"image {shorten_reference(url)} cannot be read ({error}); fix the address") from None


def _file_url(reference: str) -> str:
    from pathlib import Path

    return Path(reference).resolve().as_uri()


def parse_response(body: bytes, logprobs: bool = False) -> Completion | Failure:
    """Returns the completion in a response with status 200, or the failure that it reports.

    Args:
        body: The response.
        logprobs: Its log-probability was requested: the sum over all of its tokens.

    Raises:
        UnusableResponse: the response does not answer the request.
    """
    try:
        answer = orjson.loads(body)
        choices = answer["choices"]
        if len(choices) != 1:
            raise UnusableResponse(f"the response has {len(choices)} choices instead of one")
        choice = choices[0]
        message, finish = choice["message"], choice["finish_reason"]
        tokens = answer["usage"]["completion_tokens"]
        said = message.get("content") or ""
        thought = message.get("reasoning") or message.get("reasoning_content") or ""
    except orjson.JSONDecodeError:
        raise UnusableResponse("not JSON") from None
    except (KeyError, TypeError, IndexError, AttributeError):
        raise UnusableResponse("the response has no choices, message or usage") from None
    if not all(isinstance(text, str) for text in (said, thought, finish)) or type(tokens) is not int:
        raise UnusableResponse("the response has fields of the wrong type")
    if finish in FILTERED_REASONS or message.get("tool_calls"):
        return Failure(FILTERED_REASONS.get(finish, FILTERED_REASONS["tool_calls"]))
    if finish not in FINISH_REASONS:
        raise UnusableResponse(f"the response has the unknown finish reason {str(finish)[:40]!r}")
    if not said.strip() and not thought.strip():
        return EmptyResponse(tokens=max(tokens, 0))
    if not 0 < tokens <= MAX_TOKEN_COUNT:
        raise UnusableResponse(f"the response counts {tokens} tokens for a text that is not empty")
    completion = Completion(join_thinking(said, thought), tokens, FINISH_REASONS[finish])
    return _with_logprob(completion, choice) if logprobs else completion


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
