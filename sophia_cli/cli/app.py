"""The command line: every command and option, and one lazy call each. Nothing is computed here."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sophia_cli.cli import options as o

if TYPE_CHECKING:
    from sophia_cli.inference.backend_options import Place
    from sophia_cli.steps._runner import Common
    from sophia_cli.training.launcher import Hardware

app = typer.Typer(
    name="sophia",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teaches vision-language models to think before they answer.\n\n"
    "caption | reason | grade | propagate | train | eval: each step reads JSONL and writes JSONL.",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if context.invoked_subcommand is None and not version:
        _help(context)
    if version:
        from sophia_cli import __version__

        print(f"sophia {__version__}")
        raise typer.Exit()


@app.command()
@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def caption(
    context: typer.Context,
    source: o.Source = None,
    model: o.Policy = "tiny-vlm",
    k: Annotated[int, typer.Option("-k", min=1, help="Descriptions of each image (K).", rich_help_panel=o.SAMPLING)] = 8,
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 1.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest description.", show_default="32768; embedded model 96", rich_help_panel=o.SAMPLING
        ),
    ] = None,
    prompt: o.Prompt = None,
) -> int:
    """Sample K descriptions of each image from the model you train; the question is never shown to it."""
    from sophia_cli.inference.sampler import Sampling
    from sophia_cli.steps import caption as step

    return step.run(
        _common(context),
        _one(context, source),
        model,
        k,
        Sampling(temperature, top_p, max_tokens or 0),
        prompt,
        _place(context),
    )


@app.command()
@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def reason(
    context: typer.Context,
    files: o.Files = None,
    llm: Annotated[
        str, typer.Option("--llm", help="Alias, folder or hub id of the text-only reasoner.", rich_help_panel=o.MODEL)
    ] = "tiny-reasoner",
    n: Annotated[int, typer.Option("-n", min=1, help="Trajectories of each caption (N).", rich_help_panel=o.SAMPLING)] = 8,
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 1.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest trajectory.", show_default="32768; embedded model 320", rich_help_panel=o.SAMPLING
        ),
    ] = None,
    prompt: o.Prompt = None,
    tag: Annotated[
        str | None, typer.Option("--tag", help="Goes into the ids, so that two reasoners' files can be joined.")
    ] = None,
    stop_early: Annotated[
        bool,
        typer.Option(
            "--stop-early", help="No more trajectories for a caption that can no longer pass --alpha; same selection."
        ),
    ] = False,
    alpha: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With --stop-early: the smallest that `propagate` may be asked for.")
    ] = 0.75,
    shortest: Annotated[
        bool,
        typer.Option(
            "--shortest", help="With --stop-early: also bound lengths by the shortest that qualifies; for Keep-1 only."
        ),
    ] = False,
    logprobs: Annotated[
        bool,
        typer.Option(
            "--logprobs", help="Store each trajectory's log-probability: `train` then measures what Lemma A.3 assumes."
        ),
    ] = False,
) -> int:
    """Let a text-only reasoner think over each description, N times, as if it saw the image."""
    from sophia_cli.inference.sampler import Sampling
    from sophia_cli.steps import reason as step

    sampling = Sampling(temperature, top_p, max_tokens or 0, logprobs)
    return step.run(
        _common(context),
        _inputs(context, files),
        llm,
        n,
        sampling,
        prompt,
        tag,
        alpha if stop_early else None,
        shortest,
        _place(context),
    )


@app.command()
@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def grade(
    context: typer.Context,
    files: o.Files = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that judge; 16 for millions of trajectories.")] = 1,
    limit_seconds: Annotated[
        float, typer.Option(min=0.01, help="Longest algebra on one answer; past it the verdict is timeout.")
    ] = 5.0,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Ask this model where the rules could not tell.", show_default=False)
    ] = None,
    judge_all: Annotated[bool, typer.Option("--judge-all", help="Ask the judge about every trajectory.")] = False,
) -> int:
    """Judge each trajectory's final answer: right, wrong, or could not tell (Eq. 4)."""
    from sophia_cli.steps import grade as step

    return step.run(_common(context), _inputs(context, files), workers, limit_seconds, judge, judge_all, _place(context))


