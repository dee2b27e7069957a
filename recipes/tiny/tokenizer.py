"""Builds the tokenizer shared by both embedded models: one token per word of the world, bytes for everything else.

A Unigram model with byte fallback needs no merges. Any other text (a user's own question, an emoji) survives a round trip.
"""

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sophia_cli.world.questions import CHINESE_NAMES

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
TAGS = ("<think>", "</think>")
LARGEST_NUMBER = 60

CHAT_TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<IMG_CONTEXT>
{% elif part['type'] == 'text' -%}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def build_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """Builds a tokenizer whose pieces are the words, numbers and punctuation of the corpus, and all 256 bytes."""
    specials = [PAD, START, END, *IMAGE_TOKENS, *TAGS]
    pieces = sorted(_pieces(corpus))
    vocabulary = [(token, 0.0) for token in specials] + [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocabulary += [(piece, -10.0) for piece in pieces]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), behavior="isolated"),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=True),
        ]
    )
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    tokenizer.add_tokens(list(TAGS))
    tokenizer.add_special_tokens({"additional_special_tokens": [START]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _pieces(corpus: Iterable[str]) -> set[str]:
    """Returns words with and without a leading space, numbers, Chinese phrases and punctuation."""
    pieces = {"\n", "▁", "\\boxed{", "▁\\boxed{", *CHINESE_NAMES.values()}
    for number in range(LARGEST_NUMBER + 1):
        pieces |= {str(number), f"▁{number}"}
    for text in corpus:
        for space, word in re.findall(r"(\s?)([A-Za-z]+|[一-鿿]|[^\sA-Za-z0-9])", text):
            pieces.add(f"▁{word}" if space == " " else word)
    return pieces
