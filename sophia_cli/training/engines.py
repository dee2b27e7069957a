"""Engines hold the weights and take the optimizer steps: a single process, DDP, or DeepSpeed.

All of them need the sum of the losses over all micro-batches and processes. Gradients are averaged over processes, so
each loss is multiplied by the world size.
"""

import math
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from sophia_cli.errors import SophiaError
from sophia_cli.training.config import TrainConfig
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.rendezvous import process_device


class Engine(Protocol):
    """The interface of the training loop to an engine. model: what is called with inputs; device: where they must be."""

    model: Any
    device: torch.device

    def start_forward(self, last: bool) -> None:
        """Called before each forward pass. last: it is the last one of the update."""

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of a micro-batch."""

    def take_step(self, rate: float) -> float:
        """Takes the optimizer step at this learning rate. Returns the gradient norm before clipping."""

    def save_state(self, folder: Path) -> None:
        """Writes the trained weights and the optimizer state. Every rank calls it."""

    def load_state(self, folder: Path) -> None:
        """Reads what `save_state` wrote with the same world size."""

    def gather_weights(self) -> dict[str, torch.Tensor] | None:
        """Returns all full weights on the main rank, None on the others."""


def make_optimizer(policy: Any, settings: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """Returns AdamW over the trained parameters. Matrices decay; vectors (norms, biases) do not."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if len(getattr(parameter, "ds_shape", parameter.shape)) > 1]
    vectors = [parameter for parameter in trained if len(getattr(parameter, "ds_shape", parameter.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=settings.lr, fused=device.type == "cuda")


class DDPEngine:
    """Each process holds all weights. On GPUs it computes in bf16 and keeps fp32 weights."""

    def __init__(self, policy: Any, settings: TrainConfig, world: DistributedContext):
        self.device = process_device(world)
        self.policy = policy.to(self.device)
        self.optimizer = make_optimizer(policy, settings, self.device)
        self.max_grad_norm = settings.max_grad_norm
        self.model: Any = _Autocast(self.policy) if self.device.type == "cuda" else self.policy
        if world.size > 1:
            self.model = torch.nn.parallel.DistributedDataParallel(self.model)

    def start_forward(self, last: bool) -> None:
        if isinstance(self.model, torch.nn.parallel.DistributedDataParallel):
            self.model.require_backward_grad_sync = last  # synchronize gradients once per update

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def take_step(self, rate: float) -> float:
        training = [p for p in self.policy.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(training, self.max_grad_norm or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def save_state(self, folder: Path) -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            trained = {name: value for name, value in self.policy.named_parameters() if value.requires_grad}
            torch.save({"weights": trained, "optimizer": self.optimizer.state_dict()}, folder / "state.pt")

    def load_state(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        self.policy.load_state_dict(state["weights"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])

    def gather_weights(self) -> dict[str, torch.Tensor] | None:
        return self.policy.state_dict() if not dist.is_initialized() or dist.get_rank() == 0 else None


class _Autocast(torch.nn.Module):
    """A policy that computes in bf16."""

    def __init__(self, policy: Any):
        super().__init__()
        self.policy = policy

    def forward(self, **inputs: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            return self.policy(**inputs)


class DeepSpeedEngine:
    """Optimizer states, gradients and weights are sharded over the processes, by ZeRO stage."""

    def __init__(self, policy: Any, settings: TrainConfig, world: DistributedContext, config: dict[str, Any]):
        import deepspeed

        self.device = process_device(world)
        self.stage = config["zero_optimization"]["stage"]
        self.model, self.optimizer, _, _ = deepspeed.initialize(
            model=policy, optimizer=make_optimizer(policy, settings, self.device), config=config
        )

    def start_forward(self, last: bool) -> None:
        self.model.set_gradient_accumulation_boundary(last)

    def backward(self, loss: torch.Tensor) -> None:
        self.model.backward(loss, scale_wrt_gas=False)

    def take_step(self, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.step()
        return float(self.model.get_global_grad_norm())

    def save_state(self, folder: Path) -> None:
        self.model.save_checkpoint(str(folder), tag="state", exclude_frozen_parameters=True, save_latest=False)

    def load_state(self, folder: Path) -> None:
        path, _ = self.model.load_checkpoint(str(folder), tag="state", load_module_strict=False)
        if path is None:
            raise SophiaError(
                f"{folder}: DeepSpeed cannot read the checkpoint; was its configuration changed? --force starts over"
            )

    def gather_weights(self) -> dict[str, torch.Tensor] | None:
        if self.stage == 3:
            return self.model._zero3_consolidated_16bit_state_dict()  # type: ignore[no-any-return]
        return self.model.module.state_dict() if dist.get_rank() == 0 else None
