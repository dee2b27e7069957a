"""How the training processes find each other: the process group, the store, and the device of each."""

import os
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from sophia_cli.serving.ports import free_port
from sophia_cli.training.distributed import DistributedContext

TIMEOUT = timedelta(hours=6)
"""How long processes wait for each other. One of them may have many rows to read or weights to write."""


def process_device(world: DistributedContext) -> torch.device:
    """Returns this process's GPU (the only visible one, or the one of its local rank), else the CPU."""
    if world.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", world.local_rank % torch.cuda.device_count())


def disable_op_builds() -> None:
    """On CPUs, skips the ops that DeepSpeed would compile for a minute at the first start; gloo does the same work."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def open_store(world: DistributedContext) -> Any:
    """Connects to the store at MASTER_ADDR and MASTER_PORT, to which all processes can write."""
    cuda = process_device(world).type == "cuda"
    if cuda:
        torch.cuda.set_device(process_device(world))
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # of what DeepSpeed calls
    store, rank, size = next(rendezvous("env://"))
    store.set_timeout(TIMEOUT)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    return store


def init_distributed(world: DistributedContext, deepspeed: bool) -> None:
    """Initializes the process group unless that is done. DeepSpeed needs it even for a single process."""
    cuda = process_device(world).type == "cuda"
    # Otherwise DeepSpeed guesses, and logs it at every import.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    if deepspeed and not cuda:
        disable_op_builds()
    if (world.size > 1 or deepspeed) and not dist.is_initialized():
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        if world.size == 1:
            os.environ.update({**alone, "MASTER_PORT": str(free_port("127.0.0.1"))})
        open_store(world)
    if deepspeed:
        import deepspeed as library

        library.init_distributed(dist.get_backend(), verbose=False)