@app.command()
@o.takes(o.writing, o.every_step)
def propagate(
    context: typer.Context,
    files: o.Files = None,
    alpha: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="A caption counts when more than this share of its trajectories is right."),
    ] = 0.75,
    keep: Annotated[int, typer.Option(min=1, help="Trajectories kept of each item (Keep-N).")] = 1,
    select: Annotated[str, typer.Option(help="Which of those that qualify: shortest, random or all.")] = "shortest",
    no_caption_reward: Annotated[bool, typer.Option("--no-caption-reward", help="Ablation: any caption counts.")] = False,
    no_correctness: Annotated[
        bool, typer.Option("--no-correctness", help="Ablation: wrong trajectories qualify too.")
    ] = False,
    min_graded: Annotated[
        int | None, typer.Option(min=1, help="Ask for a mean over alpha and this many graded trajectories instead.")
    ] = None,
    drop_leaks: Annotated[
        bool, typer.Option("--drop-leaks", help="Leave out trajectories that mention a description.")
    ] = False,
    selected: Annotated[bool, typer.Option("--selected", help="Write only the kept records.")] = False,
    unsolved: Annotated[
        bool, typer.Option("--unsolved", help="Write the captions of items in which nothing qualified.")
    ] = False,
) -> int:
    """Let the reward flow back to the descriptions (Eq. 5) and keep the best trajectories (Eq. 6)."""
    from sophia_cli.rewards.trajectory import Rule
    from sophia_cli.steps import propagate as step

    rule = Rule(
        alpha, keep, select, not no_caption_reward, not no_correctness, min_graded, drop_leaks, _common(context).seed
    )
    return step.run(_common(context), _inputs(context, files), rule, selected, unsolved)


@app.command()
@o.takes(o.what_trains, o.where_it_trains, o.every_step)
def train(
    context: typer.Context,
    files: o.Files = None,
    model: o.Trained = "tiny-vlm",
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder that the trained model is saved to.", rich_help_panel=o.BASICS),
    ] = Path("runs/out"),
    objective: Annotated[
        str,
        typer.Option(
            help="sophia (Eq. 7), sft (all weights 1), truncated (Eq. 3, ratios per token; needs `reason --logprobs`), "
            "mpo (pairs of a right and a wrong one) or grpo (the model answers the questions itself)."
        ),
    ] = "sophia",
    alpha: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="As in propagate, for records that carry no weight.", show_default="0.75"),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="As in propagate, for records that carry no weight.", show_default="1")
    ] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:ratio]",
            help="Other rows (messages, captions, questions and answers); a ratio draws so many per trajectory.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of one update.", show_default="512, mpo 256, grpo 64; embedded model 32, grpo 8"),
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows of one forward pass.", show_default="1; embedded model 16, grpo 32")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Learning rate.", show_default="2e-5, mpo 5e-6, grpo 5e-7; embedded model 6e-4, mpo and grpo 1e-4"
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="AdamW's.")] = 0.05,
    min_lr_ratio: Annotated[float, typer.Option(min=0.0, max=1.0, help="Where the cosine ends, as a share of --lr.")] = 0.25,
    max_grad_norm: Annotated[
        float, typer.Option(min=0.0, help="Gradients of a larger norm are scaled down to it; 0: none are.")
    ] = 1.0,
    normalise: Annotated[str, typer.Option(help="Divide by the tokens or the trajectories of the global batch.")] = "tokens",
    epochs: Annotated[
        float | None, typer.Option(min=0.0, help="Passes over the rows.", show_default="1; embedded model 3, mpo and grpo 1")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="So many updates, whatever --epochs says.")] = None,
    max_length: Annotated[
        int, typer.Option(min=1, help="Rows of more tokens, or than the model takes, are left out whole.")
    ] = 32768,
    pairs: Annotated[int, typer.Option(min=1, help="mpo: most pairs of an item.")] = 1,
    rollouts: Annotated[int, typer.Option(min=2, help="grpo: answers to each question.")] = 8,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="grpo: longest answer.", show_default="16384; embedded model 320")
    ] = None,
    save_every: Annotated[
        int, typer.Option(min=1, metavar="STEPS", help="Checkpoints: killed and typed again, a run goes on from the last.")
    ] = 50,
    report_to: Annotated[str, typer.Option(help="tensorboard, wandb, trackio, or none.")] = "none",
) -> int:
    """Train the model on the kept trajectories (Eq. 7); records that nobody propagated are propagated first."""
    from sophia_cli.steps import train as step

    asked = step.Asked(batch_size, micro_batch_size, lr, epochs, max_tokens, alpha, keep, pairs)
    fixed = {name: context.obj[name] for name in step.FIXED}
    typed = (_common(context), _inputs(context, files), model, mix or [], asked, _hardware(context), report_to, fixed)
    return step.run(step.Command(*typed))


