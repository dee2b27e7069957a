"""The commands of the pipeline: caption, reason, grade, propagate."""

from typing import Annotated

import typer

from sophia_cli.cli import options as o
from sophia_cli.cli.inputs import backend_options, input_files, one_source, step_options


@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def caption(
    context: typer.Context,
    source: o.Source = None,
    model: o.Policy = "tiny-vlm",
    k: Annotated[int, typer.Option("-k", min=1, help="Captions per image (K).", rich_help_panel=o.SAMPLING)] = 8,
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 1.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum tokens per caption.", show_default="32768; embedded model 96", rich_help_panel=o.SAMPLING
        ),
    ] = None,
    prompt: o.Prompt = None,
) -> int:
    """Sample K captions of each image from the model you train; the question is never shown to it."""
    from sophia_cli.inference.types import SamplingParams
    from sophia_cli.steps import caption as step

    return step.run(
        step_options(context),
        one_source(context, source),
        model,
        k,
        SamplingParams(temperature, top_p, max_tokens or 0),
        prompt,
        backend_options(context),
    )


@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def reason(
    context: typer.Context,
    files: o.Files = None,
    llm: Annotated[
        str, typer.Option("--llm", help="Alias, folder or hub id of the text-only reasoner.", rich_help_panel=o.MODEL)
    ] = "tiny-reasoner",
    n: Annotated[int, typer.Option("-n", min=1, help="Trajectories per caption (N).", rich_help_panel=o.SAMPLING)] = 8,
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 1.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum tokens per trajectory.",
            show_default="32768; embedded model 320",
            rich_help_panel=o.SAMPLING,
        ),
    ] = None,
    prompt: o.Prompt = None,
    tag: Annotated[
        str | None, typer.Option("--tag", help="Added to the ids, so that files of two reasoners can be joined.")
    ] = None,
    stop_early: Annotated[
        bool,
        typer.Option(
            "--stop-early",
            help="Sample no more trajectories for a caption that can no longer pass --alpha; the selection is the same.",
        ),
    ] = False,
    alpha: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With --stop-early: the smallest alpha that `propagate` may use.")
    ] = 0.75,
    bound_length: Annotated[
        bool,
        typer.Option(
            "--bound-length", help="With --stop-early: also limit lengths to the shortest that qualifies; for Keep-1 only."
        ),
    ] = False,
    logprobs: Annotated[
        bool,
        typer.Option(
            "--logprobs",
            help="Store each trajectory's log-probability, so that `train` can measure the assumption of Lemma A.3.",
        ),
    ] = False,
) -> int:
    """Let a text-only reasoner think over each caption N times, as if it saw the image."""
    from sophia_cli.inference.types import SamplingParams
    from sophia_cli.steps import reason as step

    sampling = SamplingParams(temperature, top_p, max_tokens or 0, logprobs)
    return step.run(
        step_options(context),
        input_files(context, files),
        llm,
        n,
        sampling,
        prompt,
        tag,
        alpha if stop_early else None,
        bound_length,
        backend_options(context),
    )


@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def grade(
    context: typer.Context,
    files: o.Files = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes; 16 for millions of trajectories.")] = 1,
    limit_seconds: Annotated[
        float, typer.Option(min=0.01, help="Time limit for algebra on one answer; beyond it the verdict is timeout.")
    ] = 5.0,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Ask this model where the rules cannot tell.", show_default=False)
    ] = None,
    judge_all: Annotated[bool, typer.Option("--judge-all", help="Ask the judge about every trajectory.")] = False,
) -> int:
    """Grade each trajectory's final answer: correct, wrong, or cannot tell (Eq. 4)."""
    from sophia_cli.steps import grade as step

    return step.run(
        step_options(context),
        input_files(context, files),
        workers,
        limit_seconds,
        judge,
        judge_all,
        backend_options(context),
    )


@o.takes(o.writing, o.every_step)
def propagate(
    context: typer.Context,
    files: o.Files = None,
    alpha: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="A caption qualifies if more than this share of its trajectories is correct."),
    ] = 0.75,
    keep: Annotated[int, typer.Option(min=1, help="Trajectories kept per item (Keep-N).")] = 1,
    select: Annotated[str, typer.Option(help="Which qualifying trajectories: shortest, random or all.")] = "shortest",
    no_caption_reward: Annotated[
        bool, typer.Option("--no-caption-reward", help="Ablation: every caption qualifies.")
    ] = False,
    no_correctness: Annotated[
        bool, typer.Option("--no-correctness", help="Ablation: wrong trajectories also qualify.")
    ] = False,
    min_graded: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Compare the mean of the graded trajectories with alpha, and require at least this many of them. Default: "
            "ungraded ones count as not correct.",
        ),
    ] = None,
    drop_leaks: Annotated[bool, typer.Option("--drop-leaks", help="Leave out trajectories that mention a caption.")] = False,
    selected: Annotated[bool, typer.Option("--selected", help="Write only the kept records.")] = False,
    unsolved: Annotated[
        bool, typer.Option("--unsolved", help="Write the captions of items in which nothing qualified.")
    ] = False,
) -> int:
    """Propagate the reward to the captions (Eq. 5) and keep the best trajectories (Eq. 6)."""
    from sophia_cli.rewards.trajectory import SelectionRule
    from sophia_cli.steps import propagate as step

    rule = SelectionRule(
        alpha, keep, select, not no_caption_reward, not no_correctness, min_graded, drop_leaks, step_options(context).seed
    )
    return step.run(step_options(context), input_files(context, files), rule, selected, unsolved)
