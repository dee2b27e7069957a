"""InternVL 2.5, 3 and 3.5 in the native (`-hf`) format: `InternVLForConditionalGeneration`."""

from typing import Any

VISION = ("model.vision_tower.",)
PROJECTOR = ("model.multi_modal_projector.",)


def load_processor(path: str) -> Any:
    """The model's processor, with Pillow's image processing and without a video processor.

    Both on purpose: `AutoProcessor` needs torchvision, which has no CPU build to match every torch, and pixels are the
    same on every machine this way (torchvision's differ from Pillow's by up to one level).
    """
    from transformers import AutoTokenizer
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

    fields, _ = ProcessorMixin.get_processor_dict(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    return ImagesOnly(
        GotOcr2ImageProcessorPil.from_pretrained(path),
        tokenizer,
        image_seq_length=fields.get("image_seq_length", 256),
        chat_template=tokenizer.chat_template,
    )
