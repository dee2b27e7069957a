"""What a long trajectory costs: peak memory and tokens a second, with logits of the whole length and as `sophia train` does.

    make bench-memory

One forward and backward pass over one row of 2K, 8K and 32K tokens, half of them supervised, in a process each: a small
random Qwen2 with the vocabulary of InternVL3 (151,674), whose logits of 32K tokens alone are 20 GB. A run whose logits would
take more than `--most` GB is not begun. Uses a GPU where there is one.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any

VOCABULARY, HIDDEN, LAYERS = 151_674, 256, 2
LENGTHS = (2048, 8192, 32768)
COPIES = 3
"""Of the logits, in fp32: themselves, their log-softmax, its gradient."""


def policy_of(device: str) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=4 * HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=max(LENGTHS), tie_word_embeddings=False,
    )  # fmt: skip
    policy = Qwen2ForCausalLM(config).to(device).train()
    policy.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


def once(how: str, length: int) -> tuple[float, float]:
    """Seconds of a pass, and the most memory in GB."""
    import torch

    from sophia_cli.training.batches import IGNORED
    from sophia_cli.training.scores import Scorer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = policy_of(device)
    ids = torch.randint(0, VOCABULARY, (1, length), device=device)
    labels = ids.clone()
    labels[:, : length // 2] = IGNORED
    began = time.perf_counter()
    if how == "sophia":
        loss = -Scorer(policy, packs=False).score(policy, {"input_ids": ids}, labels).sum()
    else:
        loss = policy(input_ids=ids, labels=labels, use_cache=False).loss
    loss.backward()
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - began, torch.cuda.max_memory_allocated() / 1e9
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measured(how: str, length: int, most: float) -> str:
    """A cell of the table."""
    logits = 4 * length * VOCABULARY / 1e9
    if how != "sophia" and COPIES * logits > most:
        return f"not begun: {COPIES} × {logits:.1f} GB of logits"
    done = subprocess.run([sys.executable, __file__, "--only", how, str(length)], capture_output=True, text=True)
    if done.returncode:
        return f"ended with code {done.returncode}"
    seconds, memory = map(float, done.stdout.split()[-2:])
    return f"{memory:.1f} GB, {length / seconds:,.0f} tokens/s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs=2, metavar=("HOW", "LENGTH"))
    parser.add_argument("--most", type=float, default=16.0, help="GB that whole logits may take.")
    options = parser.parse_args()
    if options.only:
        print(*once(options.only[0], int(options.only[1])))
        return 0
    print("| tokens | `sophia train` | logits of the whole length |\n|---|---|---|")
    for length in LENGTHS:
        cells = [measured(how, length, options.most) for how in ("sophia", "whole")]
        print(f"| {length:,} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
