"""ms-swift: `messages` with `<image>` placeholders, `images`, and each answer's weight as its `loss_scale`.

https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html; it reads `loss_scale` in a message since
April 2026.
"""

from typing import Any

from sophia_cli.exporters._base import ExportExample, assistant_turn

OUTPUT_KIND, SOURCE_KIND, EMBEDS_IMAGES = "lines", "trajectories", False


def row_fields(example: ExportExample) -> dict[str, Any]:
    """Returns one conversation."""
    messages = [*example.prompt_with_placeholders, assistant_turn(example.answer, loss_scale=example.weight)]
    return {"messages": messages, "images": example.images}