@app.command(name="eval")
@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def evaluate(
    context: typer.Context,
    model: o.Policy = "tiny-vlm",
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="Held-out items: a source as `caption` takes it.", show_default=False),
    ] = None,
    bench: Annotated[
        str | None,
        typer.Option(
            "--bench",
            metavar="NAMES",
            help="Benchmarks, with commas: mmmu, mathvision, …; NAME=FOLDER takes a copy; a .jsonl file is one of your own.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Answers to each question.", rich_help_panel=o.SAMPLING)] = 1,
    temperature: o.Temperature = 1.0,
    top_p: o.TopP = 0.8,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer.", show_default="16384; embedded model 320", rich_help_panel=o.SAMPLING),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option("--summary", metavar="FILE.json", help="Write accuracy, ci95, n, unreadable and more."),
    ] = None,
    card: Annotated[
        Path | None, typer.Option("--card", metavar="FILE.md", help="Write the tables in Markdown, for a model card.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="FIELD", help="Break the figures down by this field, too.", show_default=False),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Show the paper's figures beside.")] = False,
    prompt: Annotated[
        Path | None,
        typer.Option("--prompt", help="A text file instead of our system prompt.", rich_help_panel=o.SAMPLING),
    ] = None,
    hint: Annotated[
        str | None,
        typer.Option(
            "--hint",
            help="Before each question, instead of the benchmark's own.",
            show_default=False,
            rich_help_panel=o.SAMPLING,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Ask this model where the paper asked one, where rules cannot tell, and for answers that they do not find.",
            show_default=False,
        ),
    ] = None,
    judge_url: Annotated[
        list[str] | None,
        typer.Option(
            "--judge-url",
            metavar="URL",
            help="An OpenAI-compatible server of the judge (and of --audit); give it again for each.",
            show_default="as --model",
        ),
    ] = None,
    judge_all: Annotated[bool, typer.Option("--judge-all", help="Ask the judge about every answer.")] = False,
    audit: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Have this model, which sees the images, look for hallucination and broken logic in some answers.",
            show_default=False,
        ),
    ] = None,
    audit_size: Annotated[int, typer.Option("--audit-size", min=1, help="How many answers.")] = 50,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Write the same answers for a person to label.", show_default=False),
    ] = None,
) -> int:
    """Ask held-out questions and measure how often the model is right."""
    from sophia_cli.errors import UsageError
    from sophia_cli.evaluation.benchmark_items import benchmarks, own
    from sophia_cli.inference.sampler import Sampling
    from sophia_cli.steps import eval as step

    if data and bench:
        raise UsageError("--data and --bench: both say what to ask; give one of them")
    asked = benchmarks(bench) if bench else [own(_one(context, data))]
    sampling = Sampling(temperature, top_p, max_tokens or 0)
    told = step.Told(summary, card, tuple(by or ()), paper)
    place = _place(context)
    elsewhere = place.elsewhere(tuple(judge_url)) if judge_url else place
    judging = step.Judging(judge, judge_all, elsewhere)
    auditing = step.Auditing(audit, elsewhere, audit_size, sheet)
    return step.run(_common(context), model, asked, n, sampling, prompt, hint, judging, auditing, told, place)


