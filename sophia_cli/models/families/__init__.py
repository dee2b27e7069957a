"""Families of vision-language models, one file each, named after `model_type` in a model's config.json.

A file says how images become tokens (`load_processor`) and which parts are vision and projector (`VISION_PREFIXES`, `PROJECTOR_PREFIXES`,
prefixes of parameter names; what is the projector is not the vision tower, though it may lie within); the rest is the
language model.
"""

from typing import Any


def model_part(name: str, family: Any) -> str:
    """Which part of a model a parameter or module of this name belongs to: projector, vision or language."""
    if name.startswith(family.PROJECTOR_PREFIXES):
        return "projector"
    return "vision" if name.startswith(family.VISION_PREFIXES) else "language"
