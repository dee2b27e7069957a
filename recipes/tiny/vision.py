"""Trains the vision tower and the projector of `tiny-vlm` to recognize what each cell of an image holds.

    python -m recipes.tiny.vision OUT [--steps N]

One image token covers one cell (patches of 16 pixels, pixel shuffle by two). A linear head on each projected token
predicts color, form and digit. The heads are dropped afterwards; the language model reads the projector's output.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen3Config, set_seed

from recipes.tiny.examples import corpus, scenes
from recipes.tiny.loop import fit, normalize_images
from recipes.tiny.tokenizer import build_tokenizer
from recipes.tiny.train_reasoner import text_config
from sophia_cli.world.drawing import IMAGE_SIZE, draw_image
from sophia_cli.world.scenes import COLORS, FORMS, Scene

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IMAGE_TOKENS = 9
GRAIN = (20.0, 70.0)
STEPS = 600


def policy_config(text: Qwen3Config, image_token_id: int) -> InternVLConfig:
    """A ViT of three layers and the language architecture of the reasoner: about 1.6 M weights."""
    vision = InternVLVisionConfig(
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=384,
        image_size=(IMAGE_SIZE, IMAGE_SIZE),
        patch_size=(16, 16),
        attention_bias=True,
        use_mean_pooling=True,
        layer_scale_init_value=1.0,
        norm_type="layer_norm",
    )
    return InternVLConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=image_token_id,
        image_seq_length=IMAGE_TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=True,
    )


class CellReader(nn.Module):
    """Vision tower, projector and three linear heads over each image token; `fit` trains its loss."""

    def __init__(self, model: InternVLForConditionalGeneration):
        super().__init__()
        self.vision, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.features = model.model.get_image_features
        width = model.config.text_config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, classes) for classes in (len(COLORS) + 1, len(FORMS) + 1, 10))

    def forward(self, pixel_values: torch.Tensor, cells: torch.Tensor):
        tokens = self.features(pixel_values=pixel_values, vision_feature_layer=-1, vision_feature_select_strategy="default")
        logits = [head(tokens.pooler_output) for head in self.heads]
        losses = [cross_entropy(part.flatten(0, 1).float(), cells[..., i].flatten()) for i, part in enumerate(logits)]
        self.right = (
            torch.stack([part.argmax(-1) == cells[..., i] for i, part in enumerate(logits)]).all(0).all(-1).float().mean()
        )
        return type("Output", (), {"loss": sum(losses)})


def cell_labels(scene: Scene) -> list[list[int]]:
    """Returns color, form and digit of each of the nine cells; zeros for an empty cell."""
    labels = [[0, 0, 0] for _ in range(9)]
    for shape in scene:
        labels[shape.cell] = [1 + COLORS.index(shape.color), 1 + FORMS.index(shape.form), shape.digit]
    return labels


def cell_batches(seed: int, size: int, grain: tuple[float, float]) -> Iterator[dict[str, torch.Tensor]]:
    """Yields batches of images (B x 3 x 96 x 96) and their cells (B x 9 x 3)."""
    images, cells = [], []
    for rng, scene, _ in scenes(seed):
        images.append(draw_image(scene, rng.uniform(*grain), str(rng.random())))
        cells.append(cell_labels(scene))
        if len(images) == size:
            yield {"pixel_values": normalize_images(images, MEAN, STD), "cells": torch.tensor(cells)}
            images, cells = [], []


def train_vision(model: InternVLForConditionalGeneration, steps: int, grain: tuple[float, float]) -> None:
    """Trains the vision tower and the projector in place."""
    reader = CellReader(model)
    fit(reader, cell_batches(seed=100, size=64, grain=grain), steps, lr=2e-3, name="vision")
    reader.eval()
    for level in (45.0, 60.0, 70.0):
        with torch.no_grad():
            reader(**next(cell_batches(seed=101, size=512, grain=(level, level))))
        print(f"whole scenes read right at grain {level:.0f}: {reader.right.item():.3f}", flush=True)


def main(out: Path, steps: int) -> None:
    torch.set_num_threads(1)
    set_seed(2)
    tokenizer = build_tokenizer(corpus(5000))
    model = InternVLForConditionalGeneration(policy_config(text_config(tokenizer), tokenizer.context_image_token_id))
    train_vision(model, steps, GRAIN)
    model.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    main(arguments.out, arguments.steps)
