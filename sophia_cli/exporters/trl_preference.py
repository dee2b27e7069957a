"""TRL's preference data (DPO, MPO): prompt, chosen and rejected answer of an item, and its images.

https://huggingface.co/docs/trl/dataset_formats: conversational preference with an explicit prompt.
"""

from typing import Any

from sophia_cli.exporters._base import ExportExample

OUTPUT_KIND, SOURCE_KIND, EMBEDS_IMAGES = "lines", "pairs", False


def row_fields(example: ExportExample) -> dict[str, Any]:
    """Returns one pair: a correct trajectory and a wrong one."""
    chosen, rejected = [example.answer_turn(example.answer)], [example.answer_turn(example.rejected)]
    return {
        "id": example.name,
        "prompt": example.prompt_messages,
        "chosen": chosen,
        "rejected": rejected,
        "images": example.images,
    }
