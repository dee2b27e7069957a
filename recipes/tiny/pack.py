"""Writes a trained model as the folder that the package ships: half precision, with the files that real models have.

python -m recipes.tiny.pack reasoner|policy TRAINED OUT
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

from recipes.tiny.vision import IMAGE_TOKENS, MEAN, STD
from sophia_cli.world.drawing import IMAGE_SIZE

CARDS = Path(__file__).parent / "cards"
ENGINE = {"dtype": "float64", "rows": 256, "threads": 1, "small": True}
# vLLM on CPU crashes when a request with a seed has its prompt processed in chunks, so chunked prefill is off.
SERVER = {
    "options": "--dtype float32 --enforce-eager --kv-cache-memory-bytes 134217728 --no-enable-chunked-prefill",
}
DEFAULTS = {
    "reasoner": {"prompts": "short", "hf": ENGINE, "vllm": SERVER, "reason": {"max_tokens": 320}},
    "policy": {
        "prompts": "short",
        "hf": ENGINE,
        "vllm": SERVER,
        "caption": {"max_tokens": 96},
        "eval": {"max_tokens": 320},
        "train": {"lr": 6e-4, "batch_size": 32, "micro_batch_size": 16, "epochs": 3.0},
        "mpo": {"lr": 1e-4, "batch_size": 32, "micro_batch_size": 16},
        "grpo": {"lr": 1e-4, "batch_size": 8, "micro_batch_size": 32, "max_tokens": 320},
    },
}
IMAGES = {
    "crop_to_patches": False,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": MEAN,
    "image_std": STD,
    "max_patches": 1,
    "min_patches": 1,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
}


def write(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def main(kind: str, trained: Path, out: Path) -> None:
    auto = AutoModelForCausalLM if kind == "reasoner" else AutoModelForImageTextToText
    model = auto.from_pretrained(trained, dtype=torch.float16)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write(out / "sophia.json", DEFAULTS[kind])
    shutil.copyfile(CARDS / f"{out.name}.md", out / "README.md")
    if kind == "policy":
        kinds = {"image_processor_type": "GotOcr2ImageProcessor", "processor_class": "InternVLProcessor"}
        write(out / "preprocessor_config.json", {**IMAGES, **kinds})
        video = {"video_processor_type": "InternVLVideoProcessor", "processor_class": "InternVLProcessor"}
        write(out / "video_preprocessor_config.json", {**IMAGES, **video})
        write(out / "processor_config.json", {"image_seq_length": IMAGE_TOKENS, "processor_class": "InternVLProcessor"})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
