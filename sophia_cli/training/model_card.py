"""The model card of a trained model: what was trained, on what, how."""

from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from sophia_cli import __version__
from sophia_cli.training.metrics_log import PLOT_FILE
from sophia_cli.training.run_state import TrainPlan

LISTED_LIBRARIES = ("torch", "transformers", "deepspeed", "trl", "peft")


METHOD_NAMES = {
    "sophia": "semi-off-policy reinforcement learning (SOPHIA, arXiv 2507.16814, Eq. 7)",
    "truncated": "semi-off-policy reinforcement learning with truncated importance ratios (arXiv 2507.16814, Eq. 3)",
    "sft": "supervised fine-tuning, all weights 1",
    "mpo": "mixed preference optimization (arXiv 2411.10442)",
    "grpo": "on-policy reinforcement learning (GRPO) with the answers graded by rules",
}


def model_card(plan: TrainPlan, steps: int) -> str:
    """Returns the model card."""
    model, settings = plan.model, plan.config
    causes = "".join(f"- skipped, {cause}: {count}\n" for cause, count in sorted(plan.skipped.items()))
    unused = () if plan.data_kind == "questions" else ("rollouts", "max_tokens")
    listed = "".join(f"| {name} | {value} |\n" for name, value in asdict(settings).items() if name not in unused)
    base = f"base_model: {model.path}\n" if not Path(model.path).is_dir() else ""
    still = [] if settings.train_vision else ["vision tower"]
    still += [] if settings.train_projector else ["projector"]
    unchanged = f"; {' and '.join(still)} {'are' if len(still) > 1 else 'is'} unchanged" if still else ""
    by = METHOD_NAMES.get(settings.objective, f"objective `{settings.objective}`")
    sources = Counter(sized.row.source for sized in plan.rows)
    data = "".join(f"- {count:,} rows of {name}\n" for name, count in sources.items())
    tokens = sum(sized.tokens for sized in plan.rows)
    versions = ", ".join(f"{name} {version(name)}" for name in LISTED_LIBRARIES)
    return (
        f"---\n{base}library_name: transformers\npipeline_tag: image-text-to-text\ntags: [sophia]\n---\n"
        f"# {model.name}, trained with sophia {__version__}\n\n"
        f"Trained with `sophia train` from `{model.name}` by {by}: the language backbone learned from {len(plan.rows):,} "
        f"rows ({tokens:,} tokens) in {steps:,} steps{unchanged}.\n\n"
        f"![loss and learning rate]({PLOT_FILE})\n\n{data}{causes}\n| setting | value |\n|---|---|\n{listed}\n{versions}\n"
    )
