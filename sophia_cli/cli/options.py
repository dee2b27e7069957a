"""The options that several commands share, each declared once, and the decorator that adds them to a command."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

# Records, manifests and libraries hold integers of 64 bits.
MAX_INTEGER = (1 << 63) - 1
BASICS, MODEL, SAMPLING = "Every step", "Where the model runs", "Sampling"
WEIGHTS, HARDWARE = "What trains", "Where it trains"

Files = Annotated[
    list[str] | None,
    Argument(metavar="[FILE…]", help="JSONL files (.gz, .zst); none or - is stdin.", show_default=False),
]
Source = Annotated[
    str | None,
    Argument(
        metavar="SOURCE",
        help="ImageFolder, .jsonl, .parquet, datasets folder, or hf:org/name[:config]@split.",
        show_default=False,
    ),
]

Out = Annotated[
    Path | None,
    Option("--out", "-o", help="Write to this file instead of stdout; a second run resumes it.", rich_help_panel=BASICS),
]
Tee = Annotated[
    Path | None,
    Option("--tee", help="Write to this file and to stdout; a second run replays and resumes it.", rich_help_panel=BASICS),
]
AlphaOfUnweighted = Annotated[
    float | None,
    Option("--alpha", min=0.0, max=1.0, help="As in `propagate`, for records without weights.", show_default="0.75"),
]
KeepOfUnweighted = Annotated[
    int | None, Option("--keep", min=1, help="As in `propagate`, for records without weights.", show_default="1")
]
Seed = Annotated[int, Option("--seed", help="Same seed, same records.", rich_help_panel=BASICS)]
Limit = Annotated[
    int | None,
    Option("--limit", min=1, help="Stop after this many input records (`propagate`: items).", rich_help_panel=BASICS),
]
ShardOption = Annotated[
    str | None,
    Option(
        "--shard",
        metavar="I/N",
        help="Take every N-th input record (`propagate`: item), starting with the I-th (0 to N-1).",
        rich_help_panel=BASICS,
    ),
]
DryRun = Annotated[
    bool,
    Option(
        "--dry-run",
        help="Show the plan and, where a model is asked, the first full request; then stop.",
        rich_help_panel=BASICS,
    ),
]
Quiet = Annotated[bool, Option("--quiet", help="Only errors on stderr.", rich_help_panel=BASICS)]
Debug = Annotated[bool, Option("--debug", help="Show the traceback of an error.", rich_help_panel=BASICS)]
Force = Annotated[bool, Option("--force", help="Overwrite an existing output.", rich_help_panel=BASICS)]

Backend = Annotated[
    str | None,
    Option(
        "--backend",
        help="hf: transformers in this process. vllm: starts vLLM servers. openai: running servers (--base-url).",
        show_default="hf for embedded models or without a GPU, else vllm; openai with --base-url",
        rich_help_panel=MODEL,
    ),
]
Concurrency = Annotated[
    int | None,
    Option(
        "--concurrency",
        min=1,
        help="Samples in flight (hf: rows of a batch).",
        show_default="64; embedded models 256; 256 per server",
        rich_help_panel=MODEL,
    ),
]
BaseUrl = Annotated[
    list[str] | None,
    Option(
        "--base-url",
        metavar="URL",
        help="An OpenAI-compatible server, like http://127.0.0.1:8000/v1; repeat it for a fleet.",
        show_default="$OPENAI_BASE_URL",
        rich_help_panel=MODEL,
    ),
]
Timeout = Annotated[
    float | None,
    Option(
        "--timeout",
        min=0.01,
        metavar="SECONDS",
        help="Request timeout in seconds.",
        show_default="2 minutes plus 0.2 s per token of --max-tokens",
        rich_help_panel=MODEL,
    ),
]
Retries = Annotated[int, Option("--retries", min=0, help="Maximum retries per request.", rich_help_panel=MODEL)]
SharedDisk = Annotated[
    bool, Option("--shared-disk", help="The servers can read this disk: send the paths of images.", rich_help_panel=MODEL)
]
ThinkTagsOption = Annotated[
    tuple[str, str] | None,
    Option(
        "--think-tags",
        metavar="OPEN CLOSE",
        help="How the model marks its thinking, if not in a known way (docs/data.md); records store <think> tags.",
        show_default="known tags",
        rich_help_panel=MODEL,
    ),
]
Gpus = Annotated[
    str | None,
    Option(
        "--gpus",
        metavar="LIST",
        help="vllm: the GPUs to use, like 0-3 or 0,2.",
        show_default="all visible",
        rich_help_panel=MODEL,
    ),
]
TensorParallel = Annotated[
    int,
    Option("--tensor-parallel", min=1, help="vllm: GPUs per server.", rich_help_panel=MODEL),
]
ServerOptions = Annotated[
    str,
    Option(
        "--server-options",
        metavar="TEXT",
        help='vllm: more vLLM options, like "--max-model-len 32768".',
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
StartTimeout = Annotated[
    float,
    Option("--start-timeout", min=0.01, help="vllm: seconds until its servers must be ready.", rich_help_panel=MODEL),
]
Policy = Annotated[
    str, Option("--model", "-m", help="Alias, folder or hub id of the vision-language model.", rich_help_panel=MODEL)
]
Temperature = Annotated[float, Option("--temperature", min=0.0, help="0 is greedy.", rich_help_panel=SAMPLING)]
TopP = Annotated[
    float,
    Option(
        "--top-p",
        min=0.0,
        max=1.0,
        help="Sample from the most likely tokens with this total probability.",
        rich_help_panel=SAMPLING,
    ),
]
Prompt = Annotated[Path | None, Option("--prompt", help="A text file that replaces the prompt.", rich_help_panel=SAMPLING)]

Trained = Annotated[
    str, Option("--model", "-m", help="Alias, folder or hub id of the vision-language model.", rich_help_panel=WEIGHTS)
]
LoraRank = Annotated[
    int,
    Option("--lora-rank", min=0, help="Train LoRA adapters of this rank; 0 trains all weights.", rich_help_panel=WEIGHTS),
]
MergeLora = Annotated[
    bool, Option("--merge-lora", help="Merge the adapters and save a whole model.", rich_help_panel=WEIGHTS)
]
TrainVision = Annotated[bool, Option("--train-vision", help="Also train the vision tower.", rich_help_panel=WEIGHTS)]
TrainProjector = Annotated[bool, Option("--train-projector", help="Also train the projector.", rich_help_panel=WEIGHTS)]

DeepSpeed = Annotated[
    str,
    Option("--deepspeed", help="zero1, zero2, zero3, zero3-offload, a JSON file, none, or auto.", rich_help_panel=HARDWARE),
]
SequenceParallel = Annotated[
    int,
    Option(
        "--sequence-parallel",
        min=1,
        metavar="N",
        help="Split the tokens of each row over N processes (Ulysses), for rows that do not fit on one GPU.",
        rich_help_panel=HARDWARE,
    ),
]
TrainingGpus = Annotated[
    str | None,
    Option(
        "--gpus",
        metavar="LIST",
        help="The GPUs to use, like 0-3 or 0,2.",
        show_default="all visible",
        rich_help_panel=HARDWARE,
    ),
]
CpuRanks = Annotated[
    int | None, Option("--cpu-ranks", min=1, help="Train in this many processes on CPUs.", rich_help_panel=HARDWARE)
]
Hostfile = Annotated[
    Path | None,
    Option(
        "--hostfile",
        help="Train on these machines: lines of `name slots=8`.",
        show_default=False,
        rich_help_panel=HARDWARE,
    ),
]


def where_a_model_runs(
    backend: Backend = None,
    concurrency: Concurrency = None,
    base_url: BaseUrl = None,
    timeout: Timeout = None,
    retries: Retries = 8,
    shared_disk: SharedDisk = False,
    think_tags: ThinkTagsOption = None,
    gpus: Gpus = None,
    tensor_parallel: TensorParallel = 1,
    server_options: ServerOptions = "",
    start_timeout: StartTimeout = 1800.0,
) -> None:
    """Options of the commands that run a model."""


def what_trains(
    lora_rank: LoraRank = 0,
    merge_lora: MergeLora = False,
    train_vision: TrainVision = False,
    train_projector: TrainProjector = False,
) -> None:
    """Options of `train`: which weights."""


def where_it_trains(
    deepspeed: DeepSpeed = "auto",
    sequence_parallel: SequenceParallel = 1,
    gpus: TrainingGpus = None,
    cpu_ranks: CpuRanks = None,
    hostfile: Hostfile = None,
) -> None:
    """Options of `train`: on which hardware."""


def writing(out: Out = None, tee: Tee = None) -> None:
    """Options of the commands that write records."""


def every_step(
    seed: Seed = 0,
    limit: Limit = None,
    shard: ShardOption = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
    force: Force = False,
) -> None:
    """Options of the commands that read records."""


def debugging(debug: Debug = False) -> None:
    """Options of all commands."""


def takes(*groups: Callable[..., None]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Adds the options of these groups to a command, which returns its exit code.

    The command is called with its own options only; `context.obj` holds all of them.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        own, shared = inspect.signature(command), map(inspect.signature, groups)
        taken = [*own.parameters.values(), *(option for group in shared for option in group.parameters.values())]

        @functools.wraps(command)
        def run(**given: Any) -> int:
            from sophia_cli.cli.run import run

            def work() -> int:
                refuse_odd_numbers(given)
                return command(**{name: given[name] for name in own.parameters})

            if "context" in given:
                given["context"].obj = given
            return run(work, given["debug"])

        run.__signature__ = own.replace(parameters=taken, return_annotation=int)  # type: ignore[attr-defined]
        run.__annotations__ = {option.name: option.annotation for option in taken}
        return run

    return decorate


def refuse_odd_numbers(given: Mapping[str, Any]) -> None:
    """Checks that numbers are finite, because min and max do not reject NaN, and fit into 64 bits.

    Raises:
        UsageError: one is not.
    """
    from sophia_cli.errors import UsageError

    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be a finite number")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be at most {MAX_INTEGER}")
