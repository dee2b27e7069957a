"""Peak memory and tokens per second of a long trajectory, with logits of the whole length and with `sophia train`.

    make bench-memory

One forward and backward pass over one row of 2K, 8K and 32K tokens, half of them supervised, each in its own process:
a small random Qwen2 with the vocabulary of InternVL3 (151,674), whose logits alone take 20 GB at 32K tokens. A run
whose logits would take more than `--most` GB is skipped. Uses a GPU if there is one.

    python benchmarks/memory.py --shared

The same for a deeper model with a small vocabulary, where activations dominate: by one process, and by two that split
the row (`--sequence-parallel 2`), on CPUs; with activations kept, and recomputed in the backward pass.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from typing import Any

VOCABULARY, HIDDEN, LAYERS = 151_674, 256, 2
LENGTHS = (2048, 8192, 32768)
COPIES = 3
"""Of the logits, in fp32: the logits, their log-softmax and its gradient."""
DEEP = {"vocabulary": 2000, "hidden": 512, "layers": 8}
SHARED_LENGTHS = (4096, 16384)
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
"""Returns freed memory to the system at once; otherwise the C library's cache counts too, up to twice the memory in use."""


def policy_of(
    device: str, again: bool = True, vocabulary: int = VOCABULARY, hidden: int = HIDDEN, layers: int = LAYERS
) -> Any:
    """Returns a random model. again: activations are recomputed in the backward pass."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=max(LENGTHS), tie_word_embeddings=False,
    )  # fmt: skip
    policy = Qwen2ForCausalLM(config).to(device).train()
    if again:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


def once(how: str, length: int) -> tuple[float, float]:
    """Returns the seconds of a pass and the peak memory in GB."""
    import torch

    from sophia_cli.training.collator import IGNORE_INDEX
    from sophia_cli.training.logprobs import LogprobHead

    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = policy_of(device)
    ids = torch.randint(0, VOCABULARY, (1, length), device=device)
    labels = ids.clone()
    labels[:, : length // 2] = IGNORE_INDEX
    began = time.perf_counter()
    if how == "sophia":
        loss = -LogprobHead(policy, packs=False).score_batch(policy, {"input_ids": ids}, labels).sum()
    else:
        loss = policy(input_ids=ids, labels=labels, use_cache=False).loss
    loss.backward()
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - began, torch.cuda.max_memory_allocated() / 1e9
    return time.perf_counter() - began, peak_gb()


def peak_gb() -> float:
    """Returns the peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def once_shared(length: int, again: bool) -> None:
    """Runs a pass in all processes of torchrun; rank 0 prints the largest seconds and GB beyond the model's."""
    import torch
    import torch.distributed as dist

    from sophia_cli.training.collator import IGNORE_INDEX
    from sophia_cli.training.distributed import DistributedContext
    from sophia_cli.training.logprobs import LogprobHead
    from sophia_cli.training.rendezvous import init_distributed
    from sophia_cli.training.sequence_parallel import SequenceParallel

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    world = DistributedContext(rank, size, rank, cpu=True)
    init_distributed(world, deepspeed=size > 1)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    policy = policy_of("cpu", again, **DEEP)
    ulysses = SequenceParallel(policy.model, world, size) if size > 1 else None
    ids = torch.randint(0, DEEP["vocabulary"], (1, length))
    labels = ids.masked_fill(torch.arange(length) < length // 2, IGNORE_INDEX)
    began, before = time.perf_counter(), peak_gb()
    inputs = {"inputs_embeds": policy.get_input_embeddings()(ids)}
    loss = -LogprobHead(policy, packs=False, ulysses=ulysses).score_batch(policy, inputs, labels).sum()
    loss.backward()
    most = torch.tensor([time.perf_counter() - began, peak_gb() - before])
    if size > 1:
        dist.all_reduce(most, dist.ReduceOp.MAX)
    if rank == 0:
        print(*most.tolist(), flush=True)
    os._exit(0)  # gloo's teardown aborts now and then when another process is the first to go


def measured_shared(length: int, again: bool, size: int) -> str:
    """Returns a cell of the table of split rows."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(size), __file__]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(
        [*command, "--only", "shared", f"{length}{'+' * again}"], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        return f"ended with code {done.returncode}"
    seconds, memory = map(float, done.stdout.split()[-2:])
    return f"{memory:.2f} GB, {length / seconds:,.0f} tokens/s"


def print_shared() -> None:
    """Prints the table of split rows."""
    print("| tokens | layer activations | one process | two, each |\n|---|---|---|---|")
    for length in SHARED_LENGTHS:
        for again in (False, True):
            cells = [measured_shared(length, again, size) for size in (1, 2)]
            print(f"| {length:,} | {'recomputed' if again else 'kept'} | {' | '.join(cells)} |", flush=True)


def measured(how: str, length: int, most: float) -> str:
    """Returns a cell of the table."""
    logits = 4 * length * VOCABULARY / 1e9
    if how != "sophia" and COPIES * logits > most:
        return f"not run: {COPIES} × {logits:.1f} GB of logits"
    done = subprocess.run([sys.executable, __file__, "--only", how, str(length)], capture_output=True, text=True)
    if done.returncode:
        return f"ended with code {done.returncode}"
    seconds, memory = map(float, done.stdout.split()[-2:])
    return f"{memory:.1f} GB, {length / seconds:,.0f} tokens/s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs=2, metavar=("HOW", "LENGTH"))
    parser.add_argument("--shared", action="store_true", help="Measure a row that two processes split.")
    parser.add_argument("--most", type=float, default=12.0, help="Skip runs whose logits take more GB.")
    options = parser.parse_args()
    if options.only and options.only[0] == "shared":
        once_shared(int(options.only[1].removesuffix("+")), again=options.only[1].endswith("+"))
        return 0
    if options.only:
        print(*once(options.only[0], int(options.only[1])))
        return 0
    if options.shared:
        print_shared()
        return 0
    print("| tokens | `sophia train` | logits of the whole length |\n|---|---|---|")
    for length in LENGTHS:
        cells = [measured(how, length, options.most) for how in ("sophia", "whole")]
        print(f"| {length:,} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
