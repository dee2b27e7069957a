"""Trains `tiny-vlm`, an InternVL policy that sees well and reasons badly.

    python -m recipes.tiny.train_policy EYES REASONER OUT [--steps N]

EYES is the output of `vision.py`, REASONER is `train_reasoner.py`'s phase-0 folder. The language model starts from the
reasoner, because the backbones of real vision-language models were trained on text-only reasoning. The policy learns to
describe images and to answer questions directly, and keeps some text-only reasoning. It never sees reasoning about an
image: that is what SOPHIA teaches it.
"""

import argparse
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, InternVLForConditionalGeneration, set_seed

from recipes.tiny.examples import Example, captions, direct_questions, text_reasoning
from recipes.tiny.loop import batches, fit, normalize_images
from recipes.tiny.vision import MEAN, STD

GRAIN = (20.0, 80.0)
STEPS, LR = 700, 2e-3
PATTERN = "ccrcdccrccds"
"""Order of the examples. c: caption, d: direct question, r: text reasoning, s: r with the prompt's worked example."""


def mixture(seed: int) -> Iterator[Example]:
    """Yields examples of all kinds without end, in the proportions of `PATTERN`."""
    streams = {
        "c": captions(seed, GRAIN),
        "d": direct_questions(seed + 1, GRAIN),
        "r": text_reasoning(seed + 2, system=0.5, worked_example=False),
        "s": text_reasoning(seed + 3, system=0.5),
    }
    for sort in cycle(PATTERN):
        yield next(streams[sort])


def with_pixels(batch: dict) -> dict:
    images = batch.pop("images")
    return {**batch, "pixel_values": normalize_images(images, MEAN, STD)} if images else batch


def main(eyes: Path, reasoner: Path, out: Path, steps: int) -> None:
    torch.set_num_threads(1)
    set_seed(2)
    tokenizer = AutoTokenizer.from_pretrained(reasoner)
    language = AutoModelForCausalLM.from_pretrained(reasoner, dtype="float32")
    model = InternVLForConditionalGeneration.from_pretrained(eyes, dtype="float32")
    model.model.language_model.load_state_dict(language.model.state_dict())
    for parameter in model.model.vision_tower.parameters():
        parameter.requires_grad = False
    fit(model, batches(mixture(seed=200), tokenizer, size=48), steps, LR, prepare=with_pixels, name="policy")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("eyes", "reasoner", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    main(arguments.eyes, arguments.reasoner, arguments.out, arguments.steps)