@app.command()
@o.takes(o.debugging)
def compare(
    one: Annotated[str, typer.Argument(metavar="ONE", help="What `eval` wrote of one run.", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="And of the other.", show_default=False)],
    summary: Annotated[
        Path | None, typer.Option("--summary", metavar="FILE.json", help="Write the figures.", show_default=False)
    ] = None,
    quiet: o.Quiet = False,
) -> int:
    """Say whether the second of two runs is better, question by question; the questions that flipped go to stdout."""
    from sophia_cli.steps import compare as step

    return step.run(one, other, summary, quiet)


@app.command()
@o.takes(o.debugging)
def agreement(
    sheet: Annotated[
        Path, typer.Argument(metavar="SHEET.csv", help="What `eval --sheet` wrote, with yes and no.", show_default=False)
    ],
    summary: Annotated[
        Path | None, typer.Option("--summary", metavar="FILE.json", help="Write the figures.", show_default=False)
    ] = None,
) -> int:
    """Say how far a person's labels of an audit agree with the judge's (Cohen's kappa)."""
    from sophia_cli.steps import agreement as step

    return step.run(sheet, summary)


@app.command()
@o.takes(o.where_a_model_runs, o.writing, o.every_step)
def decontaminate(
    context: typer.Context,
    against: Annotated[
        list[str],
        typer.Option(
            "--against",
            metavar="SOURCE",
            help="A benchmark, as `caption` takes it; give it again for each.",
            show_default=False,
        ),
    ],
    files: o.Files = None,
    ngram: Annotated[int, typer.Option(min=1, help="Words in a row that two questions must share.")] = 8,
    share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How much of the shorter question such runs must cover.")
    ] = 0.5,
    distance: Annotated[
        int, typer.Option(min=0, max=256, help="Most bits, of 256, that differ between images that look the same.")
    ] = 24,
    match: Annotated[str, typer.Option(help="What an overlap is: any, both, text or image.")] = "any",
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write every pair there, too.", show_default=False)
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Ask this model about overlaps of texts; what it tells apart stays.", show_default=False
        ),
    ] = None,
) -> int:
    """Drop the items that overlap a benchmark, by words of the question and by what images look like; name each pair."""
    from sophia_cli.decontamination.benchmark_index import Rules
    from sophia_cli.steps import decontaminate as step

    rules = Rules(ngram, share, distance, match)
    inputs = _inputs(context, files)
    return step.run(_common(context), inputs, against, rules, report, judge, _place(context))


@app.command()
@o.takes(o.writing, o.every_step)
def export(
    context: typer.Context,
    to: Annotated[
        str,
        typer.Option(
            help="trl, trl-preference, llamafactory, swift, verl, openai-batch, datasets (fit for the hub), or parquet.",
            show_default=False,
        ),
    ],
    files: o.Files = None,
    images: Annotated[
        str | None,
        typer.Option(help="path, or embed: the images themselves.", show_default="path; tables and openai-batch embed"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Whose prompts; for openai-batch, who is asked.", show_default="the paper's prompts"
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="As in propagate, for records that carry no weight.", show_default="0.75"),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="As in propagate, for records that carry no weight.", show_default="1")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="trl-preference: most pairs of an item.")] = 1,
) -> int:
    """Write the kept trajectories, or preference pairs, as other trainers read them."""
    from sophia_cli.steps import export as step

    return step.run(_common(context), _inputs(context, files), step.Asked(to, images, model, alpha, keep, pairs))


@app.command()
@o.takes(o.debugging)
def stats(
    context: typer.Context,
    files: o.Files = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by", metavar="FIELD", help="Also for each value of this field, as in --by subject.", show_default=False
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="As in propagate, for records that nobody propagated.", show_default="0.75"),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="As in propagate, for records that nobody propagated.", show_default="1")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables and bars.")] = False,
    quiet: o.Quiet = False,
) -> int:
    """Show what a data set is worth: verdicts, R(c), what is solved and selected, lengths, tokens spent, leaks, repeats."""
    from sophia_cli.steps import stats as step

    return step.run(_inputs(context, files), by or [], alpha, keep, as_json, quiet)


