"""Run by torchrun: compares gradients of processes that share rows with gradients of whole logits. Prints a JSON object
per model.
"""

import json
import os
import sys
from typing import Any

import deepspeed.comm
import torch
import torch.distributed as dist
from transformers import AutoModelForImageTextToText

from sophia_cli.training.collator import IGNORE_INDEX, Collator
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.examples import TrainExample, prompt_messages
from sophia_cli.training.logprobs import LogprobHead
from sophia_cli.training.policy import find_family, language_model
from sophia_cli.training.rendezvous import init_distributed
from sophia_cli.training.sequence_parallel import SequenceParallel

THOUGHT = "<think>\nred circle 3 first. " + "red circle 3 > 2? no. " * 6 + "\n</think>\n3"


def loss_of(logps_BT: torch.Tensor) -> torch.Tensor:
    """Returns a loss in which every token has another weight, and whole-row quantities count."""
    weights = torch.linspace(0.5, 1.5, logps_BT.numel()).view_as(logps_BT)
    return -(weights * logps_BT).sum() - 1e-3 * logps_BT.sum(1).square().sum()


def whole_logps(policy: Any, inputs: dict[str, torch.Tensor], labels_BT: torch.Tensor) -> torch.Tensor:
    logps = policy(**inputs, use_cache=False).logits[:, :-1].log_softmax(-1)
    targets = labels_BT[:, 1:]
    return logps.gather(2, targets.clamp(min=0)[..., None])[..., 0] * (targets != IGNORE_INDEX)


def compared(path: str, batches: list[list[TrainExample]], world: DistributedContext) -> dict[str, Any]:
    """Returns the largest distance between two gradients of a parameter, as a share of its norm."""
    whole, shared = (
        AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, attn_implementation=kind).train()
        for kind in ("eager", "sdpa")
    )
    shared.gradient_checkpointing_enable({"use_reentrant": False})
    encoder = Collator(find_family(whole.config).load_processor(path), 4096)
    scorer = LogprobHead(shared, packs=False, ulysses=SequenceParallel(language_model(shared), world, world.size))
    worst, name_of_worst = 0.0, ""
    for rows in batches:
        inputs = encoder.collate(rows, sees=True)
        labels = [inputs.pop(name) for name in ("labels", "weights", "behavior_logp")][0]
        for policy in (whole, shared):
            policy.zero_grad()
        loss_of(whole_logps(whole, inputs, labels)).backward()
        loss_of(scorer.score_batch(shared, inputs, labels)).backward()
        for (name, wanted), found in zip(whole.named_parameters(), shared.parameters(), strict=True):
            assert (wanted.grad is None) == (found.grad is None), name
            if wanted.grad is None:
                continue
            dist.all_reduce(found.grad)
            apart = float((found.grad - wanted.grad).norm() / (wanted.grad.norm() + 1e-6))
            worst, name_of_worst = max((worst, name_of_worst), (apart, name))
    return {"worst": worst, "of": name_of_worst}


def main(images: list[str], models: list[str]) -> None:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    world = DistributedContext(rank, size, rank, cpu=True)
    init_distributed(world, deepspeed=True)
    gathered: list[torch.Tensor] = []
    gather = deepspeed.comm.all_gather
    deepspeed.comm.all_gather = lambda parts, part, **more: (gathered.append(part), gather(parts, part, **more))[1]
    mixed = [
        TrainExample("a", prompt_messages("what ?", [], "", "short"), THOUGHT, 1.0),
        TrainExample("b", prompt_messages("red ? " * 9, images[:2], "", "short"), "3", 1.0),
    ]
    late = [
        TrainExample("c", prompt_messages("how many red circle " * 40, images[:1], "", "short"), "3", 1.0)
    ]  # the first supervises nothing
    blind = [TrainExample("d", prompt_messages("what ?", [], "", "short"), THOUGHT, 1.0)]
    for path in models:
        told = compared(path, [mixed, late, blind], world)
        views = sum(not part.is_contiguous() for part in gathered)  # NCCL refuses them
        ordered = all((part.diff(dim=1) == 1).all() and part[0, 0] == rank * part.shape[1] for part in gathered)
        if rank == 0:
            print(json.dumps({**told, "gathered": len(gathered), "views": views, "in_order": bool(ordered)}), flush=True)
        gathered.clear()
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
