"""TRL's preference data (DPO, MPO): prompt, chosen and rejected of one item, and its images.

https://huggingface.co/docs/trl/dataset_formats: conversational preference with an explicit prompt.
"""

from typing import Any

from sophia_cli.exporters._base import Example, assistant

FORM, OF, EMBED = "lines", "pairs", False


def fields(example: Example) -> dict[str, Any]:
    """One pair: a right trajectory and a wrong one."""
    chosen, rejected = [assistant(example.answer)], [assistant(example.rejected)]
    return {
        "id": example.name,
        "prompt": example.chat,
        "chosen": chosen,
        "rejected": rejected,
        "images": example.images,
    }
