"""Processes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DistributedContext:
    """The processes that train together. cpu: they train on CPUs, though there may be GPUs."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    cpu: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0
