"""Families of vision-language models, one file each, named after `model_type` in a model's config.json.

A file says how images become tokens (`load_processor`) and which parts are vision and projector (`VISION`, `PROJECTOR`,
prefixes of parameter names); the rest is the language model.
"""
