"""Trains `tiny-reasoner`, a Qwen3 text model, on true descriptions of scenes and reasoning that spells out each step.

    python -m recipes.tiny.train_reasoner OUT [--steps N]

OUT is the finished reasoner. OUT/phase-0 initializes the policy's language model (`train_policy.py`).
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, set_seed

from recipes.tiny.examples import corpus, text_reasoning
from recipes.tiny.loop import batches, fit
from recipes.tiny.tokenizer import build_tokenizer

PHASES = [(False, 1150, 4e-3), (True, 250, 1.5e-3)]
"""Each phase: whether the prompt has its worked example, number of steps, learning rate."""


def text_config(tokenizer) -> Qwen3Config:
    """The architecture shared by the reasoner and the policy's language model: about 1.0 M weights."""
    return Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def text_only(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name != "images"}


def main(out: Path, trial_steps: int | None) -> None:
    torch.set_num_threads(1)
    set_seed(1)
    tokenizer = build_tokenizer(corpus(5000))
    model = Qwen3ForCausalLM(text_config(tokenizer))
    print(f"{model.num_parameters() / 1e6:.2f} M weights, vocabulary {len(tokenizer)}", file=sys.stderr)
    for phase, (worked_example, steps, lr) in enumerate(PHASES):
        stream = batches(text_reasoning(seed=phase, worked_example=worked_example), tokenizer, size=32)
        fit(model, stream, trial_steps or steps, lr, prepare=text_only, name=f"reasoner, phase {phase}")
        for folder in (out, out / f"phase-{phase}"):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, help="steps of each phase, for a trial run")
    arguments = parser.parse_args()
    main(arguments.out, arguments.steps)
