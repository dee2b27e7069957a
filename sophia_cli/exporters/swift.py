"""ms-swift: `messages` with `<image>` marks, `images`, and each answer's weight as its `loss_scale`.

https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html; it reads
`loss_scale` in a message since April 2026.
"""

from typing import Any

from sophia_cli.exporters._base import Example, assistant

FORM, OF, EMBED = "lines", "trajectories", False


def fields(example: Example) -> dict[str, Any]:
    """One conversation."""
    messages = [*example.marked_chat, assistant(example.answer, loss_scale=example.weight)]
    return {"messages": messages, "images": example.images}
