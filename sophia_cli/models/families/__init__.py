"""Families of vision-language models, one file each, named after `model_type` in a model's config.json.

A file defines `load_processor` (how images become tokens), `VISION_PREFIXES` and `PROJECTOR_PREFIXES` (prefixes of
parameter names; the projector counts as projector even inside the vision tower). Everything else is the language
model.
"""

from typing import Any


def model_part(name: str, family: Any) -> str:
    """Returns which part of a model a parameter or module belongs to: projector, vision or language."""
    if name.startswith(family.PROJECTOR_PREFIXES):
        return "projector"
    return "vision" if name.startswith(family.VISION_PREFIXES) else "language"
