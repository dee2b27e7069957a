"""Tiny random models of the real classes of each family, in the hub's format, with the embedded model's vocabulary."""

import json
import shutil
from pathlib import Path
from typing import Any

from sophia_cli.models.aliases import resolve_model
from sophia_cli.training.deepspeed_config import CONFIG_DIR

FAMILIES = ("internvl", "qwen2_5_vl", "qwen3_vl")
EMBEDDED = Path(resolve_model("tiny-vlm").path)
NAMES = {"vision_start": "vision_start", "vision_end": "vision_end", "image": "image_pad", "video": "video_pad"}
QWEN_TOKENS = {name: f"<|{token}|>" for name, token in NAMES.items()}
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
COPIED = ("preprocessor_config.json", "processor_config.json", "chat_template.jinja", "video_preprocessor_config.json")


def make_model(family: str, folder: Path) -> Path:
    """Writes a model of the family with random bf16 weights; input and output embeddings are not tied."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, set_seed

    set_seed(1)
    folder.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    if family == "internvl":
        config = AutoConfig.from_pretrained(EMBEDDED)
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
        for name in COPIED:
            shutil.copyfile(EMBEDDED / name, folder / name)
    else:
        tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_TOKENS.values())})
        config = _qwen(family, {name: tokenizer.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()})
        image = "".join(QWEN_TOKENS[name] for name in ("vision_start", "image", "vision_end"))
        template = (EMBEDDED / "chat_template.jinja").read_text().replace("<IMG_CONTEXT>", image)
        tokenizer.chat_template = template
        size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
        patch = 16 if family == "qwen3_vl" else 14
        images = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": patch, "size": size, "merge_size": 2}
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
        (folder / "chat_template.jinja").write_text(template)
    config.dtype = torch.bfloat16
    AutoModelForImageTextToText.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_zero3(folder: Path) -> None:
    """Writes the shipped ZeRO-3 config, changed so that even tiny weights are partitioned over the processes."""
    config = json.loads((CONFIG_DIR / "zero3.json").read_text())
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "zero3.json").write_text(json.dumps(config))


def _qwen(family: str, ids: dict[str, int]) -> Any:
    from transformers import AutoConfig

    tokens = {f"{name}_token_id": number for name, number in ids.items()}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4]}
    text = {
        **TEXT,
        "vocab_size": 704,
        "max_position_embeddings": 1024,
        "rope_parameters": rope,
        "head_dim": 32,
        "num_key_value_heads": 1,
    }
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    if family == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0, 1], "patch_size": 16, "num_position_embeddings": 64}
    else:
        vision |= {"fullatt_block_indexes": [1], "window_size": 56, "patch_size": 14}
    return AutoConfig.for_model(family, text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens)
