"""Step 5, off-policy: the policy learns from the kept trajectories (Eq. 7).

The input is image and question; the caption is not in it. Vision tower and projector stay frozen. One round: all sampling
first, then one training run. Here the rows are read and the run is planned; `training/` trains.
"""

import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from sophia_cli import registry
from sophia_cli.aliases import Model, resolve
from sophia_cli.descriptors import claim_stdout
from sophia_cli.errors import RecordError, SophiaError, UsageError
from sophia_cli.facts import Rule
from sophia_cli.frame import Common
from sophia_cli.kept import Input, Notice, rereadable, rule_of, weighted, whole
from sophia_cli.progress import Progress, notice
from sophia_cli.records import Record, name_of
from sophia_cli.streams import Shard, read_records, to_line
from sophia_cli.training.launch import Place, follow, joined, launch, leading, processes
from sophia_cli.training.plan import Plan
from sophia_cli.training.reports import refuse_unknown, reporter
from sophia_cli.training.rows import Row, draw_rows, mixed_row, trajectory_row
from sophia_cli.training.settings import Settings, World


@dataclass(frozen=True)
class Asked:
    """Options whose default is the model's own (`sophia.json`) or the paper's; None where the user gave none."""

    batch_size: int | None
    micro_batch_size: int | None
    lr: float | None
    epochs: float | None
    alpha: float | None
    keep: int | None


WHOLE = Shard()
NORMALISATIONS = ("tokens", "trajectories")
PAPER = {"batch_size": 512, "micro_batch_size": 1, "lr": 2e-5, "epochs": 1.0}


def run(
    common: Common,
    files: list[str],
    model: str,
    mixes: list[str],
    asked: Asked,
    place: Place,
    report_to: str,
    fixed: dict[str, Any],
) -> int:
    """`sophia train`: reads rows, trains, saves to `common.out`; metrics go to stdout. Returns the exit code."""
    world, out = joined(place), _real(common.out or Path("runs/out"))
    if world and not world.leads:
        return 0 if common.dry_run else follow(out, world)
    if place.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
    chosen = resolve(model)
    settings = _settings(chosen, asked, fixed, common.seed)
    refuse_unknown(report_to)
    if not common.dry_run:
        _prepare(out, chosen, [*files, *(split_mix(mix)[0] for mix in mixes)], common.force)
    stdout = claim_stdout()
    count = world.size if world else processes(place)

    def tell(text: str) -> None:
        notice(text, common.quiet)

    def planned() -> Plan:
        plain, rule = settings.objective == "sft", rule_of(asked.alpha, asked.keep)
        data = read_rows(files, mixes, rule, chosen, common.seed, tell, plain, common.part, common.limit)
        if settings.objective == "truncated" and all(row.behaviour is None for row in data.rows):
            raise UsageError("--objective truncated needs log µ, and no record carries it; sample with `reason --logprobs`")
        empty = Plan([], data.left, chosen, settings, out)
        return preflight(empty, data.rows, count, bool(place.cpu_ranks), tell, common.quiet)

    from sophia_cli.training import checkpoints
    from sophia_cli.training.preflight import preflight

    if common.dry_run:
        planned()
        return 0
    with leading(world) as ready:
        plan = planned()
        plan.begin(common.force)
        checkpoints.last(plan.draft, count)  # refused here, by one, if it was written by other many
        ready()
    metrics = Metrics(stdout, reporter(report_to, out, asdict(settings)))
    _train(plan, world, place, count, metrics, Progress("train", quiet=common.quiet, unit="steps"))
    return 0


def _train(plan: Plan, world: World | None, place: Place, count: int, metrics: "Metrics", progress: Progress) -> None:
    """The run itself, in this process, or in others that it starts."""

    def emit(fields: dict[str, Any]) -> None:
        metrics.write(fields)
        if "loss" in fields:
            progress.total, loss = fields["steps"], fields["loss"]
            progress.note = lambda: f"loss {loss:.4f}"
            progress.advance(fields["tokens"])

    with progress.shown():
        if world or (count == 1 and not place.hostfile):
            from sophia_cli.training.fit import fit

            fit(plan, world or World(cpu=bool(place.cpu_ranks)), emit)
        else:
            launch(plan, place, count, emit)
    shutil.rmtree(plan.draft, ignore_errors=True)
    metrics.settle()


