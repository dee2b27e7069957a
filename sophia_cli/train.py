"""Step 5, off-policy: the policy learns from the kept trajectories (Eq. 7), through transformers' Trainer.

The input is image and question; the caption is not in it. Vision tower and projector stay frozen. One round: all sampling
first, then one training run. Left out of this file: launching several processes, and resuming.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sophia_cli import registry
from sophia_cli.aliases import Model, resolve
from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.frame import Common, claim_stdout
from sophia_cli.progress import Progress, notice
from sophia_cli.records import Record, name_of, where_of
from sophia_cli.rewards import Rule, read_trajectory, select
from sophia_cli.streams import read_records, to_line
from sophia_cli.training.rows import Row, draw_rows, mixed_row, trajectory_row

Notice = Callable[[str], None]


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


@dataclass(frozen=True)
class Asked:
    """Options whose default is the model's own (`sophia.json`) or the paper's; None where the user gave none."""

    batch_size: int | None
    micro_batch_size: int | None
    lr: float | None
    epochs: float | None
    alpha: float | None
    keep: int | None


NORMALISATIONS = ("tokens", "trajectories")
PAPER = {"batch_size": 512, "micro_batch_size": 1, "lr": 2e-5, "epochs": 1.0}


def run(common: Common, files: list[str], model: str, mixes: list[str], asked: Asked, fixed: dict[str, Any]) -> int:
    """`sophia train`: reads rows, trains, saves to `common.out`; metrics go to stdout. Returns the exit code."""
    chosen, out = resolve(model), common.out or Path("runs/out")
    given = {name: getattr(asked, name) or chosen.default("train", name, paper) for name, paper in PAPER.items()}
    settings = Settings(**given, **fixed, seed=common.seed)
    if settings.objective not in registry.names("objectives"):
        registry.find("objectives", settings.objective)
    if settings.normalise not in NORMALISATIONS:
        raise UsageError(f"--normalise {settings.normalise}: choose from {', '.join(NORMALISATIONS)}")
    if settings.batch_size % settings.micro_batch_size:
        raise UsageError(
            f"--batch-size {settings.batch_size} is no multiple of --micro-batch-size {settings.micro_batch_size}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not common.force:
        raise UsageError(f"{out} exists and is not empty; choose another folder with -o, or --force to replace it")
    rule = None
    if asked.alpha is not None or asked.keep is not None:
        rule = Rule(alpha=Rule.alpha if asked.alpha is None else asked.alpha, keep=asked.keep or Rule.keep)
    stdout = claim_stdout()

    def tell(text: str) -> None:
        notice(text, common.quiet)

    data = read_rows(files, mixes, rule, chosen, common.seed, tell)
    if common.dry_run:
        notice(f"train: {chosen.name} ({chosen.path}), {len(data.rows)} rows, {settings}; nothing trained")
        return 0

    progress = Progress("train", quiet=common.quiet, unit="steps")

    def emit(fields: dict[str, Any]) -> None:
        stdout.write(to_line(fields))
        stdout.flush()
        if "loss" in fields:
            progress.total, progress.note = fields["steps"], f"loss {fields['loss']:.4f}"
            progress.advance()

    with progress.shown():
        train(data, chosen, out, settings, emit, tell)
    return 0


@dataclass
class Data:
    """The rows to train on, and what was left out: how many by cause."""

    rows: list[Row]
    left: Counter[str]


def read_rows(files: list[str], mixes: list[str], rule: Rule | None, model: Model, seed: int, tell: Notice) -> Data:
    """The rows of the graded files, weighted by Eq. 6, and of the files mixed in.

    rule: how to propagate records that carry no weight; None means that the user gave neither `--alpha` nor `--keep`.
    Raises UsageError when weights and those options come together, InputError when some records have weights and some not.
    """
    left: Counter[str] = Counter()
    kept = _weighted(files, rule, left, tell)
    rows = _rows(kept, lambda record: trajectory_row(record, model.prompts), left, tell)
    base = len(rows)
    for mix in mixes:
        file, ratio = split_mix(mix)
        read = _rows(read_records([file]), lambda record: mixed_row(record, model.prompts), left, tell)
        drawn = draw_rows(read, ratio, base, seed)
        tell(f"train: {len(drawn)} of {len(read)} rows of {file} mixed in")
        rows += drawn
    return Data(rows, left)


def split_mix(mix: str) -> tuple[str, float | None]:
    """`FILE[:ratio]`: the file, and how many rows to draw as a share of the trajectories. Raises UsageError."""
    file, colon, ratio = mix.rpartition(":")
    if not colon or Path(mix).exists():
        return mix, None
    try:
        share = float(ratio)
    except ValueError:
        share = -1.0
    if not 0 < share < float("inf"):
        raise UsageError(f"--mix {mix}: the ratio after the colon is a positive number, as in caps.jsonl:0.25")
    return file, share


def _weighted(files: list[str], rule: Rule | None, left: Counter[str], tell: Notice) -> list[Record]:
    """The records with a weight other than 0; propagated here when they carry none."""
    facts, good, weighted, bare = [], {}, 0, 0
    records: list[Record] = []
    for record in read_records(files):
        if "weight" in record:
            weighted += 1
            if record["weight"] != 0:
                records.append(record)
        elif "trajectory_id" in record or "error" not in record:
            bare += 1
            try:
                trajectory = read_trajectory(record)
            except RecordError as error:
                raise InputError(str(error)) from None
            facts.append(trajectory)
            if trajectory.reward == 1.0:
                good[trajectory.name] = record
        else:
            left["failed before"] += 1
        if weighted and bare:
            raise InputError(
                f"{where_of(record)}: records with and without `weight` in one run; run `sophia propagate` over all of them"
            )
    if weighted:
        if rule is not None:
            raise UsageError("--alpha and --keep go with records that carry no `weight`; these do, leave the options out")
        tell(f"train: {len(records)} of {weighted} records carry a weight other than 0; they are used as they are")
        return records
    chosen = rule or Rule()
    kept = select(facts, chosen)
    settings = f"alpha {chosen.alpha}, keep {chosen.keep}"
    tell(f"train: nobody propagated these records; propagated here ({settings}): {len(kept)} of {bare} kept")
    return [Record({**record, "weight": 1.0}, record.where) for name, record in good.items() if name in kept]


def _rows(records: Iterable[Record], make: Callable[[Record], Row], left: Counter[str], tell: Notice) -> list[Row]:
    rows = []
    for record in records:
        try:
            if "error" in record:
                left["failed before"] += 1
                continue
            rows.append(make(record))
        except RecordError as error:
            left["unreadable record"] += 1
            tell(f"train: {name_of(record)} left out: {error}")
    return rows


def train(
    data: Data, model: Model, out: Path, settings: Settings, emit: Callable[[dict[str, Any]], None], tell: Notice
) -> None:
    """Trains and saves to `out`, a folder that `--model` takes everywhere; `emit` gets one record per logged step."""
    from transformers import AutoConfig, AutoModelForImageTextToText, set_seed
    from transformers.utils import logging

    from sophia_cli.training.trainer import Report, WeightedTrainer

    logging.disable_progress_bar()
    set_seed(settings.seed)
    config = AutoConfig.from_pretrained(model.path)
    family = registry.find("families", str(config.model_type).replace("_", "-"))
    encoder = make_encoder(model, family, config, settings.max_length)
    rows = trainable(data, encoder, tell)
    policy = AutoModelForImageTextToText.from_pretrained(model.path, dtype="float32")
    freeze(policy, (*family.VISION, *family.PROJECTOR))
    trainer = WeightedTrainer(
        loss=registry.find("objectives", settings.objective).loss,
        normalise=settings.normalise,
        model=policy,
        args=_arguments(out, settings),
        train_dataset=rows,
        data_collator=encoder.collate,
        callbacks=[Report(emit)],
    )
    trainer.remove_callback(_printer())
    trainer.train()
    save(
        policy.to(dtype=config.dtype or "float32"),
        model,
        out,
        card(data, rows, model, settings, trainer.state.global_step),
    )
    emit({"model": str(out), "rows": len(rows), "steps": trainer.state.global_step, "left_out": dict(data.left)})


def make_encoder(model: Model, family: Any, config: Any, max_length: int) -> Any:
    """The encoder of a policy's rows; no longer than the policy's own context."""
    from sophia_cli.training.batches import Encoder

    context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or max_length)
    return Encoder(family.load_processor(model.path), min(max_length, context))


def trainable(data: Data, encoder: Any, tell: Notice) -> list[Row]:
    """The rows that can be trained on whole; the others are named, and counted by cause. Raises InputError when none is."""
    from sophia_cli.training.batches import Left

    rows = []
    for row in data.rows:
        try:
            encoder.encode(row)
        except Left as reason:
            data.left[str(reason)] += 1
            tell(f"train: {row.name} left out: {reason}")
            continue
        rows.append(row)
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(data.left.items())) or "none"
    tell(f"train: {len(rows)} rows to train on; left out: {causes}")
    if not rows:
        raise InputError("no row to train on; look at what was left out, or lower --alpha")
    return rows


def freeze(policy: Any, frozen: tuple[str, ...]) -> None:
    """Only the language backbone trains: parameters whose names begin with one of `frozen` do not."""
    for name, parameter in policy.named_parameters():
        parameter.requires_grad = not name.startswith(frozen)


def _arguments(out: Path, settings: Settings) -> Any:
    import torch
    from transformers import TrainingArguments

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


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


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
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model.path, allow_patterns=["*.json", "*.jinja", "*.txt", "*.model"]))


def card(data: Data, rows: list[Row], model: Model, settings: Settings, steps: int) -> str:
    """The model card: what was trained, on what, how."""
    causes = "".join(f"- left out, {cause}: {count}\n" for cause, count in sorted(data.left.items()))
    listed = "".join(f"| {name} | {value} |\n" for name, value in asdict(settings).items())
    base = f"base_model: {model.path}\n" if not Path(model.path).is_dir() else ""
    return (
        f"---\n{base}library_name: transformers\npipeline_tag: image-text-to-text\ntags: [sophia]\n---\n"
        f"# {model.name}, trained with SOPHIA\n\n"
        f"Trained with `sophia train` from `{model.name}` by semi-off-policy reinforcement learning (arXiv 2507.16814): "
        f"the language backbone learnt from {len(rows)} rows in {steps} steps; vision tower and projector are unchanged.\n\n"
        f"{causes}\n| setting | value |\n|---|---|\n{listed}"
    )
