"""The processes that train together: rank, world size, local rank. Does not import torch."""

import re
from dataclasses import dataclass

LOST_PATTERN = re.compile(
    r"(RuntimeError|Dist\w*Error): .*"
    r"(connection (closed|reset|was likely closed)|(read|write) error|broken pipe|remote process exited|ncclRemoteError)",
    re.IGNORECASE,
)
"""How gloo, NCCL and the store report that another process is gone."""


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
