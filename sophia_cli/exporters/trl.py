"""TRL's supervised fine-tuning: `messages` and `images`, with the weight as a column.

https://huggingface.co/docs/trl/dataset_formats: conversational language modelling; TRL itself puts the images before the
first user's text. Its SFTTrainer knows no weights: the column is for those who do.
"""

from typing import Any

from sophia_cli.exporters._base import ExportExample, assistant_turn

OUTPUT_KIND, SOURCE_KIND, EMBEDS_IMAGES = "lines", "trajectories", False


def row_fields(example: ExportExample) -> dict[str, Any]:
    """One conversation."""
    messages = [*example.prompt_messages, assistant_turn(example.answer)]
    return {"id": example.name, "messages": messages, "images": example.images, "weight": example.weight}
