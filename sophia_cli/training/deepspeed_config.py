"""DeepSpeed's configuration: the shipped ZeRO stages, or the user's JSON file."""

import json
from pathlib import Path
from typing import Any

import torch

from sophia_cli.errors import UsageError
from sophia_cli.training.config import TrainConfig
from sophia_cli.training.distributed import DistributedContext

CONFIG_DIR = Path(__file__).parent / "deepspeed"


OPTION_KEYS = (
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
"""Keys that `sophia train` has options for. A file may not set them."""


def load_config(settings: TrainConfig, world: DistributedContext) -> dict[str, Any] | None:
    """Returns the complete DeepSpeed configuration; None for `--deepspeed none`.

    Raises:
        UsageError: the file cannot be used.
    """
    if settings.deepspeed == "none":
        return None
    path = CONFIG_DIR / f"{settings.deepspeed}.json"
    path = path if path.is_file() else Path(settings.deepspeed)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if (stage := config["zero_optimization"]["stage"]) not in (1, 2, 3):
            raise ValueError(f"stage {stage!r} is not 1, 2 or 3")
    except (OSError, ValueError, KeyError, TypeError) as error:
        choices = ", ".join(sorted(file.stem for file in CONFIG_DIR.glob("*.json")))
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        remedy = f"choose {choices}, none, or a JSON file that has zero_optimization.stage"
        raise UsageError(f"--deepspeed {settings.deepspeed}: {reason}; {remedy}") from None
    if unfit := [name for name in OPTION_KEYS if _sets_value(config.get(name))]:
        raise UsageError(f"{path}: `{unfit[0]}` may not be set in the file; delete it and use the option of `sophia train`")
    return {
        **{name: value for name, value in config.items() if name not in OPTION_KEYS and value != "auto"},
        "bf16": {"enabled": torch.cuda.is_available() and not world.cpu},
        "gradient_clipping": settings.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {name: v for name, v in config["zero_optimization"].items() if v != "auto"},
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": 1,  # our loop marks the last micro-batch of an update itself
        "train_batch_size": settings.micro_batch_size * world.size,
        "steps_per_print": 1 << 62,
    }


def _sets_value(value: Any) -> bool:
    """Tells whether a configuration value is set: present, not "auto", and not a section that is "auto" or off."""
    return value not in (None, "auto") and not (isinstance(value, dict) and value.get("enabled") in (False, "auto"))


def zero3_init(config: dict[str, Any]) -> Any:
    """Under ZeRO-3, lets transformers shard weights while it reads them, as long as the returned object lives."""
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(config)
