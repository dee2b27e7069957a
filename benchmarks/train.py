"""`sophia train` compared with TRL's `SFTTrainer`: the same model, rows and batches, in one process each, in turn.

    make bench-train

Uses the embedded model on CPUs by default, a GPU if there is one. Prints tokens per second (from the third update on,
without loading) and peak memory of each, and their ratio. The exit code is 1 if `sophia train` is slower.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from sophia_cli.models.aliases import resolve_model

SKIPPED = 2
"""Updates before the measurement starts."""
LEAST = 1.0


def make_rows(folder: Path, count: int) -> Path:
    """Weighted trajectories about a world of this many images."""
    subprocess.run([sys.executable, "-m", "sophia_cli", "world", str(folder / "imgs"), "-n", str(count)], check=True)
    rows = folder / "kept.jsonl"
    with rows.open("w") as file:
        for line in (folder / "imgs" / "metadata.jsonl").read_text().splitlines():
            item = json.loads(line)
            thought = f"<think>\n{item['description']}\n</think>\nThe answer is \\boxed{{{item['answer']}}}."
            ids = {"id": item["file_name"], "caption_id": item["file_name"], "trajectory_id": item["file_name"]}
            image = {"image": str(folder / "imgs" / item["file_name"]), "question": item["question"]}
            file.write(json.dumps({**ids, **image, "trajectory": thought, "reward": 1.0, "weight": 1.0}) + "\n")
    return rows


def run_sophia(rows: Path, model: str, micro: int, batch: int, steps: int, adapters: int) -> list[float]:
    """Returns the time at which each update ended, in seconds."""
    from sophia_cli.training.config import TrainConfig
    from sophia_cli.training.dataset import read_trajectories
    from sophia_cli.training.distributed import DistributedContext
    from sophia_cli.training.preflight import size_rows
    from sophia_cli.training.run_state import TrainPlan
    from sophia_cli.training.trainer import train_with_loss

    chosen, ends = resolve_model(model), list[float]()
    data = read_trajectories([str(rows)], [], None, chosen, 0, lambda text: None)
    settings = TrainConfig("sophia", batch, micro, 1e-4, 0.05, 0.25, "tokens", 1.0, steps, 1 << 16, 0, lora_rank=adapters)
    plan = size_rows(TrainPlan([], data.left, chosen, settings, rows.parent / "out"), data.rows, lambda text: None)
    plan.open_work_dir(force=True)
    train_with_loss(plan, DistributedContext(), lambda told: ends.append(time.perf_counter()))
    return ends[:steps]


def run_trl(rows: Path, model: str, micro: int, batch: int, steps: int, adapters: int) -> list[float]:
    """Returns the time at which each update ended, in seconds."""
    import torch
    from datasets import load_dataset
    from transformers import AutoConfig, AutoModelForImageTextToText, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from sophia_cli import registry

    path, ends = resolve_model(model).path, list[float]()
    exported = rows.with_name("trl.jsonl")
    command = [sys.executable, "-m", "sophia_cli", "export", str(rows), "--to", "trl", "-m", model, "-o", str(exported)]
    subprocess.run([*command, "--force", "--quiet"], check=True)
    cuda = torch.cuda.is_available()

    class Watch(TrainerCallback):
        def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    arguments = SFTConfig(
        output_dir=str(rows.parent / "trl"), per_device_train_batch_size=micro, gradient_accumulation_steps=batch // micro,
        max_steps=steps, learning_rate=1e-4, bf16=cuda, use_cpu=not cuda, gradient_checkpointing=cuda, max_length=None,
        report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    family = registry.find("families", AutoConfig.from_pretrained(path).model_type.replace("_", "-"))
    policy = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad = not name.startswith((*family.VISION_PREFIXES, *family.PROJECTOR_PREFIXES))
    trainer = SFTTrainer(
        model=policy, args=arguments, train_dataset=load_dataset("json", data_files=str(exported), split="train"),
        processing_class=family.load_processor(path), callbacks=[Watch()], peft_config=_adapters(policy, adapters),
    )  # fmt: skip
    trainer.train()
    return ends


def _adapters(policy: Any, rank: int) -> Any:
    """The adapters that ours trains: on every linear layer of the language model."""
    from peft import LoraConfig

    names = [
        name for name, module in policy.named_modules() if type(module).__name__ == "Linear" and "language_model." in name
    ]
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, task_type="CAUSAL_LM") if rank else None


def most_memory() -> float:
    """Returns the peak memory in MB, of the GPU if there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


RUNS = {"sophia": run_sophia, "trl": run_trl}


def measured(name: str, rows: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Returns updates per second and peak memory in MB of one run in its own process."""
    command = [sys.executable, __file__, "--only", name, str(rows), "--model", options.model]
    command += ["--micro", str(options.micro), "--batch", str(options.batch), "--steps", str(options.steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rate, memory = done.stdout.split()[-2:]
    return float(rate), float(memory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs=2, metavar=("NAME", "ROWS"))
    parser.add_argument("--model", default="tiny-vlm")
    parser.add_argument("--micro", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lora-rank", type=int, default=0)
    options = parser.parse_args()
    if options.only:
        name, rows = options.only
        ends = RUNS[name](Path(rows), options.model, options.micro, options.batch, options.steps, options.lora_rank)
        rate = (len(ends) - 1 - SKIPPED) / (ends[-1] - ends[SKIPPED])
        print(rate, most_memory())
        return 0
    with tempfile.TemporaryDirectory() as name:
        rows = make_rows(Path(name), options.batch * 4)
        found: dict[str, list[tuple[float, float]]] = {"trl": [], "sophia": []}
        for turn in ("trl", "sophia") * options.runs:
            found[turn].append(measured(turn, rows, options))
    rates = {turn: median(rate for rate, _ in values) for turn, values in found.items()}
    memory = {turn: max(most for _, most in values) for turn, values in found.items()}
    ratio = rates["sophia"] / rates["trl"]
    shape = f"{options.model}, {options.batch} rows in {options.batch // options.micro} micro-batches"
    table = [
        "| model and batch | `sophia train` | TRL's `SFTTrainer` | faster |",
        "|---|---|---|---|",
        f"| {shape} | {rates['sophia'] * options.batch:.1f} rows/s, {memory['sophia']:.0f} MB "
        f"| {rates['trl'] * options.batch:.1f} rows/s, {memory['trl']:.0f} MB | {ratio:.2f} × |",
    ]
    print("\n".join(table))
    return 0 if ratio >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
