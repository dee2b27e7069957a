"""Step 5, off-policy: the policy learns from the kept trajectories (Eq. 7).

The input is image and question; the caption is not in it. Vision tower and projector stay frozen. One round: all sampling
first, then one training run. Here the rows are read and the run is planned; `training/` trains.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

from sophia_cli import registry
from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.io.jsonl import to_line
from sophia_cli.io.manifest import Manifest
from sophia_cli.io.stdio import claim_stdout
from sophia_cli.models.aliases import ModelRef, resolve_model
from sophia_cli.rewards.training_set import LogFunction, selection_rule
from sophia_cli.rewards.trajectory import SelectionRule
from sophia_cli.runtime.progress import Progress, log_line
from sophia_cli.steps._common import StepOptions
from sophia_cli.training.config import TrainConfig
from sophia_cli.training.dataset import TrainingData, read_pairs, read_questions, read_trajectories, split_mix
from sophia_cli.training.distributed import DistributedContext
from sophia_cli.training.launcher import (
    HardwareOptions,
    check_hardware,
    follow_main,
    joined_context,
    launch_processes,
    leading_others,
    process_count,
    read_hostfile,
)
from sophia_cli.training.run_state import TrainPlan, may_replace_model
from sophia_cli.training.trackers import check_tracker, make_tracker


@dataclass(frozen=True)
class TrainOverrides:
    """Options whose default is the model's own (`sophia.json`) or the paper's; None where the user gave none."""

    batch_size: int | None
    micro_batch_size: int | None
    lr: float | None
    epochs: float | None
    max_tokens: int | None
    alpha: float | None
    keep: int | None
    pairs: int = 1


NORMALIZATIONS = ("tokens", "trajectories")
PAPER_DEFAULTS = {"batch_size": 512, "micro_batch_size": 1, "lr": 2e-5, "epochs": 1.0, "max_tokens": 16384}
FIXED_OPTIONS = {field.name for field in fields(TrainConfig)} - {*PAPER_DEFAULTS, "seed"}
"""Options whose default is the same for all models."""


@dataclass(frozen=True)
class TrainRequest:
    """What the user typed: files to learn from and to mix in, the model, how and where it trains."""

    options: StepOptions
    files: list[str]
    model: str
    mixes: list[str]
    overrides: TrainOverrides
    hardware: HardwareOptions
    report_to: str
    fixed: dict[str, Any]

    @property
    def out(self) -> Path:
        """The folder that the name means, where it is a link, or `.`."""
        out = self.options.out or Path("runs/out")
        return out if out.name and not out.is_symlink() else Path(os.path.realpath(out))


def run(command: TrainRequest) -> int:
    """`sophia train`: reads rows, trains, saves to the folder; metrics go to stdout. Returns the exit code."""
    common, hardware, out = command.options, command.hardware, command.out
    world = joined_context(hardware)
    if world and not world.is_main:
        return 0 if common.dry_run else follow_main(out, world)
    stdout = claim_stdout()
    if hardware.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(hardware.gpus)
    if common.dry_run:
        _make_plan(command, world)
        return 0
    with leading_others(world) as ready:  # from here on, the others are told of what is refused
        plan, count = _make_plan(command, world)
        plan.open_work_dir(common.force)
        from sophia_cli.training import checkpoints

        checkpoints.last_checkpoint(plan.work_dir, count)  # refused here, by one, if it was written by other many
        ready()
    asked = command.overrides
    chosen = {"alpha": asked.alpha, "keep": asked.keep, "pairs": asked.pairs}
    part = {"shard": str(common.parsed_shard), "limit": common.limit}
    read = {"inputs": command.files, "mix": command.mixes, **chosen, **part}
    manifest = Manifest(out, "train", {**asdict(plan.config), **plan.model.identity, **read})
    metrics = MetricsWriter(stdout, make_tracker(command.report_to, out, asdict(plan.config)))
    _run_training(plan, world, hardware, count, metrics, Progress("train", quiet=common.quiet, unit="steps"))
    left, tokens = sum(plan.skipped.values()), sum(sized.tokens for sized in plan.rows)
    counts = {"in": len(plan.rows) + left, "out": len(plan.rows), "failed": left}
    manifest.save(finished=True, counts=counts, tokens=tokens)
    return 0


def _make_plan(command: TrainRequest, world: DistributedContext | None) -> tuple[TrainPlan, int]:
    """The plan, shown, and how many processes are to train. Raises UsageError before rows are read, InputError."""
    common, files, mixes, asked, out = command.options, command.files, command.mixes, command.overrides, command.out
    check_hardware(command.hardware)
    chosen = resolve_model(command.model)
    settings = _make_config(chosen, asked, command.fixed, common.seed)
    _check_unused_options(settings, asked, mixes)
    check_tracker(command.report_to)
    if not common.dry_run:
        check_output_dir(out, chosen, [*files, *(split_mix(mix)[0] for mix in mixes)], common.force)
    count = world.size if world else process_count(command.hardware)
    _check_sequence_parallel(settings, chosen, command.hardware, count)

    def tell(text: str) -> None:
        log_line(text, common.quiet)

    from sophia_cli.training.preflight import check_rows, check_trl_limits

    data = _read_rows(files, mixes, asked, settings, chosen, common, tell)
    empty = TrainPlan([], data.left, chosen, settings, out)
    plan = check_rows(empty, data.rows, count, bool(command.hardware.cpu_ranks), tell, common.quiet)
    check_trl_limits(plan, count)
    return plan, count


def _run_training(
    plan: TrainPlan,
    world: DistributedContext | None,
    hardware: HardwareOptions,
    count: int,
    metrics: "MetricsWriter",
    progress: Progress,
) -> None:
    """The run itself, in this process, or in others that it starts."""

    def emit(fields: dict[str, Any]) -> None:
        metrics.write_metrics(fields)
        if "loss" in fields:
            progress.total, loss = fields["steps"], fields["loss"]
            progress.status = lambda: f"loss {loss:.4f}"
            progress.count_record(fields["tokens"])
        if "model" in fields and "log_ratio" in fields:
            total, each = fields["log_ratio"], fields["log_ratio_per_token"]
            told = f"{total['mean']:.1f} ± {total['std']:.1f} in total, {each['mean']:.3f} ± {each['std']:.3f} a token"
            log_line(f"train: log π − log µ of {total['n']} trajectories: {told}; Lemma A.3 takes it for 0", progress.quiet)

    with progress.display():
        if world or (count == 1 and not hardware.hostfile):
            from sophia_cli.training.train import train_model

            train_model(plan, world or DistributedContext(cpu=bool(hardware.cpu_ranks)), emit)
        else:
            launch_processes(plan, hardware, count, emit)
    shutil.rmtree(plan.work_dir, ignore_errors=True)
    metrics.raise_write_error()


def _check_unused_options(settings: TrainConfig, asked: TrainOverrides, mixes: list[str]) -> None:
    """Raises UsageError for options that play no part in what the objective learns from."""
    name, reads = f"--objective {settings.objective}", registry.find("objectives", settings.objective).DATA_KIND
    if reads == "questions" and (asked.alpha is not None or asked.keep is not None):
        raise UsageError(f"--alpha and --keep: {name} learns from questions; leave them out")
    if reads != "trajectories" and settings.normalize_by != "tokens":
        raise UsageError(f"--normalize-by: {name} divides in its own way; leave it out")
    if reads != "trajectories" and mixes:
        raise UsageError(f"--mix: {name} learns from {reads} alone; leave it out")
    if reads != "pairs" and asked.pairs != 1:
        raise UsageError(f"--pairs: {name} learns from {reads}; leave it out")
    if reads != "questions" and (asked.max_tokens is not None or settings.rollouts != TrainConfig.rollouts):
        raise UsageError(f"--rollouts and --max-tokens: {name} learns from answers that are there; leave them out")
    if settings.merge_lora and not settings.lora_rank:
        raise UsageError("--merge-lora: there are no adapters to merge; add --lora-rank, or leave it out")


def _check_sequence_parallel(settings: TrainConfig, model: ModelRef, hardware: HardwareOptions, count: int) -> None:
    """Raises UsageError where `--sequence-parallel` cannot be had: by processes, objective, or the model's attention."""
    ways = settings.sequence_parallel
    if ways == 1:
        return
    if registry.find("objectives", settings.objective).DATA_KIND != "trajectories":
        raise UsageError(f"--sequence-parallel: --objective {settings.objective} takes rows whole; leave it out")
    from transformers import AutoConfig

    from sophia_cli.training.sequence_parallel import check_heads

    check_heads(AutoConfig.from_pretrained(model.path).get_text_config(), ways)
    if count % ways:
        raise UsageError(
            f"--sequence-parallel {ways}: {count} process{'es' * (count > 1)} cannot be dealt into groups of {ways}; change "
            "one of them (--gpus, --cpu-ranks)"
        )
    apart = [name for name, slots in read_hostfile(hardware.hostfile) if slots % ways] if hardware.hostfile else []
    if apart:
        raise UsageError(f"--sequence-parallel {ways}: the slots of {apart[0]} are no multiple, a group would span machines")


