"""A training run as it is handed from the process that reads to those that train: rows, settings, where to write.

It lies in the draft folder `OUT.tmp`; a run that was killed finds it there and goes on, if it is still the same run.
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

ROWS_FILE = "rows.jsonl"
SIZE_FIELDS = ("tokens", "supervised", "images_crc")
"""What a row's line in it holds beside the row."""


@dataclass(frozen=True)
class SizedExample:
    """A row and what it is in tokens: all of them, and those that are supervised. images: CRC-32 of its images' files."""

    row: TrainExample
    tokens: int
    supervised: int
    images_crc: int = 0


@dataclass
class TrainPlan:
    """Rows, settings, the model to train and the folder for the result; `left` counts rows left out, by cause."""

    rows: list[SizedExample]
    skipped: Counter[str]
    model: ModelRef
    config: TrainConfig
    out: Path

    @property
    def data_kind(self) -> str:
        """What its objective learns from: `trajectories`, `pairs` or `questions`."""
        return str(registry.find("objectives", self.config.objective).DATA_KIND)

    @property
    def work_dir(self) -> Path:
        return self.out.with_name(self.out.name + ".tmp")

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on: settings, model, rows. Where it runs is not in it."""
        rows = hashlib.sha256()
        for sized in self.rows:
            rows.update(_pack_sizes(sized))
        unused = {"save_every"} | (set() if self.data_kind == "questions" else {"rollouts", "max_tokens"})
        settings = {name: value for name, value in asdict(self.config).items() if name not in unused}
        file = Path(self.config.deepspeed)
        config = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None
        return {**settings, **self.model.identity, "rows": rows.hexdigest()[:16], "deepspeed_file": config}

    def open_work_dir(self, force: bool) -> None:
        """Makes the draft folder, or finds that of the same run. Raises UsageError that names what differs."""
        file, identity = self.work_dir / "plan.json", json.loads(json.dumps(self.identity()))
        found = {entry.name for entry in self.work_dir.iterdir()} if self.work_dir.exists() else set()
        if file.name not in found and found - {ROWS_FILE, f"{file.name}.tmp"}:  # these two: killed while they were written
            raise UsageError(
                f"{self.work_dir}: the run would be kept there, but it holds something else; move it, or choose another -o"
            )
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self._lock_work_dir()
        if force:
            _empty_folder(self.work_dir)
        replaces = force and self.out.exists()
        if file.exists():
            found_plan = json.loads(file.read_text(encoding="utf-8"))
            begun, replaces = found_plan["identity"], replaces or bool(found_plan.get("replaces"))
            if differs := [name for name in identity if begun.get(name) != identity[name]]:
                listed = ", ".join(f"{name} ({begun.get(name)}, now {identity[name]})" for name in differs)
                raise UsageError(
                    f"{self.work_dir}: holds a run begun with other settings: {listed}; give those again to go on with it, "
                    "or --force to begin anew"
                )
        with (self.work_dir / ROWS_FILE).open("wb") as file_of_rows:
            file_of_rows.writelines(map(_pack_sizes, self.rows))
        shown = {"identity": identity, "settings": asdict(self.config), "model": asdict(self.model)}
        write_json(file, {**shown, "left": dict(self.skipped), "out": str(self.out), "replaces": replaces})

    def _lock_work_dir(self) -> None:
        """Keeps other runs out of the draft folder until this process ends. Raises UsageError when one is in it."""
        folder = os.open(self.work_dir, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{self.work_dir}: another run is at work there; let it end, or choose another -o") from None
        except OSError:  # a disk that knows no locks
            os.close(folder)


def may_replace_model(out: Path) -> bool:
    """Whether the draft of a run into this folder says that what stands there is to be replaced, or is what it has made."""
    draft = out.with_name(f"{out.name}.tmp")
    try:
        if json.loads((draft / "plan.json").read_text(encoding="utf-8")).get("replaces"):
            return True
        return (draft / METRICS_FILE).read_bytes() == (
            out / METRICS_FILE
        ).read_bytes()  # killed before the draft was cleared away
    except (OSError, ValueError, AttributeError):
        return False


def update_batches(plan: TrainPlan) -> list[list[int]]:
    """The row numbers of each update."""
    settings, cut = plan.config, shuffle_updates if plan.data_kind == "trajectories" else full_updates
    return cut(len(plan.rows), settings.batch_size, settings.epochs, settings.max_steps, settings.seed)


def epochs_after_steps(plan: TrainPlan, steps: int) -> float:
    """Passes over the rows after so many updates."""
    count, size = len(plan.rows), plan.config.batch_size
    return steps / updates_per_epoch(plan) if plan.data_kind == "trajectories" else steps * size / count


def updates_per_epoch(plan: TrainPlan) -> int:
    return math.ceil(len(plan.rows) / plan.config.batch_size)


def reference_count(plan: TrainPlan) -> int:
    """Copies of the model as it was, beside the one that trains: MPO compares with one, adapters with what is under them."""
    return int(plan.data_kind == "pairs" and not plan.config.lora_rank)


def sequences_per_update(plan: TrainPlan) -> int:
    """How many answers, or pairs of them, an update is made of."""
    return plan.config.batch_size * (plan.config.rollouts if plan.data_kind == "questions" else 1)


def _empty_folder(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _pack_sizes(sized: SizedExample) -> bytes:
    return to_line({**asdict(sized.row), **{name: getattr(sized, name) for name in SIZE_FIELDS}})


def read_plan(draft: Path) -> TrainPlan:
    """The plan that `begin` wrote."""
    plan = json.loads((draft / "plan.json").read_text(encoding="utf-8"))
    rows = []
    with (draft / ROWS_FILE).open("rb") as lines:
        for fields in map(load_json, lines):
            sizes = [fields.pop(name) for name in SIZE_FIELDS]
            rows.append(SizedExample(TrainExample(**fields), *sizes))
    return TrainPlan(
        rows, Counter(plan["left"]), ModelRef(**plan["model"]), TrainConfig(**plan["settings"]), Path(plan["out"])
    )
