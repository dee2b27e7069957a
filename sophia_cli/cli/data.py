"""The commands about data: decontaminate, export, stats, world."""

from pathlib import Path
from typing import Annotated

import typer

from sophia_cli.cli import options as o
from sophia_cli.cli.inputs import backend_options, input_files, step_options


@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def decontaminate(
    context: typer.Context,
    against: Annotated[
        list[str],
        typer.Option(
            "--against",
            metavar="SOURCE",
            help="A benchmark: a source, as for `caption`; repeatable.",
            show_default=False,
        ),
    ],
    files: o.Files = None,
    ngram: Annotated[int, typer.Option(min=1, help="Consecutive words that two questions must share.")] = 8,
    min_overlap: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the shorter question that these n-grams must cover.")
    ] = 0.5,
    max_hash_distance: Annotated[
        int, typer.Option(min=0, max=256, help="Most differing bits, of 256, between images that count as the same.")
    ] = 24,
    match: Annotated[str, typer.Option(help="What counts as an overlap: any, both, text or image.")] = "any",
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Also write every pair to this file.", show_default=False)
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Ask this model about text overlaps; what it finds different is kept.", show_default=False
        ),
    ] = None,
) -> int:
    """Drop the items that overlap a benchmark, by words of the question and by images; report each pair."""
    from sophia_cli.decontamination.benchmark_index import OverlapRules
    from sophia_cli.steps import decontaminate as step

    rules = OverlapRules(ngram, min_overlap, max_hash_distance, match)
    inputs = input_files(context, files)
    return step.run(step_options(context), inputs, against, rules, report, judge, backend_options(context))


@o.takes(o.writing, o.every_step)
def export(
    context: typer.Context,
    to: Annotated[
        str,
        typer.Option(
            help="trl, trl-preference, llamafactory, swift, verl, openai-batch, datasets (for the hub), or parquet.",
            show_default=False,
        ),
    ],
    files: o.Files = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="path, or embed: store the images themselves.", show_default="path; tables and openai-batch embed"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model whose prompt style is used; for openai-batch, the model to ask.",
            show_default="the paper's prompts",
        ),
    ] = None,
    alpha: o.AlphaOfUnweighted = None,
    keep: o.KeepOfUnweighted = None,
    pairs: Annotated[int, typer.Option(min=1, help="trl-preference: maximum pairs per item.")] = 1,
) -> int:
    """Write the kept trajectories, or preference pairs, in the format of another trainer."""
    from sophia_cli.exporters._records import ExportRequest
    from sophia_cli.steps import export as step

    return step.run(step_options(context), input_files(context, files), ExportRequest(to, images, model, alpha, keep, pairs))


@o.takes(o.debugging)
def stats(
    context: typer.Context,
    files: o.Files = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by", metavar="FIELD", help="Also for each value of this field, like --by subject.", show_default=False
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="As in `propagate`, for records that were not propagated.", show_default="0.75"),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="As in `propagate`, for records that were not propagated.", show_default="1")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables and bars.")] = False,
    quiet: o.Quiet = False,
) -> int:
    """Show what a data set is worth: verdicts, R(c), solved and selected items, lengths, tokens, leaks, repeats."""
    from sophia_cli.steps import stats as step

    return step.run(input_files(context, files), by or [], alpha, keep, as_json, quiet)


@o.takes(o.debugging)
def world(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder for the data set.", show_default=False)],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images.")] = 400,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Worlds whose seeds differ modulo 7 share no scene.")] = 0,
    difficulty: Annotated[
        str, typer.Option(help="easy, medium or hard: the number of shapes and the image noise.")
    ] = "medium",
    force: o.Force = False,
    quiet: o.Quiet = False,
) -> int:
    """Draw a data set of the embedded world: images of colored shapes, questions and answers."""
    from sophia_cli.steps import world as step

    step.draw_world(folder, n, seed, difficulty, force, quiet)
    return 0
