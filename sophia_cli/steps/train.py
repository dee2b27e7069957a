"""Step 5, off-policy: the policy learns from the kept trajectories (Eq. 7).

The prompt is the image and the question, without the caption. The vision tower and the projector stay frozen. One
round: all sampling first, then one training run. This file reads the rows and plans the run; `training/` trains.
"""

import contextlib
import json
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
from sophia_cli.io.manifest import MANIFEST_SUFFIX, Manifest
from sophia_cli.io.paths import check_output_folder, check_stdout
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
STEP = "train"
FIXED_OPTIONS = {field.name for field in fields(TrainConfig)} - {*PAPER_DEFAULTS, "seed"}
"""Options that have the same default for all models."""


@dataclass(frozen=True)
class TrainRequest:
    """The options of a run: input files, files to mix in, the model, how and where to train."""

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
        """The output folder; a link or `.` is resolved."""
        out = self.options.out or Path("runs/out")
        return out if out.name and not out.is_symlink() else Path(os.path.realpath(out))


def run(command: TrainRequest) -> int:
    """`sophia train`: reads rows, trains, saves the model; metrics go to stdout. Returns the exit code."""
    options, hardware, out = command.options, command.hardware, command.out
    world = joined_context(hardware)
    if world and not world.is_main:
        return 0 if options.dry_run else follow_main(out, world)
    check_stdout([*command.files, *(split_mix(mix)[0] for mix in command.mixes)])
    stdout = claim_stdout()
    if hardware.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(hardware.gpus)
    if options.dry_run:
        _make_plan(command, world)
        return 0
    with contextlib.ExitStack() as stack:
        with leading_others(world) as tell:  # from here on, an error also ends the other ranks
            plan, count = _make_plan(command, world)
            manifest = Manifest(out, STEP, _manifest_settings(command, plan))
            if is_finished_run(out) and not options.force and not plan.work_dir.exists():
                manifest.check_settings()
                log_line(f"{STEP}: {out} is finished; nothing is left to do (--force trains again)", options.quiet)
                tell(False)
                return 0
            stack.callback(plan.unlock)
            began_before = plan.work_dir.exists() and not options.force
            plan.open_work_dir(options.force)
            from sophia_cli.training import checkpoints

            # Refuses a checkpoint of another number of processes, once.
            if not checkpoints.last_checkpoint(plan.work_dir, count) and began_before:
                every = plan.config.save_every
                log_line(f"{STEP}: the run before has no checkpoint (--save-every {every}); it starts over", options.quiet)
            tell(True)
        metrics = MetricsWriter(stdout, make_tracker(command.report_to, out, asdict(plan.config)))
        _run_training(plan, world, hardware, count, metrics, Progress(STEP, quiet=options.quiet, unit="steps"))
        left, tokens = sum(plan.skipped.values()), sum(sized.tokens for sized in plan.rows)
        counts = {"in": len(plan.rows) + left, "out": len(plan.rows), "failed": left}
        manifest.save(finished=True, counts=counts, tokens=tokens)
    return 0


def _manifest_settings(command: TrainRequest, plan: TrainPlan) -> dict[str, Any]:
    """Returns what makes the model what it is: the settings, the model it begins from, the rows."""
    asked = command.overrides
    chosen = {"alpha": asked.alpha, "keep": asked.keep, "pairs": asked.pairs}
    part = {"shard": str(command.options.parsed_shard), "limit": command.options.limit}
    read = {"inputs": command.files, "mix": command.mixes, "rows": plan.identity()["rows"], **chosen, **part}
    return {**asdict(plan.config), **plan.model.identity, **read}


def is_finished_run(out: Path) -> bool:
    """Tells whether a folder holds the model of a run that has ended, as its manifest says."""
    try:
        manifest = json.loads(out.with_name(out.name + MANIFEST_SUFFIX).read_bytes())
        return bool(manifest["command"] == STEP and manifest["finished"]) and holds_model(out)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def holds_model(out: Path) -> bool:
    """Tells whether a folder holds a model or an adapter."""
    return any((out / f"{kind}config.json").exists() for kind in ("", "adapter_"))


