"""The processes that train together: rank, world size, local rank. Does not import torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DistributedContext:
    """This process among the processes that train together. cpu: train on CPUs even where there are GPUs."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    cpu: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and metrics for all."""
        return self.rank == 0