def _read_rows(
    files: list[str],
    mixes: list[str],
    asked: TrainOverrides,
    settings: TrainConfig,
    model: ModelRef,
    common: StepOptions,
    tell: LogFunction,
) -> TrainingData:
    """The rows that the objective learns from. Raises UsageError, InputError."""
    objective, rule = registry.find("objectives", settings.objective), selection_rule(asked.alpha, asked.keep)
    if objective.DATA_KIND == "pairs":
        return read_pairs(
            files,
            replace(rule or SelectionRule(), seed=common.seed),
            asked.pairs,
            model,
            tell,
            common.parsed_shard,
            common.limit,
        )
    if objective.DATA_KIND == "questions":
        return read_questions(files, model, common.parsed_shard, common.limit)
    plain = getattr(objective, "ACCEPTS_PLAIN_ROWS", False)
    data = read_trajectories(files, mixes, rule, model, common.seed, tell, plain, common.parsed_shard, common.limit)
    if getattr(objective, "NEEDS_BEHAVIOR", False) and all(row.behavior_logp is None for row in data.rows):
        needs = f"--objective {settings.objective} needs log µ"
        raise UsageError(f"{needs}, and no record carries it; sample with `reason --logprobs`")
    return data


def _make_config(model: ModelRef, asked: TrainOverrides, fixed: dict[str, Any], seed: int) -> TrainConfig:
    """The run's settings, defaults filled in: the model's own, else the paper's. Raises UsageError."""
    own = getattr(registry.find("objectives", fixed["objective"]), "DEFAULTS", {})
    section, usual = fixed["objective"] if own else "train", PAPER_DEFAULTS | own
    given = {name: getattr(asked, name) for name in PAPER_DEFAULTS}
    given = {name: model.default(section, name, usual[name]) if value is None else value for name, value in given.items()}
    settings = TrainConfig(**given, **fixed, seed=seed % 2**32)
    if settings.deepspeed != "auto":
        from sophia_cli.training.deepspeed_config import load_config

        load_config(settings, DistributedContext(cpu=True))  # refused now rather than when all rows are read
    if odd := [name for name, value in given.items() if not 0 <= value < math.inf or (name == "epochs" and value == 0)]:
        raise UsageError(f"--{odd[0].replace('_', '-')} {given[odd[0]]}: give a positive number")
    if settings.normalize_by not in NORMALIZATIONS:
        raise UsageError(f"--normalize-by {settings.normalize_by}: choose from {', '.join(NORMALIZATIONS)}")
    beside = settings.train_vision or settings.train_projector
    if settings.lora_rank and beside and not settings.merge_lora:
        raise UsageError("--lora-rank with --train-vision or --train-projector: adapters hold neither; add --merge-lora")
    return settings