def _make_plan(command: TrainRequest, world: DistributedContext | None) -> tuple[TrainPlan, int]:
    """Returns the plan, after showing it, and the number of processes that will train.

    Raises:
        UsageError: an option is refused, before any row is read.
        InputError: the rows cannot be read.
    """
    options, files, mixes, asked, out = command.options, command.files, command.mixes, command.overrides, command.out
    check_hardware(command.hardware)
    chosen = resolve_model(command.model)
    settings = _make_config(chosen, asked, command.fixed, options.seed)
    _check_unused_options(settings, asked, mixes)
    check_tracker(command.report_to)
    if not options.dry_run:
        check_output_dir(out, chosen, [*files, *(split_mix(mix)[0] for mix in mixes)], options.force)
    count = world.size if world else process_count(command.hardware)
    _check_sequence_parallel(settings, chosen, command.hardware, count)

    def log(text: str) -> None:
        log_line(text, options.quiet)

    from sophia_cli.training.preflight import check_rows, check_trl_limits

    data = _read_rows(files, mixes, asked, settings, chosen, options, log)
    empty = TrainPlan([], data.left, chosen, settings, out)
    plan = check_rows(empty, data.rows, count, bool(command.hardware.cpu_ranks), log, options.quiet)
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
    """Trains in this process, or in processes that it starts."""

    def emit(fields: dict[str, Any]) -> None:
        metrics.write_metrics(fields)
        if "loss" in fields:
            progress.total, loss = fields["steps"], fields["loss"]
            progress.status = lambda: f"loss {loss:.4f}"
            progress.count_record(fields["tokens"])
        if "model" in fields and "log_ratio" in fields:
            total, each = fields["log_ratio"], fields["log_ratio_per_token"]
            ratios = f"{total['mean']:.1f} ± {total['std']:.1f} in total, {each['mean']:.3f} ± {each['std']:.3f} per token"
            log_line(f"train: log π − log µ of {total['n']} trajectories: {ratios}; Lemma A.3 assumes 0", progress.quiet)

    with progress.display():
        if world or (count == 1 and not hardware.hostfile):
            from sophia_cli.training.train import train_model

            train_model(plan, world or DistributedContext(cpu=bool(hardware.cpu_ranks)), emit)
        else:
            launch_processes(plan, hardware, count, emit)
    shutil.rmtree(plan.work_dir, ignore_errors=True)
    metrics.raise_write_error()


def _check_unused_options(settings: TrainConfig, asked: TrainOverrides, mixes: list[str]) -> None:
    """Checks that every option given has an effect with this objective.

    Raises:
        UsageError: one has none.
    """
    name, reads = f"--objective {settings.objective}", registry.find("objectives", settings.objective).DATA_KIND
    if reads == "questions" and (asked.alpha is not None or asked.keep is not None):
        raise UsageError(f"--alpha and --keep: {name} learns from questions; omit them")
    if reads != "trajectories" and settings.normalize_by != "tokens":
        raise UsageError(f"--normalize-by: {name} has its own normalization; omit it")
    if reads != "trajectories" and mixes:
        raise UsageError(f"--mix: {name} learns from {reads} only; omit it")
    if reads != "pairs" and asked.pairs != 1:
        raise UsageError(f"--pairs: {name} learns from {reads}; omit it")
    if reads != "questions" and (asked.max_tokens is not None or settings.rollouts != TrainConfig.rollouts):
        raise UsageError(f"--rollouts and --max-tokens: {name} learns from existing answers; omit them")
    if settings.merge_lora and not settings.lora_rank:
        raise UsageError("--merge-lora: there are no adapters to merge; add --lora-rank, or omit it")


def _check_sequence_parallel(settings: TrainConfig, model: ModelRef, hardware: HardwareOptions, count: int) -> None:
    """Checks `--sequence-parallel` against the processes, the objective and the model's attention.

    Raises:
        UsageError: it cannot be used.
    """
    ways = settings.sequence_parallel
    if ways == 1:
        return
    if registry.find("objectives", settings.objective).DATA_KIND != "trajectories":
        raise UsageError(f"--sequence-parallel: --objective {settings.objective} does not support it; omit it")
    from transformers import AutoConfig

    from sophia_cli.training.sequence_parallel import check_heads

    check_heads(AutoConfig.from_pretrained(model.path).get_text_config(), ways)
    if count % ways:
        raise UsageError(
            f"--sequence-parallel {ways}: {count} process{'es' * (count > 1)} cannot form groups of {ways}; change "
            "one of them (--gpus, --cpu-ranks)"
        )
    uneven = [name for name, slots in read_hostfile(hardware.hostfile) if slots % ways] if hardware.hostfile else []
    if uneven:
        raise UsageError(
            f"--sequence-parallel {ways}: the slots of {uneven[0]} are not a multiple, so a group would span machines"
        )


