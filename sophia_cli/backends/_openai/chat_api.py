"""One sample's request to an OpenAI-compatible chat endpoint, as JSON. `chat_response.py` reads the response.

One request asks for one sample with its own seed. With `n` samples per request they would share a seed, and `usage`
would add up their lengths (Eq. 6 needs exact lengths). Nothing is computed twice all the same: the server's prefix
cache holds the prompt, and `uuid` (vLLM) names an image that it has encoded before.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from sophia_cli.errors import RecordError
from sophia_cli.inference.types import Request
from sophia_cli.io.downloads import DownloadError, encode_url
from sophia_cli.io.images import data_uri, image_bytes, is_download, is_embedded, local_path, shorten_reference, wire_bytes

MODEL_TUNED_ENGINES = ("vllm", "sglang")
"""Engines that fill unset sampling parameters from the model's generation_config.json. We set them, so that samples do
not depend on that file.
"""
# The values at which vLLM and SGLang do nothing.
NEUTRAL_SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class RequestFields:
    """Fields that some servers refuse. The client changes them when a server says so.

    Attributes:
        limit: The name of the token limit; OpenAI's newer models take `max_completion_tokens` only.
        seed: Send the seed of the sample.
    """

    limit: str = "max_tokens"
    seed: bool = True


def request_body(
    request: Request,
    model: str,
    images: str = "data",
    engine: str = "",
    bounded: bool = True,
    fields: RequestFields = RequestFields(),
) -> bytes:
    """Returns the JSON body of one sample's request.

    Args:
        request: The request.
        model: The name of the model on the server.
        images: `data` sends the bytes; `file` sends the path, for servers that share the disk.
        engine: The server software, if known; vLLM also gets a name for each image.
        bounded: Send the token limit. Without it the server stops at the end of its context.
        fields: Which fields to send.

    Raises:
        RecordError: an image cannot be read, or a text is not valid UTF-8.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": [_api_message(message, images, engine == "vllm") for message in request.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if fields.seed:
        body["seed"] = request.seed
    if sampling.logprobs:
        body["logprobs"] = True
    if engine in MODEL_TUNED_ENGINES:
        body |= NEUTRAL_SAMPLING
    if bounded:
        body[fields.limit] = sampling.max_tokens
    try:
        return orjson.dumps(body)
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
    data, media_type = wire_bytes(reference)
    # A server that shares the disk would decode a re-encoded file in its own way, so that one is sent.
    as_file = images == "file" and not is_embedded(reference) and data == image_bytes(reference)
    url = _file_url(local_path(reference)) if as_file else data_uri(data, media_type)
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
