"""A training run as one process plans it and others train it: rows, configuration, where to write.

It is stored in the folder `OUT.tmp`. A killed run finds it there and resumes, if it is still the same run.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sophia_cli import registry
from sophia_cli.errors import UsageError
from sophia_cli.io.jsonl import load_json, to_line, write_json
from sophia_cli.models.aliases import ModelRef
from sophia_cli.training.config import TrainConfig
from sophia_cli.training.examples import TrainExample
from sophia_cli.training.metrics_log import METRICS_FILE
from sophia_cli.training.schedule import full_updates, shuffle_updates

PLAN_FILE, ROWS_FILE = "plan.json", "rows.jsonl"
PLAN_KEYS = frozenset(("identity", "settings", "model", "left", "out", "replaces"))
SIZE_FIELDS = ("tokens", "supervised", "images_crc")
"""What a row's line holds beside the row itself."""


@dataclass(frozen=True)
class SizedExample:
    """A row and its size.

    Attributes:
        tokens: All tokens.
        supervised: Tokens in the loss.
        images_crc: CRC-32 of its image files, to notice a changed image.
    """

    row: TrainExample
    tokens: int
    supervised: int
    images_crc: int = 0


@dataclass
class TrainPlan:
    """The plan of a run: rows, skipped rows by cause, model, configuration, output folder."""

    rows: list[SizedExample]
    skipped: Counter[str]
    model: ModelRef
    config: TrainConfig
    out: Path
    lock: int | None = None
    """The descriptor that locks OUT.tmp for this process."""

    def unlock(self) -> None:
        """Lets another run use OUT.tmp."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    @property
    def data_kind(self) -> str:
        """What its objective learns from: `trajectories`, `pairs` or `questions`."""
        return str(registry.find("objectives", self.config.objective).DATA_KIND)

    @property
    def work_dir(self) -> Path:
        """The folder OUT.tmp."""
        return self.out.with_name(self.out.name + ".tmp")

    def identity(self) -> dict[str, Any]:
        """Returns what must be the same for a run to resume: configuration, model, rows. Where it runs is not part of it."""
        rows = hashlib.sha256()
        for sized in self.rows:
            rows.update(_pack_sizes(sized))
        unused = {"save_every"} | (set() if self.data_kind == "questions" else {"rollouts", "max_tokens"})
        settings = {name: value for name, value in asdict(self.config).items() if name not in unused}
        file = Path(self.config.deepspeed)
        config = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None
        return {**settings, **self.model.identity, "rows": rows.hexdigest()[:16], "deepspeed_file": config}

    def open_work_dir(self, force: bool) -> None:
        """Creates the folder OUT.tmp, or finds that of the same run.

        Raises:
            UsageError: it belongs to another run; the message names what differs.
        """
        file, identity = self.work_dir / PLAN_FILE, json.loads(json.dumps(self.identity()))
        found = {entry.name for entry in self.work_dir.iterdir()} if self.work_dir.exists() else set()
        if file.name not in found and found - {ROWS_FILE, f"{file.name}.tmp"}:  # a run was killed while it wrote these two
            raise UsageError(
                f"{self.work_dir}: the run needs this folder, but it holds something else; move it, or choose another -o"
            )
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self._lock_work_dir()
        if force:
            _empty_folder(self.work_dir)
        replaces = force and self.out.exists()
        if file.exists():
            found_plan = read_plan_file(self.work_dir)
            earlier, replaces = found_plan["identity"], replaces or bool(found_plan.get("replaces"))
            if differs := [name for name in identity if earlier.get(name) != identity[name]]:
                listed = ", ".join(f"{name} ({earlier.get(name)}, now {identity[name]})" for name in differs)
                raise UsageError(
                    f"{self.work_dir}: holds a run with other settings: {listed}; use those to resume it, "
                    "or --force to start over"
                )
        with (self.work_dir / ROWS_FILE).open("wb") as file_of_rows:
            file_of_rows.writelines(map(_pack_sizes, self.rows))
        shown = {"identity": identity, "settings": asdict(self.config), "model": asdict(self.model)}
        write_json(file, {**shown, "left": dict(self.skipped), "out": str(self.out), "replaces": replaces})

    def _lock_work_dir(self) -> None:
        """Locks the folder for this process.

        Raises:
            UsageError: another run uses it.
        """
        folder = os.open(self.work_dir, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.lock = folder
        except BlockingIOError:
            os.close(folder)
            raise UsageError(f"{self.work_dir}: another run uses this folder; wait for it, or choose another -o") from None
        except OSError:  # a file system without locks
            os.close(folder)


def may_replace_model(out: Path) -> bool:
    """Tells whether the OUT.tmp of a run says that the model at `out` may be replaced, or is its own result."""
    draft = out.with_name(f"{out.name}.tmp")
    try:
        if json.loads((draft / PLAN_FILE).read_text(encoding="utf-8")).get("replaces"):
            return True
        return (draft / METRICS_FILE).read_bytes() == (out / METRICS_FILE).read_bytes()  # killed before OUT.tmp was deleted
    except (OSError, ValueError, AttributeError):
        return False


def update_batches(plan: TrainPlan) -> list[list[int]]:
    """Returns the row numbers of each update."""
    settings, cut = plan.config, shuffle_updates if plan.data_kind == "trajectories" else full_updates
    return cut(len(plan.rows), settings.batch_size, settings.epochs, settings.max_steps, settings.seed)


def epochs_after_steps(plan: TrainPlan, steps: int) -> float:
    """Returns the number of passes over the rows after this many updates."""
    count, size = len(plan.rows), plan.config.batch_size
    return steps / updates_per_epoch(plan) if plan.data_kind == "trajectories" else steps * size / count


def updates_per_epoch(plan: TrainPlan) -> int:
    return math.ceil(len(plan.rows) / plan.config.batch_size)


def reference_count(plan: TrainPlan) -> int:
    """Returns the number of frozen copies of the model beside the trained one: MPO and adapters compare with one."""
    return int(plan.data_kind == "pairs" and not plan.config.lora_rank)


def sequences_per_update(plan: TrainPlan) -> int:
    """Returns how many answers, or pairs of answers, make an update."""
    return plan.config.batch_size * (plan.config.rollouts if plan.data_kind == "questions" else 1)


def _empty_folder(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _pack_sizes(sized: SizedExample) -> bytes:
    return to_line({**asdict(sized.row), **{name: getattr(sized, name) for name in SIZE_FIELDS}})


def read_plan_file(draft: Path) -> dict[str, Any]:
    """Reads plan.json of a run.

    Raises:
        UsageError: it is damaged.
    """
    try:
        plan = json.loads((draft / PLAN_FILE).read_text(encoding="utf-8"))
        if isinstance(plan, dict) and plan.keys() >= PLAN_KEYS:
            return plan
    except ValueError:
        pass
    raise UsageError(f"{draft / PLAN_FILE}: is damaged, so the run cannot be resumed; start over with --force")


def read_plan(draft: Path) -> TrainPlan:
    """Reads the plan that `open_work_dir` wrote."""
    plan = read_plan_file(draft)
    rows = []
    with (draft / ROWS_FILE).open("rb") as lines:
        for fields in map(load_json, lines):
            sizes = [fields.pop(name) for name in SIZE_FIELDS]
            rows.append(SizedExample(TrainExample(**fields), *sizes))
    return TrainPlan(
        rows, Counter(plan["left"]), ModelRef(**plan["model"]), TrainConfig(**plan["settings"]), Path(plan["out"])
    )
