"""Requests for OpenAI's batch API: each item's question with its images, asked once of `--model`.

https://platform.openai.com/docs/guides/batch. `custom_id` is the item's id. Images are embedded, because a provider
cannot read our disk; `--images path` keeps URLs and refuses other references.
"""

from typing import Any

from sophia_cli.errors import RecordError
from sophia_cli.exporters._base import ExportExample
from sophia_cli.io.images import is_download, is_embedded, shorten_reference
from sophia_cli.records import where_of

OUTPUT_KIND, SOURCE_KIND, EMBEDS_IMAGES = "lines", "items", True


def row_fields(example: ExportExample) -> dict[str, Any]:
    """Returns one request.

    Raises:
        RecordError: a provider could not read an image.
    """
    for image in example.images:
        if not (is_download(image) or is_embedded(image)):
            raise RecordError(
                f"{where_of(example.record)}: image {shorten_reference(image)} is not a URL; export with --images embed"
            )
    parts = [
        {"type": "image_url", "image_url": {"url": part["image"]}} if part["type"] == "image" else part
        for part in example.content
    ]
    system = [{"role": "system", "content": example.system}] if example.system else []
    body = {"model": example.model, "messages": [*system, {"role": "user", "content": parts}]}
    return {"custom_id": example.name, "method": "POST", "url": "/v1/chat/completions", "body": body}
