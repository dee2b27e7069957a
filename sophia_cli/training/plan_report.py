"""Prints the plan to stderr: rows by source, steps, memory, and the first example with its supervised text in color."""

import math
import re
from collections import defaultdict
from datetime import timedelta

from rich.table import Table
from rich.text import Text

from sophia_cli.runtime.progress import stderr_console
from sophia_cli.runtime.tables import fitted_table
from sophia_cli.training.collator import IGNORE_INDEX, Collator
from sophia_cli.training.config import has_flash_attention, has_liger, has_vllm
from sophia_cli.training.policy import parameter_counts
from sophia_cli.training.run_state import SizedExample, TrainPlan, reference_count, sequences_per_update, update_batches
from sophia_cli.training.time_estimate import EXPECTED_UTILIZATION, estimated_seconds
from sophia_cli.training.zero_stage import STAGES, bytes_needed

MAX_SHOWN_CHARS = 1200
"""Characters of the prompt, and of the answer, that are printed."""


def print_plan(plan: TrainPlan, processes: int, cuda: bool, encoder: Collator) -> None:
    """Prints the plan and its first example."""
    out = stderr_console()
    out.print(source_table(plan.rows, out.width))
    for line in plan_lines(plan, processes, cuda):
        out.print(line, soft_wrap=True)
    out.print(example_text(plan.rows[0], encoder), soft_wrap=True)


def source_table(rows: list[SizedExample], width: int) -> Table:
    """Returns a table with rows, images and tokens of each source."""
    by_source: dict[str, list[SizedExample]] = defaultdict(list)
    for sized in rows:
        by_source[sized.row.source].append(sized)
    cells = []
    for name, part in by_source.items():
        images = sum(len(sized.row.images) for sized in part)
        tokens, supervised = sum(sized.tokens for sized in part), sum(sized.supervised for sized in part)
        longest = max(sized.tokens for sized in part)
        cells.append([name, *(f"{number:,}" for number in (len(part), images, tokens, supervised, longest))])
    headings = ("source", "rows", "images", "tokens", "supervised", "longest")
    return fitted_table("", headings, cells, width, texts=("source",))


def plan_lines(plan: TrainPlan, processes: int, cuda: bool) -> list[Text]:
    """Returns lines with steps, tokens, weights, the memory they take, and the time."""
    settings = plan.config
    steps = update_batches(plan)
    tokens = sum(plan.rows[row].tokens for step in steps for row in step)
    weights, trained = parameter_counts(plan)
    found = [
        f"{len(steps):,} step{'s' * (len(steps) != 1)} of {settings.batch_size} rows, {tokens:,} tokens; "
        f"{settings.objective}, lr {settings.lr:g}",
        f"{weights:,} weights, {trained:,} of them trained; {processes} process{'es' * (processes > 1)}, "
        f"DeepSpeed {settings.deepspeed}",
    ]
    if settings.deepspeed in ("none", *STAGES):
        needed = bytes_needed(settings.deepspeed, weights, trained, processes, reference_count(plan)) / 1e9
        found.append(f"about {needed:,.2f} GB on each for weights, gradients and optimizer; activations not included")
    if cuda and plan.data_kind == "trajectories":
        flash = settings.deepspeed != "none" and has_flash_attention()
        rows = "packed" if flash and settings.sequence_parallel == 1 and settings.micro_batch_size > 1 else "padded"
        kernel = "FlashAttention" if flash else "PyTorch"
        found.append(f"rows are {rows}, attention by {kernel}; log-probabilities by {'Liger' if has_liger() else 'PyTorch'}")
    if settings.sequence_parallel > 1:
        found.append(f"the tokens of each row are shared by {settings.sequence_parallel} processes")
    if plan.data_kind == "questions":
        itself = (
            f"the model itself, {sequences_per_update(plan) // processes:,} at a time on each; their time is not included"
        )
        found.append(f"answers come from {'vLLM; their time is not included' if cuda and has_vllm() else itself}")
    if seconds := estimated_seconds(plan, weights, trained, processes, cuda):
        clock = timedelta(seconds=math.ceil(seconds))
        found.append(f"about {clock} (h:min:s) at {EXPECTED_UTILIZATION:.0%} of this machine's speed")
    return [Text(f"train: {line}") for line in found]


def example_text(sized: SizedExample, encoder: Collator) -> Text:
    """Returns the first row as the model sees it. ⟦Supervised text⟧ is green, a rejected answer red."""
    row, encoded = sized.row, encoder.encode_row(sized.row)
    mask = encoded.labels != IGNORE_INDEX
    prompt = _shorten_text(_fold_placeholders(encoder.tokenizer.decode(encoded.input_ids[~mask])))
    answer = _shorten_text(encoder.tokenizer.decode(encoded.input_ids[mask]))
    parts = [(f"train: first row, {row.name}, weight {row.weight:g}:\n", "bold"), (prompt, "dim")]
    if row.item is not None:
        parts.append((f"⟦its own answers, graded by {row.item['answer']}⟧", "green"))
    else:
        parts.append((f"⟦{answer}⟧", "green"))
    if row.rejected is not None:
        parts.append((f"\nrather than ⟦{_shorten_text(row.rejected)}⟧", "red"))
    return Text.assemble(*parts)


def _fold_placeholders(text: str) -> str:
    """Writes a repeated placeholder as `<IMG>×256`."""
    return re.sub(r"(<[^<>\s]+>)(?:\s?\1)+", lambda match: f"{match[1]}×{match[0].count(match[1])}", text)


def _shorten_text(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS // 2]} […] {text[-MAX_SHOWN_CHARS // 2 :]}"
