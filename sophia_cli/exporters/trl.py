"""TRL's supervised fine-tuning: `messages` and `images`, with the weight as a column.

https://huggingface.co/docs/trl/dataset_formats: conversational language modeling; TRL puts the images before the first
user text, or at its image parts. Its SFTTrainer ignores weights; the column is for trainers that use it.
"""

from typing import Any

from sophia_cli.exporters._base import ExportExample

OUTPUT_KIND, SOURCE_KIND, EMBEDS_IMAGES = "lines", "trajectories", False


def row_fields(example: ExportExample) -> dict[str, Any]:
    """Returns one conversation."""
    messages = [*example.prompt_messages, example.answer_turn(example.answer)]
    return {"id": example.name, "messages": messages, "images": example.images, "weight": example.weight}
