"""The command `train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sophia_cli.cli import options as o
from sophia_cli.cli.inputs import input_files, step_options

if TYPE_CHECKING:
    from sophia_cli.training.launcher import HardwareOptions


@o.takes(o.what_trains, o.where_it_trains, o.every_step)
def train(
    context: typer.Context,
    files: o.Files = None,
    model: o.Trained = "tiny-vlm",
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder for the trained model.", rich_help_panel=o.BASICS),
    ] = Path("runs/out"),
    objective: Annotated[
        str,
        typer.Option(
            help="sophia (Eq. 7), sft (all weights 1), truncated (Eq. 3, ratios per token; needs `reason --logprobs`), "
            "mpo (pairs of a correct and a wrong one) or grpo (the model answers the questions itself)."
        ),
    ] = "sophia",
    alpha: o.AlphaOfUnweighted = None,
    keep: o.KeepOfUnweighted = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:ratio]",
            help="Other rows (messages, captions, questions and answers); the ratio is rows drawn per trajectory.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows per update, over all processes.",
            show_default="512, mpo 256, grpo 64; embedded model 32, grpo 8",
        ),
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows per forward pass.", show_default="1; embedded model 16, grpo 32")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Learning rate.", show_default="2e-5, mpo 5e-6, grpo 5e-7; embedded model 6e-4, mpo and grpo 1e-4"
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="Weight decay of AdamW.")] = 0.05,
    min_lr_ratio: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The end of the cosine schedule, as a share of --lr.")
    ] = 0.25,
    max_grad_norm: Annotated[float, typer.Option(min=0.0, help="Clip gradients to this norm; 0 does not clip.")] = 1.0,
    normalize_by: Annotated[
        str, typer.Option("--normalize-by", help="Divide by the tokens or the trajectories of the global batch.")
    ] = "tokens",
    epochs: Annotated[
        float | None, typer.Option(min=0.0, help="Passes over the rows.", show_default="1; embedded model 3, mpo and grpo 1")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Number of updates, instead of --epochs.")] = None,
    max_length: Annotated[
        int, typer.Option(min=1, help="Skip rows with more tokens than this, or than the model takes.")
    ] = 32768,
    pairs: Annotated[int, typer.Option(min=1, help="mpo: maximum pairs per item.")] = 1,
    rollouts: Annotated[int, typer.Option(min=2, help="grpo: answers per question.")] = 8,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="grpo: longest answer, in tokens.", show_default="16384; embedded model 320")
    ] = None,
    save_every: Annotated[
        int,
        typer.Option(min=1, metavar="STEPS", help="Updates between checkpoints; a killed run resumes from the last one."),
    ] = 50,
    report_to: Annotated[str, typer.Option(help="tensorboard, wandb, trackio, or none.")] = "none",
) -> int:
    """Train the model on the kept trajectories (Eq. 7); records that were not propagated are propagated first."""
    from sophia_cli.steps import train as step

    asked = step.TrainOverrides(batch_size, micro_batch_size, lr, epochs, max_tokens, alpha, keep, pairs)
    fixed = {name: context.obj[name] for name in step.FIXED_OPTIONS}
    typed = (
        step_options(context),
        input_files(context, files),
        model,
        mix or [],
        asked,
        _hardware(context),
        report_to,
        fixed,
    )
    return step.run(step.TrainRequest(*typed))


def _hardware(context: typer.Context) -> "HardwareOptions":
    """What a model trains on."""
    from sophia_cli.serving.gpus import select_gpus
    from sophia_cli.training.launcher import HardwareOptions

    given = context.obj
    return HardwareOptions(select_gpus(given["gpus"]) if given["gpus"] else None, given["cpu_ranks"], given["hostfile"])