def _read_rows(
    files: list[str],
    mixes: list[str],
    asked: TrainOverrides,
    settings: TrainConfig,
    model: ModelRef,
    options: StepOptions,
    log: LogFunction,
) -> TrainingData:
    """Reads the rows that the objective learns from.

    Raises:
        UsageError: the options do not fit the records.
        InputError: the records cannot be read.
    """
    objective, rule = registry.find("objectives", settings.objective), selection_rule(asked.alpha, asked.keep)
    if objective.DATA_KIND == "pairs":
        return read_pairs(
            files,
            replace(rule or SelectionRule(), seed=options.seed),
            asked.pairs,
            model,
            log,
            options.parsed_shard,
            options.limit,
        )
    if objective.DATA_KIND == "questions":
        return read_questions(files, model, options.parsed_shard, options.limit)
    plain = getattr(objective, "ACCEPTS_PLAIN_ROWS", False)
    data = read_trajectories(files, mixes, rule, model, options.seed, log, plain, options.parsed_shard, options.limit)
    if getattr(objective, "NEEDS_BEHAVIOR", False) and all(row.behavior_logp is None for row in data.rows):
        needs = f"--objective {settings.objective} needs `trajectory_logprob`"
        raise UsageError(f"{needs}, and no record has it; sample with `reason --logprobs`")
    return data


def _make_config(model: ModelRef, asked: TrainOverrides, fixed: dict[str, Any], seed: int) -> TrainConfig:
    """Returns the run's configuration; defaults come from the model, else from the paper.

    Raises:
        UsageError: a value is not allowed.
    """
    own = getattr(registry.find("objectives", fixed["objective"]), "DEFAULTS", {})
    section, usual = fixed["objective"] if own else "train", PAPER_DEFAULTS | own
    given = {name: getattr(asked, name) for name in PAPER_DEFAULTS}
    given = {name: model.default(section, name, usual[name]) if value is None else value for name, value in given.items()}
    settings = TrainConfig(**given, **fixed, seed=seed % 2**32)
    if settings.deepspeed != "auto":
        from sophia_cli.training.deepspeed_config import load_config

        load_config(settings, DistributedContext(cpu=True))  # refuse a bad file now, before all rows are read
    if odd := [name for name, value in given.items() if not 0 <= value < math.inf or (name == "epochs" and value == 0)]:
        raise UsageError(f"--{odd[0].replace('_', '-')} {given[odd[0]]}: give a positive number")
    if settings.normalize_by not in NORMALIZATIONS:
        raise UsageError(f"--normalize-by {settings.normalize_by}: choose from {', '.join(NORMALIZATIONS)}")
    beside = settings.train_vision or settings.train_projector
    if settings.lora_rank and beside and not settings.merge_lora:
        raise UsageError("--lora-rank with --train-vision or --train-projector: adapters cannot hold them; add --merge-lora")
    return settings


class MetricsWriter:
    """Writes metrics to stdout and to a tracker. A broken stdout pipe or a full disk does not abort training; the error
    is raised after the model is saved.
    """

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
        """Raises the error of a failed write, after the model is saved."""
        if isinstance(self.fault, BrokenPipeError):
            raise self.fault
        if self.fault is not None:
            raise SophiaError(f"stdout: metrics could not be written ({self.fault.strerror}); the model is saved")


def check_output_dir(out: Path, model: ModelRef, inputs: list[str], force: bool) -> None:
    """Checks, before any work, that the model can be saved and that nothing else is lost.

    Raises:
        UsageError: the folder cannot be replaced.
    """
    if out.exists() and not out.is_dir() or os.path.ismount(out):
        raise UsageError(f"{out}: is a file or a mount point; choose a folder with -o")
    replaceable = force or may_replace_model(out) or is_finished_run(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not replaceable:
        raise UsageError(f"{out} exists and is not empty; choose another folder with -o, or --force to replace it")
    check_output_folder(out, [model.path, *inputs, "."])
    if out.exists() and any(out.iterdir()) and not holds_model(out):
        raise UsageError(
            f"{out}: contains something other than a model, which --force does not replace; choose another with -o"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); choose another folder with -o") from None
