"""Qwen2.5-VL: `Qwen2_5_VLForConditionalGeneration`."""

from typing import Any

from sophia_cli.models.families._images_only import load_images_only

VISION_PREFIXES = ("model.visual.",)
PROJECTOR_PREFIXES = ("model.visual.merger.",)


def load_processor(path: str) -> Any:
    """Returns the model's processor, for images only."""
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class ImagesOnly(Qwen2_5_VLProcessor):
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None):
            super().__init__(image_processor, tokenizer, chat_template=chat_template)

    return load_images_only(ImagesOnly, Qwen2VLImageProcessorPil, path)
