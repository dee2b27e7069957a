"""LLaMA-Factory: sharegpt conversations with `<image>` marks in a folder, and the `dataset_info.json` that describes them.

https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md: train with
`--dataset_dir FOLDER --dataset sophia`. It knows no weights: they go out as a column that it passes over.
"""

from typing import Any

from sophia_cli.exporters._example import Example, assistant

FORM, OF, EMBED = "folder", "trajectories", False
FILE = "sophia.jsonl"
BESIDE = {
    "dataset_info.json": {
        "sophia": {
            "file_name": FILE,
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


def fields(example: Example) -> dict[str, Any]:
    """One conversation."""
    messages = [*example.marked_chat, assistant(example.answer)]
    return {"messages": messages, "images": example.images, "weight": example.weight}
