"""Saves the trained model: its weights, every other file of the source folder unchanged, the model card and the metrics.

It is written in OUT.tmp first and then moved into place. Tensor names are those of the source files.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.core_model_loading import revert_weight_conversion

from sophia_cli.errors import SophiaError
from sophia_cli.io.jsonl import load_json
from sophia_cli.models.aliases import ModelRef
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.lora import LORA_ALPHA_RATIO
from sophia_cli.training.metrics_log import METRICS_FILE, PLOT_FILE, draw_curves
from sophia_cli.training.model_card import model_card
from sophia_cli.training.run_state import TrainPlan

PEFT_PREFIX = "base_model.model."
TEMPLATE_FOLDER = "additional_chat_templates"
TORCH_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The float types that are trained, by their names in safetensors."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")


def save_model(
    plan: TrainPlan, world: DistributedContext, weights: dict[str, torch.Tensor] | None, policy: Any, steps: int
) -> None:
    """Writes the model and moves it to `plan.out`. Every rank calls it; the main one has the full weights.

    Raises:
        SophiaError: the weights hold NaN, or the folder cannot be written.
    """
    if world.is_main and weights is not None:
        draft = plan.work_dir / "model"
        if spoilt := next((name for name, value in weights.items() if not torch.isfinite(value).all()), None):
            raise SophiaError(f"{spoilt} contains NaN or infinite values after the last step; start over with a lower --lr")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            _write_model(plan, policy, weights, draft, steps)
            old = plan.work_dir / "replaced"
            shutil.rmtree(old, ignore_errors=True)
            if plan.out.exists():
                # Renamed, not deleted, until the new model is in its place.
                plan.out.rename(old)
            draft.rename(plan.out)
            shutil.rmtree(old, ignore_errors=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise SophiaError(
                f"{draft}: cannot be written or moved to {plan.out} ({reason}); fix that and run the command "
                "again, it resumes after the last step"
            ) from None
    if dist.is_initialized():
        dist.barrier()


def _write_model(plan: TrainPlan, policy: Any, weights: dict[str, torch.Tensor], draft: Path, steps: int) -> None:
    adapters = plan.config.lora_rank > 0 and not plan.config.merge_lora
    if plan.config.lora_rank and plan.config.merge_lora:
        policy, weights = policy.get_base_model(), merge_lora(weights)
    tied = getattr(policy, "all_tied_weights_keys", None) or {}  # tied weights have two names, the files hold one
    weights = {name: value for name, value in weights.items() if name not in tied}
    if adapters:
        policy.save_pretrained(draft, state_dict=match_file_types(weights, plan.model))
    else:
        named = revert_weight_conversion(policy, weights)
        # save_original_format would convert the names a second time.
        policy.save_pretrained(draft, state_dict=match_file_types(named, plan.model), save_original_format=False)
    source = _source_folder(plan.model)
    if (source / TEMPLATE_FOLDER).is_dir():
        shutil.copytree(source / TEMPLATE_FOLDER, draft / TEMPLATE_FOLDER)
    # An adapter folder has its own config; the base model's would make loaders take it for a whole model.
    others = {"README.md"} | ({"config.json", "generation_config.json"} if adapters else set())
    for file in source.iterdir():
        if (
            file.is_file()
            and file.suffix not in WEIGHT_SUFFIXES
            and not file.name.endswith(".index.json")
            and file.name not in others
        ):
            shutil.copyfile(file, draft / file.name)
    shutil.copyfile(plan.work_dir / METRICS_FILE, draft / METRICS_FILE)
    draw_curves([load_json(line) for line in (draft / METRICS_FILE).read_bytes().splitlines()], draft / PLOT_FILE)
    (draft / "README.md").write_text(model_card(plan, steps), encoding="utf-8")
    usual = draft.joinpath("README.md").stat().st_mode
    # safetensors makes its files readable by the owner only; a server may run as another user.
    for file in draft.glob("*.safetensors"):
        file.chmod(usual)


def match_file_types(weights: dict[str, torch.Tensor], model: ModelRef) -> dict[str, torch.Tensor]:
    """Returns the weights with the names and types of the model's files; tensors that are not in the files get the
    config's type.
    """
    usual = AutoConfig.from_pretrained(model.path).dtype or torch.float32
    types: dict[str, torch.dtype] = {}
    for file in _source_folder(model).glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (not a dict)
                if (kind := tensors.get_slice(name).get_dtype()) in TORCH_TYPES:
                    types[name] = TORCH_TYPES[kind]
    return {
        name: value.to(types.get(name, usual)) if value.is_floating_point() else value for name, value in weights.items()
    }


def merge_lora(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Merges LoRA adapters into the weights: W + (alpha / rank) B A.

    It works on the full weights, because under ZeRO-3 the model holds only a part of each.
    """
    found = {}
    for name, value in weights.items():
        if ".lora_" in name:
            continue
        plain = name.removeprefix(PEFT_PREFIX)
        if ".base_layer." in plain:
            layer = name.partition(".base_layer.")[0]
            if name.endswith(".weight"):
                down, up = (weights[f"{layer}.{side}.default.weight"].float() for side in ("lora_A", "lora_B"))
                value = (value.float() + LORA_ALPHA_RATIO * up @ down).to(value.dtype)
            plain = plain.replace(".base_layer.", ".")
        found[plain] = value
    return found


def _source_folder(model: ModelRef) -> Path:
    if Path(model.path).is_dir():
        return Path(model.path)
    return Path(snapshot_download(model.path, allow_patterns=["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]))
