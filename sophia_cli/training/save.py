"""The folder that a run leaves: weights, and every other file of the model's folder byte for byte; the card; the metrics.

It is written whole in the draft folder and put in place then. The names of its tensors are those of the model's own files.
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
from sophia_cli.models.aliases import Model
from sophia_cli.training.distributed import World
from sophia_cli.training.lora import SCALE
from sophia_cli.training.metrics_log import CURVE, PICTURE, draw
from sophia_cli.training.model_card import card
from sophia_cli.training.run_state import Plan

PEFT = "base_model.model."
TEMPLATES = "additional_chat_templates"
TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Of numbers that are trained on, as safetensors names them."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")


def save_model(plan: Plan, world: World, weights: dict[str, torch.Tensor] | None, policy: Any, steps: int) -> None:
    """Writes the model and puts it in place of `plan.out`. Every process calls it; the one that leads has the whole weights.

    Raises SophiaError.
    """
    if world.leads and weights is not None:
        draft = plan.draft / "model"
        if spoilt := next((name for name, value in weights.items() if not torch.isfinite(value).all()), None):
            raise SophiaError(f"{spoilt} holds numbers that are none after the last step; begin anew with a lower --lr")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            _write(plan, policy, weights, draft, steps)
            old = plan.draft / "replaced"
            shutil.rmtree(old, ignore_errors=True)
            if plan.out.exists():
                plan.out.rename(old)
            draft.rename(plan.out)
            shutil.rmtree(old, ignore_errors=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise SophiaError(
                f"{draft}: cannot be written, or not put in place of {plan.out} ({reason}); mend that and type the command "
                "again, it goes on from its last step"
            ) from None
    if dist.is_initialized():
        dist.barrier()


def _write(plan: Plan, policy: Any, weights: dict[str, torch.Tensor], draft: Path, steps: int) -> None:
    adapters = plan.settings.lora_rank > 0 and not plan.settings.merge_lora
    if plan.settings.lora_rank and plan.settings.merge_lora:
        policy, weights = policy.get_base_model(), merged(weights)
    tied = getattr(policy, "all_tied_weights_keys", None) or {}  # the same weights under two names: the files hold one
    weights = {name: value for name, value in weights.items() if name not in tied}
    if adapters:
        policy.save_pretrained(draft, state_dict=as_in_files(weights, plan.model))
    else:
        named = revert_weight_conversion(policy, weights)
        policy.save_pretrained(draft, state_dict=as_in_files(named, plan.model), save_original_format=False)
    source = _source_folder(plan.model)
    if (source / TEMPLATES).is_dir():
        shutil.copytree(source / TEMPLATES, draft / TEMPLATES)
    others = {"README.md"} | ({"config.json", "generation_config.json"} if adapters else set())
    for file in source.iterdir():
        if (
            file.is_file()
            and file.suffix not in WEIGHTS
            and not file.name.endswith(".index.json")
            and file.name not in others
        ):
            shutil.copyfile(file, draft / file.name)
    shutil.copyfile(plan.draft / CURVE, draft / CURVE)
    draw([load_json(line) for line in (draft / CURVE).read_bytes().splitlines()], draft / PICTURE)
    (draft / "README.md").write_text(card(plan, steps), encoding="utf-8")
    usual = draft.joinpath("README.md").stat().st_mode
    for file in draft.glob("*.safetensors"):  # safetensors leaves them to their owner alone; a server may be another
        file.chmod(usual)


def as_in_files(weights: dict[str, torch.Tensor], model: Model) -> dict[str, torch.Tensor]:
    """The weights, named as in the model's files, each in the type that it has there; others in that of its config."""
    usual = AutoConfig.from_pretrained(model.path).dtype or torch.float32
    types: dict[str, torch.dtype] = {}
    for file in _source_folder(model).glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (it is no dict)
                if (kind := tensors.get_slice(name).get_dtype()) in TYPES:
                    types[name] = TYPES[kind]
    return {
        name: value.to(types.get(name, usual)) if value.is_floating_point() else value for name, value in weights.items()
    }


def merged(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a model with LoRA adapters, as the model alone has them: W + (alpha / rank) B A.

    From the whole weights, not from the model: under ZeRO-3 that holds a part of each.
    """
    found = {}
    for name, value in weights.items():
        if ".lora_" in name:
            continue
        plain = name.removeprefix(PEFT)
        if ".base_layer." in plain:
            layer = name.partition(".base_layer.")[0]
            if name.endswith(".weight"):
                down, up = (weights[f"{layer}.{side}.default.weight"].float() for side in ("lora_A", "lora_B"))
                value = (value.float() + SCALE * up @ down).to(value.dtype)
            plain = plain.replace(".base_layer.", ".")
        found[plain] = value
    return found


def _source_folder(model: Model) -> Path:
    if Path(model.path).is_dir():
        return Path(model.path)
    return Path(snapshot_download(model.path, allow_patterns=["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]))
