"""What makes a trained model what it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What makes the trained model what it is. Batch size is global: all accumulation steps and ranks."""

    objective: str
    batch_size: int
    micro_batch_size: int
    lr: float
    weight_decay: float
    min_lr_ratio: float
    normalise: str
    epochs: float
    max_steps: int | None
    max_length: int
    seed: int