class MetricsWriter:
    """Writes metrics to stdout, and tells a tracker; a reader that went away, or a full disk, must not cost the training."""

    def __init__(self, stdout: IO[bytes], report: Callable[[dict[str, Any]], None]):
        self.stdout, self.report = stdout, report
        self.fault: OSError | None = None

    def write_metrics(self, fields: dict[str, Any]) -> None:
        if "loss" in fields:
            self.report(fields)
        if self.fault is None:
            try:
                self.stdout.write(to_line(fields))
                self.stdout.flush()
            except OSError as error:
                self.fault = error

    def raise_write_error(self) -> None:
        """Raises what went wrong, once the model is saved."""
        if isinstance(self.fault, BrokenPipeError):
            raise self.fault
        if self.fault is not None:
            raise SophiaError(f"stdout: metrics could not be written ({self.fault.strerror}); the model is saved")


def check_output_dir(out: Path, model: ModelRef, inputs: list[str], force: bool) -> None:
    """Makes sure, before any work, that the model can be saved, and that nothing else is lost by it. Raises UsageError."""
    if out.exists() and not out.is_dir() or os.path.ismount(out):
        raise UsageError(f"{out}: is a file or a mount point; choose a folder with -o")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (force or may_replace_model(out)):
        raise UsageError(f"{out} exists and is not empty; choose another folder with -o, or --force to replace it")
    replaced = out.resolve()
    for name in (model.path, *inputs, "."):
        if out.exists() and Path(name).exists() and Path(name).resolve().is_relative_to(replaced):
            raise UsageError(f"{out}: holds what is read ({name}); save to another folder with -o")
    if out.exists() and any(out.iterdir()) and not any((out / f"{kind}config.json").exists() for kind in ("", "adapter_")):
        raise UsageError(f"{out}: holds something else than a model, which --force does not replace; choose another with -o")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); choose another folder with -o") from None
