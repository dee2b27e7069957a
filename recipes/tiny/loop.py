"""The training loop of both embedded models: cross-entropy on the answers, Muon for matrices, AdamW for the rest.

The learning rate warms up and follows a cosine. `sophia train` is not used because the data is an endless stream.
"""

import math
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from recipes.tiny.examples import Example

IGNORED = -100


def normalize_images(images: list[Any], mean: list[float], std: list[float]) -> torch.Tensor:
    """Converts images (H, W, 3 each) to what the image processor returns: float, B x 3 x H x W."""
    import numpy as np

    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def encode(example: Example, tokenizer: Any, image_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokenizes one chat. The labels are the answer's tokens and the end token; the prompt is masked with IGNORED."""
    text = tokenizer.apply_chat_template(example.messages, add_generation_prompt=True, tokenize=False)
    text = text.replace("<IMG_CONTEXT>", "<img>" + "<IMG_CONTEXT>" * image_tokens + "</img>")
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = [*tokenizer(example.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return torch.tensor(prompt + answer), torch.tensor([IGNORED] * len(prompt) + answer)


def batches(
    examples: Iterator[Example], tokenizer: Any, size: int, image_tokens: int = 9, group: int = 16
) -> Iterator[dict[str, Any]]:
    """Yields padded batches of examples of similar length; `images` holds the images of the batch."""
    while chunk := list(islice(examples, size * group)):
        rows = sorted(
            ((*encode(example, tokenizer, image_tokens), example) for example in chunk), key=lambda row: len(row[0])
        )
        order = torch.randperm(len(rows) // size, generator=torch.Generator().manual_seed(len(rows[0][0])))
        for start in (order * size).tolist():
            part = rows[start : start + size]
            ids = pad_sequence([row[0] for row in part], batch_first=True, padding_value=tokenizer.pad_token_id)
            labels = pad_sequence([row[1] for row in part], batch_first=True, padding_value=IGNORED)
            mask = pad_sequence([torch.ones_like(row[0]) for row in part], batch_first=True)
            images = [row[2].image for row in part if row[2].image is not None]
            yield {"input_ids": ids, "labels": labels, "attention_mask": mask, "images": images}


def fit(
    model: torch.nn.Module,
    stream: Iterator[dict[str, Any]],
    steps: int,
    lr: float,
    prepare: Any = lambda batch: batch,
    warmup: int = 100,
    floor: float = 0.02,
    name: str = "",
) -> None:
    """Trains the parameters that require a gradient for `steps` batches; prints the loss to stderr every 50 steps."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for name, p in model.named_parameters() if p.requires_grad and p.ndim == 2 and ".layers." in name]
    others = [p for p in trained if not any(p is matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, scale) for optimizer in optimizers]
    start, recent = time.process_time(), 0.0
    model.train()
    for step, batch in enumerate(islice(stream, steps), 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**prepare(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
        if step % 50 == 0 or step == steps:
            seconds = time.process_time() - start
            print(f"{name} step {step}/{steps} loss {recent:.4f} cpu {seconds:.0f} s", file=sys.stderr, flush=True)
    model.eval()
