"""LLaMA-Factory: sharegpt conversations with `<image>` placeholders in a folder, and the `dataset_info.json` that
describes them.

https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md: train with `--dataset_dir FOLDER --dataset sophia`.
It opens images as files, so embedded ones become files of the folder. It has no weights: they are a column that it
ignores.
"""

from typing import Any

from sophia_cli.errors import RecordError
from sophia_cli.exporters._base import ExportExample, assistant_turn
from sophia_cli.io.images import is_download, shorten_reference
from sophia_cli.records import where_of

OUTPUT_KIND, SOURCE_KIND, EMBEDS_IMAGES = "folder", "trajectories", False
FILE_NAME = "sophia.jsonl"
EXTRA_FILES = {
    "dataset_info.json": {
        "sophia": {
            "file_name": FILE_NAME,
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }
    }
}


def row_fields(example: ExportExample) -> dict[str, Any]:
    """Returns one conversation.

    Raises:
        RecordError: an image is not a file.
    """
    if url := next((image for image in example.images if is_download(image)), None):
        raise RecordError(
            f"{where_of(example.record)}: image {shorten_reference(url)} is not a file; export with --images embed"
        )
    messages = [*example.prompt_with_placeholders, assistant_turn(example.answer)]
    return {"messages": messages, "images": example.images, "weight": example.weight}