def _settings(model: Model, asked: Asked, fixed: dict[str, Any], seed: int) -> Settings:
    """The run's settings, defaults filled in: the model's own, else the paper's. Raises UsageError."""
    given = {name: getattr(asked, name) for name in PAPER}
    given = {name: model.default("train", name, PAPER[name]) if value is None else value for name, value in given.items()}
    settings = Settings(**given, **fixed, seed=seed % 2**32)
    if settings.objective not in registry.names("objectives"):
        registry.find("objectives", settings.objective)  # names the choices
    if settings.deepspeed != "auto":
        from sophia_cli.training.engines import config_of

        config_of(settings, World(cpu=True))  # refused now rather than when all rows are read
    if odd := [name for name, value in given.items() if not 0 <= value < math.inf or (name == "epochs" and value == 0)]:
        raise UsageError(f"--{odd[0].replace('_', '-')} {given[odd[0]]}: give a positive number")
    if settings.normalise not in NORMALISATIONS:
        raise UsageError(f"--normalise {settings.normalise}: choose from {', '.join(NORMALISATIONS)}")
    beside = settings.train_vision or settings.train_projector
    if settings.lora_rank and beside and not settings.merge_lora:
        raise UsageError("--lora-rank with --train-vision or --train-projector: adapters hold neither; add --merge-lora")
    return settings


class Metrics:
    """Writes metrics to stdout, and tells a tracker; a reader that went away, or a full disk, must not cost the training."""

    def __init__(self, stdout: IO[bytes], report: Callable[[dict[str, Any]], None]):
        self.stdout, self.report = stdout, report
        self.fault: OSError | None = None

    def write(self, fields: dict[str, Any]) -> None:
        if "loss" in fields:
            self.report(fields)
        if self.fault is None:
            try:
                self.stdout.write(to_line(fields))
                self.stdout.flush()
            except OSError as error:
                self.fault = error

    def settle(self) -> None:
        """Raises what went wrong, once the model is saved."""
        if isinstance(self.fault, BrokenPipeError):
            raise self.fault
        if self.fault is not None:
            raise SophiaError(f"stdout: metrics could not be written ({self.fault.strerror}); the model is saved")


def _real(out: Path) -> Path:
    """The folder that a name means, where it is a link, or `.`."""
    return out if out.name and not out.is_symlink() else Path(os.path.realpath(out))


def _prepare(out: Path, model: Model, inputs: list[str], force: bool) -> None:
    """Makes sure, before any work, that the model can be saved, and that nothing else is lost by it. Raises UsageError."""
    if out.exists() and not out.is_dir() or os.path.ismount(out):
        raise UsageError(f"{out}: is a file or a mount point; choose a folder with -o")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not force:
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


@dataclass
class Data:
    """The rows to train on, and what was left out: how many by cause."""

    rows: list[Row]
    left: Counter[str]


def read_rows(
    files: list[str],
    mixes: list[str],
    rule: Rule | None,
    model: Model,
    seed: int,
    tell: Notice,
    plain: bool = False,
    part: Shard = WHOLE,
    limit: int | None = None,
) -> Data:
    """The rows of the graded files, weighted by Eq. 6, and of the files mixed in.

    plain: files without trajectories hold chats, captions, or questions and answers, as `--mix` takes them (the warm-up).
    rule: how to propagate records that carry no weight; None means that the user gave neither `--alpha` nor `--keep`.
    Raises UsageError when weights and those options come together, InputError when some records have weights and some not.
    """
    left: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        source = Input(rereadable(files, folder), part, limit)
        if plain and not any("trajectory" in record for record in whole(source, Counter())):
            rows = _rows(whole(source, left), lambda record: mixed_row(record, model.prompts), left, tell)
        else:
            kept = weighted(source, rule, left, "train", tell)
            rows = _rows(kept, lambda record: trajectory_row(record, model.prompts), left, tell)
    rows = [replace(row, source=", ".join(files)) for row in rows]
    base = len(rows)
    for mix in mixes:
        file, ratio = split_mix(mix)
        read = _rows(read_records([file]), lambda record: mixed_row(record, model.prompts), left, tell)
        drawn = [replace(row, source=file) for row in draw_rows(read, ratio, base, seed)]
        tell(f"train: {len(drawn)} of {len(read)} rows of {file} mixed in")
        rows += drawn
    _tell_of_the_assumption(rows[:base], tell)
    return Data(rows, left)


def _tell_of_the_assumption(trajectories: list[Row], tell: Notice) -> None:
    """Says whether Lemma A.3's assumption can be looked at: whether sampling stored log µ."""
    known = sum(row.behaviour is not None for row in trajectories)
    if known:
        tell(f"train: {known} of {len(trajectories)} trajectories carry log µ; log π − log µ is in the metrics (Lemma A.3)")
    elif trajectories:
        tell("train: no trajectory carries log µ: Lemma A.3's assumption stays unchecked (`reason --logprobs` stores it)")


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


def _rows(records: Iterable[Record], make: Callable[[Record], Row], left: Counter[str], tell: Notice) -> list[Row]:
    rows = []
    for record in records:
        try:
            rows.append(make(record))
        except RecordError as error:
            left["unreadable record"] += 1
            tell(f"train: {name_of(record)} left out: {error}")
    return rows