@app.command()
@o.takes(o.debugging)
def world(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to draw into.", show_default=False)],
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 400,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Worlds whose seeds differ modulo 7 share no scene.")] = 0,
    difficulty: Annotated[
        str, typer.Option(help="easy, medium or hard: fewer or more shapes, less or more grain.")
    ] = "medium",
    force: o.Force = False,
) -> int:
    """Draw a data set of the embedded world: images of coloured shapes, questions and answers."""
    from sophia_cli.steps import world as step

    step.draw_world(folder, n, seed, difficulty, force)
    return 0


@app.command()
@o.takes(o.debugging)
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Alias, folder or hub id of the model.", show_default=False)],
    gpus: o.Gpus = None,
    tensor_parallel: o.TensorParallel = 1,
    server_options: o.ServerOptions = "",
    start_timeout: o.StartTimeout = 1800.0,
    shared_disk: o.SharedDisk = False,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="The first server's port, the next ones follow.", show_default="free ones"),
    ] = 0,
) -> int:
    """Start vLLM servers of a model and keep them until Ctrl-C; their addresses go to stdout."""
    from sophia_cli.serving.vllm_server import Setup
    from sophia_cli.steps import serve as step

    setup = Setup(gpus, tensor_parallel, server_options, start_timeout, shared_disk, host, port)
    return step.run(model, setup)


@app.command()
@o.takes(o.debugging)
def models() -> int:
    """List the aliases: what each stands for, and where it can run."""
    from sophia_cli.steps import list_models as step

    return step.run()


def _inputs(context: typer.Context, files: list[str] | None) -> list[str]:
    """The files given, or stdin; with neither, the command's help and exit code 2."""
    if files:
        return files
    return ["-"] if not sys.stdin.isatty() else _help(context)


def _one(context: typer.Context, source: str | None) -> str:
    return source if source else _inputs(context, None)[0]


def _common(context: typer.Context) -> "Common":
    """The options that every step has, as they were given."""
    from sophia_cli.steps._runner import Common

    return Common(**{name: value for name, value in context.obj.items() if name in Common.__dataclass_fields__})


def _place(context: typer.Context) -> "Place":
    """Where the model runs: how servers are reached, and how ours are started."""
    from sophia_cli.inference.backend_options import Place
    from sophia_cli.serving.vllm_server import Setup

    given = context.obj
    setup = Setup(given["gpus"], given["tensor_parallel"], given["server_options"], given["start_timeout"])
    return Place(
        given["backend"],
        given["concurrency"],
        tuple(given["base_url"] or ()),
        given["timeout"],
        given["retries"],
        given["shared_disk"],
        setup,
    )


def _hardware(context: typer.Context) -> "Hardware":
    """What a model trains on."""
    from sophia_cli.serving.gpus import chosen
    from sophia_cli.training.launcher import Hardware

    given = context.obj
    return Hardware(chosen(given["gpus"]) if given["gpus"] else None, given["cpu_ranks"], given["hostfile"])


def _help(context: typer.Context) -> NoReturn:
    with contextlib.redirect_stdout(sys.stderr):
        print(context.get_help())
    raise SystemExit(2)


def main() -> None:
    """The entry point of `sophia`."""
    from sophia_cli.io.stdio import open_descriptors

    open_descriptors()
    typed = sys.argv[1:]
    if "LOCAL_RANK" in os.environ:  # DeepSpeed's launcher says it once more, in a word that it puts before all others
        typed = [word for word in typed if not word.startswith("--local_rank=")]
    try:
        code = app(typed, prog_name="sophia", standalone_mode=False)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        message = getattr(error, "format_message", None)  # click's usage errors, of which Typer carries a copy of its own
        if message is None:
            raise
        print(f"sophia: {' '.join(message().split())} (--help shows the options)", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)  # Typer hands back the code of an interrupt
