"""InternVL 2.5, 3 and 3.5 in the native (`-hf`) format: `InternVLForConditionalGeneration`."""

from typing import Any

from sophia_cli.models.families._images_only import load_images_only

VISION_PREFIXES = ("model.vision_tower.",)
PROJECTOR_PREFIXES = ("model.multi_modal_projector.",)


def load_processor(path: str) -> Any:
    """Returns the model's processor, for images only."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.internvl.processing_internvl import InternVLProcessor
    from transformers.processing_utils import ProcessorMixin

    class ImagesOnly(InternVLProcessor):
        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            image_seq_length: int = 256,
            chat_template: Any = None,
        ):
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
            self.image_seq_length = image_seq_length
            self.start_image_token, self.end_image_token = tokenizer.start_image_token, tokenizer.end_image_token
            self.start_image_token_id = tokenizer.start_image_token_id
            self.end_image_token_id = tokenizer.end_image_token_id
            self.image_token, self.video_token = tokenizer.context_image_token, tokenizer.video_token
            self.image_token_id = tokenizer.context_image_token_id
            import re

            self.multimodal_pattern = re.compile(
                f"(?P<image>{re.escape(self.image_token)})|(?P<video>{re.escape(self.video_token)})"
            )

    return load_images_only(ImagesOnly, GotOcr2ImageProcessorPil, path)
