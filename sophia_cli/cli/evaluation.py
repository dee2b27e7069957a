"""The commands of evaluation: eval, compare, agreement."""

from pathlib import Path
from typing import Annotated

import typer

from sophia_cli.cli import options as o
from sophia_cli.cli.inputs import backend_options, one_source, step_options


@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def evaluate(
    context: typer.Context,
    model: o.Policy = "tiny-vlm",
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="Held-out items: a source, as for `caption`.", show_default=False),
    ] = None,
    bench: Annotated[
        str | None,
        typer.Option(
            "--bench",
            metavar="NAMES",
            help="Comma-separated benchmarks: mmmu, mathvision, …; NAME=FOLDER reads a copy; a .jsonl file is your own.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Answers per question.", rich_help_panel=o.SAMPLING)] = 1,
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 0.8,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum tokens per answer.", show_default="16384; embedded model 320", rich_help_panel=o.SAMPLING
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option("--summary", metavar="FILE.json", help="Write accuracy, ci95, n, unreadable and more."),
    ] = None,
    model_card: Annotated[
        Path | None, typer.Option("--model-card", metavar="FILE.md", help="Write the tables in Markdown, for a model card.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="FIELD", help="Also break the figures down by this field.", show_default=False),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Also show the paper's figures.")] = False,
    prompt: Annotated[
        Path | None,
        typer.Option("--prompt", help="A text file that replaces the system prompt.", rich_help_panel=o.SAMPLING),
    ] = None,
    hint: Annotated[
        str | None,
        typer.Option(
            "--hint",
            help="A text before each question, instead of the benchmark's own.",
            show_default=False,
            rich_help_panel=o.SAMPLING,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Ask this model where the paper used one, where rules cannot tell, and for answers that they do not find.",
            show_default=False,
        ),
    ] = None,
    judge_base_url: Annotated[
        list[str] | None,
        typer.Option(
            "--judge-base-url",
            metavar="URL",
            help="An OpenAI-compatible server for the judge (and --audit); repeatable.",
            show_default="as --model",
        ),
    ] = None,
    judge_all: Annotated[bool, typer.Option("--judge-all", help="Ask the judge about every answer.")] = False,
    audit: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Let this vision-language model look for hallucination and broken logic in some answers.",
            show_default=False,
        ),
    ] = None,
    audit_size: Annotated[int, typer.Option("--audit-size", min=1, help="Answers to audit.")] = 50,
    labels_csv: Annotated[
        Path | None,
        typer.Option(
            "--labels-csv", metavar="FILE.csv", help="Write the same answers for a person to label.", show_default=False
        ),
    ] = None,
) -> int:
    """Ask held-out questions and measure the model's accuracy."""
    from sophia_cli.errors import UsageError
    from sophia_cli.evaluation.benchmark_items import own_benchmark, parse_benchmarks
    from sophia_cli.inference.types import SamplingParams
    from sophia_cli.steps import eval as step

    if data and bench:
        raise UsageError("--data and --bench both select the questions; give only one of them")
    asked = parse_benchmarks(bench) if bench else [own_benchmark(one_source(context, data))]
    sampling = SamplingParams(temperature, top_p, max_tokens or 0)
    reporting = step.ReportOptions(summary, model_card, tuple(by or ()), paper)
    run_on = backend_options(context)
    elsewhere = run_on.with_servers(tuple(judge_base_url)) if judge_base_url else run_on
    judging = step.JudgeOptions(judge, judge_all, elsewhere)
    auditing = step.AuditOptions(audit, elsewhere, audit_size, labels_csv)
    return step.run(step_options(context), model, asked, n, sampling, prompt, hint, judging, auditing, reporting, run_on)


@o.takes(o.debugging)
def compare(
    one: Annotated[str, typer.Argument(metavar="ONE", help="The records of one `eval` run.", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The records of the other run.", show_default=False)],
    summary: Annotated[
        Path | None, typer.Option("--summary", metavar="FILE.json", help="Write the figures.", show_default=False)
    ] = None,
    quiet: o.Quiet = False,
) -> int:
    """Show whether the second of two runs is better, question by question; the questions that flipped go to stdout."""
    from sophia_cli.steps import compare as step

    return step.run(one, other, summary, quiet)


@o.takes(o.debugging)
def agreement(
    sheet: Annotated[
        Path,
        typer.Argument(metavar="SHEET.csv", help="What `eval --labels-csv` wrote, filled in.", show_default=False),
    ],
    summary: Annotated[
        Path | None, typer.Option("--summary", metavar="FILE.json", help="Write the figures.", show_default=False)
    ] = None,
) -> int:
    """Show how far a person's labels of an audit agree with the judge's (Cohen's kappa)."""
    from sophia_cli.steps import agreement as step

    return step.run(sheet, summary)
