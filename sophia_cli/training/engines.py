"""Who holds the weights and takes the steps: one process, several that hold the same (DDP), or DeepSpeed.

All three take the sum of the micro-batches' losses over all processes: gradients are averaged over processes, so losses
come multiplied by their number.
"""

import json
import math
import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.serving.vllm_server import free_port
from sophia_cli.training.settings import Settings, World

CONFIGS = Path(__file__).parent / "deepspeed"
GIVEN = (
    "optimizer",
    "scheduler",
    "fp16",
    "gradient_clipping",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "sequence_parallel_size",
    "data_parallel_size",
)
"""What of DeepSpeed's configuration the command gives, and a file may not."""
PATIENCE = timedelta(hours=6)
"""How long processes wait for one another: one of them may have many rows to read, or weights to write."""


class Engine(Protocol):
    """model: what is called with inputs; device: where they are to be."""

    model: Any
    device: torch.device

    def begin(self, last: bool) -> None:
        """To be called before each forward pass; `last`: it is the step's last."""

    def backward(self, loss: torch.Tensor) -> None:
        """Adds a micro-batch's gradients."""

    def step(self, rate: float) -> float:
        """Takes the step at this learning rate; returns the norm of the gradients before they were cut."""

    def save(self, folder: Path) -> None:
        """Writes weights that train and the optimizer's state; every process calls it."""

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote, with as many processes."""

    def weights(self) -> dict[str, torch.Tensor] | None:
        """All weights, whole, in the process that leads; None in the others."""


def device_of(world: World) -> torch.device:
    """This process's GPU, the only one it sees where each sees its own; else the CPU."""
    if world.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", world.local_rank % torch.cuda.device_count())


