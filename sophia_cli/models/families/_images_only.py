"""Loads a family's processor with Pillow's image processing and without a video processor.

Both on purpose. `AutoProcessor` needs torchvision, which has no CPU build for every torch. And pixels are the same on
every machine this way: torchvision's differ from Pillow's by up to one level.
"""

from typing import Any


def load_images_only(processor: type, image_processor: Any, path: str) -> Any:
    """Returns the processor of the model at `path`. processor: its class, whose `__init__` takes no `video_processor`."""
    from transformers import AutoTokenizer
    from transformers.processing_utils import ProcessorMixin

    fields, _ = ProcessorMixin.get_processor_dict(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    known = {name: fields[name] for name in ("image_seq_length",) if name in fields}
    return processor(image_processor.from_pretrained(path), tokenizer, chat_template=tokenizer.chat_template, **known)
