"""The training run: a policy, its rows in tokens, frozen vision, the Trainer, and the folder that is saved.

Left out of this file on purpose: launching several processes, and resuming.
"""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForImageTextToText, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from sophia_cli import registry
from sophia_cli.aliases import Model
from sophia_cli.errors import InputError
from sophia_cli.training.batches import Encoder, Left
from sophia_cli.training.rows import Row
from sophia_cli.training.settings import Settings
from sophia_cli.training.trainer import Report, WeightedTrainer

Notice = Callable[[str], None]


def train(
    rows: list[Row],
    left: Counter[str],
    model: Model,
    out: Path,
    settings: Settings,
    emit: Callable[[dict[str, Any]], None],
    tell: Notice,
) -> None:
    """Trains and saves to `out`, a folder that `--model` takes everywhere; `emit` gets one record per logged step.

    `left` counts the rows left out, by cause. The folder is written beside itself and put in place when it is whole.
    """
    logging.disable_progress_bar()
    set_seed(settings.seed)
    config = AutoConfig.from_pretrained(model.path)
    family = registry.find("families", str(config.model_type).replace("_", "-"))
    context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or settings.max_length)
    encoder = Encoder(family.load_processor(model.path), min(settings.max_length, context))
    kept = trainable(rows, left, encoder, tell)
    policy = AutoModelForImageTextToText.from_pretrained(model.path, dtype="float32")
    freeze(policy, (*family.VISION, *family.PROJECTOR))
    draft = out.with_name(out.name + ".tmp")
    trainer = WeightedTrainer(
        loss=registry.find("objectives", settings.objective).loss,
        normalise=settings.normalise,
        model=policy,
        args=_arguments(draft, settings),
        train_dataset=kept,
        data_collator=encoder.collate,
        callbacks=[Report(emit)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    steps = trainer.state.global_step
    save(policy.to(dtype=config.dtype or "float32"), model, draft, card(left, kept, model, settings, steps))
    if out.exists():
        shutil.rmtree(out)
    draft.rename(out)
    emit({"model": str(out), "rows": len(kept), "steps": steps, "left_out": dict(left)})


def trainable(rows: list[Row], left: Counter[str], encoder: Encoder, tell: Notice) -> list[Row]:
    """The rows that can be trained on whole; the others are named, and counted by cause. Raises InputError when none is."""
    kept = []
    for row in rows:
        try:
            encoder.encode(row)
        except Left as reason:
            left[str(reason)] += 1
            tell(f"train: {row.name} left out: {reason}")
            continue
        kept.append(row)
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(left.items())) or "none"
    tell(f"train: {len(kept)} rows to train on; left out: {causes}")
    if not kept:
        raise InputError("no row to train on; look at what was left out, or lower --alpha")
    return kept


def freeze(policy: Any, frozen: tuple[str, ...]) -> None:
    """Only the language backbone trains: parameters whose names begin with one of `frozen` do not."""
    for name, parameter in policy.named_parameters():
        parameter.requires_grad = not name.startswith(frozen)


def _arguments(out: Path, settings: Settings) -> Any:
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.min_lr_ratio},
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=cuda,
        use_cpu=not cuda,
        gradient_checkpointing=cuda,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
    )


def save(policy: Any, model: Model, out: Path, text: str) -> None:
    """Weights and config as transformers writes them; every other file of the model's folder byte for byte; the card."""
    policy.save_pretrained(out)
    for file in _source_folder(model).iterdir():
        if (
            file.is_file()
            and file.suffix != ".safetensors"
            and file.name not in ("model.safetensors.index.json", "README.md")
        ):
            shutil.copyfile(file, out / file.name)
    (out / "README.md").write_text(text, encoding="utf-8")


def _source_folder(model: Model) -> Path:
    if Path(model.path).is_dir():
        return Path(model.path)
    return Path(snapshot_download(model.path, allow_patterns=["*.json", "*.jinja", "*.txt", "*.model"]))


def card(left: Counter[str], rows: list[Row], model: Model, settings: Settings, steps: int) -> str:
    """The model card: what was trained, on what, how."""
    causes = "".join(f"- left out, {cause}: {count}\n" for cause, count in sorted(left.items()))
    listed = "".join(f"| {name} | {value} |\n" for name, value in asdict(settings).items())
    base = f"base_model: {model.path}\n" if not Path(model.path).is_dir() else ""
    return (
        f"---\n{base}library_name: transformers\npipeline_tag: image-text-to-text\ntags: [sophia]\n---\n"
        f"# {model.name}, trained with SOPHIA\n\n"
        f"Trained with `sophia train` from `{model.name}` by semi-off-policy reinforcement learning (arXiv 2507.16814): "
        f"the language backbone learnt from {len(rows)} rows in {steps} steps; vision tower and projector are unchanged.\n\n"
        f"{causes}\n| setting | value |\n|---|---|\n{listed}"
    )