def optimizer_of(policy: Any, settings: Settings, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over what trains; matrices decay, vectors (norms, biases) do not."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if len(getattr(parameter, "ds_shape", parameter.shape)) > 1]
    vectors = [parameter for parameter in trained if len(getattr(parameter, "ds_shape", parameter.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=settings.lr, fused=device.type == "cuda")


class Plain:
    """Each process holds all weights; on GPUs it computes in bf16 and keeps the weights in fp32."""

    def __init__(self, policy: Any, settings: Settings, world: World):
        self.device = device_of(world)
        self.policy = policy.to(self.device)
        self.optimizer = optimizer_of(policy, settings, self.device)
        self.largest_norm = settings.max_grad_norm
        self.model: Any = _Autocast(self.policy) if self.device.type == "cuda" else self.policy
        if world.size > 1:
            self.model = torch.nn.parallel.DistributedDataParallel(self.model)

    def begin(self, last: bool) -> None:
        if isinstance(self.model, torch.nn.parallel.DistributedDataParallel):
            self.model.require_backward_grad_sync = last  # gradients travel once a step

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> float:
        training = [p for p in self.policy.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(training, self.largest_norm or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def save(self, folder: Path) -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            trained = {name: value for name, value in self.policy.named_parameters() if value.requires_grad}
            torch.save({"weights": trained, "optimizer": self.optimizer.state_dict()}, folder / "state.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        self.policy.load_state_dict(state["weights"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])

    def weights(self) -> dict[str, torch.Tensor] | None:
        return self.policy.state_dict() if not dist.is_initialized() or dist.get_rank() == 0 else None


class _Autocast(torch.nn.Module):
    """A policy that computes in bf16."""

    def __init__(self, policy: Any):
        super().__init__()
        self.policy = policy

    def forward(self, **inputs: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            return self.policy(**inputs)


class DeepSpeed:
    """Optimizer states, gradients and weights are spread over the processes, by the stage."""

    def __init__(self, policy: Any, settings: Settings, world: World, config: dict[str, Any]):
        import deepspeed

        self.device = device_of(world)
        self.stage = config["zero_optimization"]["stage"]
        self.model, self.optimizer, _, _ = deepspeed.initialize(
            model=policy, optimizer=optimizer_of(policy, settings, self.device), config=config
        )

    def begin(self, last: bool) -> None:
        self.model.set_gradient_accumulation_boundary(last)

    def backward(self, loss: torch.Tensor) -> None:
        self.model.backward(loss, scale_wrt_gas=False)

    def step(self, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.step()
        return float(self.model.get_global_grad_norm())

    def save(self, folder: Path) -> None:
        self.model.save_checkpoint(str(folder), tag="state", exclude_frozen_parameters=True, save_latest=False)

    def load(self, folder: Path) -> None:
        path, _ = self.model.load_checkpoint(str(folder), tag="state", load_module_strict=False)
        if path is None:
            raise SophiaError(f"{folder}: DeepSpeed cannot read it; was its configuration changed? --force begins anew")

    def weights(self) -> dict[str, torch.Tensor] | None:
        if self.stage == 3:
            return self.model._zero3_consolidated_16bit_state_dict()  # type: ignore[no-any-return]
        return self.model.module.state_dict() if dist.get_rank() == 0 else None


def config_of(settings: Settings, world: World) -> dict[str, Any] | None:
    """DeepSpeed's configuration, complete; None for `--deepspeed none`. Raises UsageError for a file that does not serve."""
    if settings.deepspeed == "none":
        return None
    path = CONFIGS / f"{settings.deepspeed}.json"
    path = path if path.is_file() else Path(settings.deepspeed)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if (stage := config["zero_optimization"]["stage"]) not in (1, 2, 3):
            raise ValueError(f"stage {stage!r} is none of 1, 2, 3")
    except (OSError, ValueError, KeyError, TypeError) as error:
        choices = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.json")))
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        mend = f"choose {choices}, none, or a JSON file that has zero_optimization.stage"
        raise UsageError(f"--deepspeed {settings.deepspeed}: {reason}; {mend}") from None
    if unfit := [name for name in GIVEN if _settles(config.get(name))]:
        raise UsageError(f"{path}: `{unfit[0]}` is not for the file to give; delete it, `sophia train` has options for it")
    return {
        **{name: value for name, value in config.items() if name not in GIVEN and value != "auto"},
        "bf16": {"enabled": torch.cuda.is_available() and not world.cpu},
        "gradient_clipping": settings.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {name: v for name, v in config["zero_optimization"].items() if v != "auto"},
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": 1,  # we say ourselves which micro-batch is a step's last
        "train_batch_size": settings.micro_batch_size * world.size,
        "steps_per_print": 1 << 62,
    }


def _settles(value: Any) -> bool:
    """Whether a configuration's value says something: it is there, not "auto", and no section that is "auto" or off."""
    return value not in (None, "auto") and not (isinstance(value, dict) and value.get("enabled") in (False, "auto"))


def spread_when_read(config: dict[str, Any]) -> Any:
    """Under ZeRO-3, transformers spreads weights over the processes as it reads them, while what this returns lives."""
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(config)


def quiet_compilers() -> None:
    """DeepSpeed on CPUs: what it would compile for a minute at the first start is left out; gloo does the same."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def meet(world: World) -> Any:
    """Meets the other processes where the environment says (MASTER_ADDR, MASTER_PORT); the store that all can write to."""
    cuda = device_of(world).type == "cuda"
    if cuda:
        torch.cuda.set_device(device_of(world))
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # of what DeepSpeed calls
    store, rank, size = next(rendezvous("env://"))
    store.set_timeout(PATIENCE)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return store


def join(world: World, deepspeed: bool) -> None:
    """Meets the other processes, unless that is done; DeepSpeed wants it done even by one alone."""
    cuda = device_of(world).type == "cuda"
    os.environ.setdefault(
        "DS_ACCELERATOR", "cuda" if cuda else "cpu"
    )  # else DeepSpeed guesses, aloud, wherever it is imported
    if deepspeed and not cuda:
        quiet_compilers()
    if (world.size > 1 or deepspeed) and not dist.is_initialized():
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        if world.size == 1:
            os.environ.update({**alone, "MASTER_PORT": str(free_port("127.0.0.1"))})
        meet(world)
    if deepspeed:
        import deepspeed as library

        library.init_distributed(dist.get_backend(), verbose=False)
