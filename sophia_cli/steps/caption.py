"""Step 1, on-policy: the policy samples K descriptions of each image, c ~ π_θ(· | x_d, I) (method.md, step 1).

The prompt x_d never contains the question. With it, the captioner would answer the question, and the caption's reward
could be hacked.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sophia_cli.errors import InputError, RecordError
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.inference.sampler import sample_records, show_plan
from sophia_cli.inference.types import Backend, Completion, Job, Request, SamplingParams
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.paths import input_names
from sophia_cli.io.record_writer import RecordWriter
from sophia_cli.models.thinking import answer_of
from sophia_cli.prompts import chosen_prompt
from sophia_cli.records import STEP_FIELDS, Record, caption_id, error_record, has_failed, image_list, sample_seed, where_of
from sophia_cli.sources.items import count_items, read_items
from sophia_cli.steps._common import StepOptions
from sophia_cli.steps._runner import run_step

STEP, ID_FIELD = "caption", "caption_id"
DEFAULT_MAX_TOKENS = 32768
"""The paper's longest caption, in tokens."""


def run(
    options: StepOptions,
    source: str,
    model: str,
    k: int,
    sampling: SamplingParams,
    prompt_file: Path | None,
    backend_options: BackendOptions,
) -> int:
    """`sophia caption`: reads the source, samples with the model, writes records. Returns the exit code."""
    chosen = backend_options.resolve_model(model)
    backend = backend_options.make_backend(chosen)
    sampling = sampling.with_defaults(chosen, STEP, DEFAULT_MAX_TOKENS)
    prompt = chosen_prompt(prompt_file, STEP, chosen.prompt_style)
    items = options.parsed_shard.take(read_items(source), options.limit)
    if options.dry_run:
        return show_plan(
            STEP,
            _make_jobs(items, prompt, k, sampling, options.seed, RecordWriter(ID_FIELD, None)),
            chosen,
            sampling,
            {"K": k},
        )
    settings = {
        **chosen.identity,
        **backend_options.manifest_settings(),
        "prompt": prompt,
        "k": k,
        **sampling.manifest_settings(),
    }

    def produce(output: RecordWriter, counter: RecordCounter) -> Iterator[Record]:
        return sample_captions(counter.count_records(items), backend, model, prompt, k, sampling, options.seed, output)

    return run_step(
        STEP,
        ID_FIELD,
        options,
        settings,
        produce,
        inputs=input_names(source, prompt_file),
        total=options.expected_records(count_items(source), k),
        tokens_field="caption_tokens",
        backend=backend,
    )


def sample_captions(
    items: Iterable[Record],
    backend: Backend,
    model: str,
    prompt: str,
    k: int,
    sampling: SamplingParams,
    seed: int,
    output: RecordWriter,
) -> Iterator[Record]:
    """Yields K records per item, each with one caption; skips those that `output` has finished."""

    def finish(job: Job, completion: Completion) -> Record:
        # A reasoner must not read what the captioner thought: often it holds an answer.
        caption = (answer_of(completion.text) or "").strip()
        if not caption:
            remedy = "raise --max-tokens" if completion.finish_reason == "length" else "use another prompt or model"
            return error_record(job.record, f"the response is only thinking, without a description; {remedy}", job.ids)
        fields = {
            **job.ids,
            "caption": completion.text if caption == completion.text.strip() else caption,
            "caption_model": model,
            "caption_tokens": completion.tokens,
            "caption_finish": completion.finish_reason,
        }
        return Record({**job.record, **fields}, where_of(job.record))

    return sample_records(_make_jobs(items, prompt, k, sampling, seed, output), backend, finish)


def _make_jobs(
    items: Iterable[Record], prompt: str, k: int, sampling: SamplingParams, seed: int, output: RecordWriter
) -> Iterator[Job | Record]:
    for item in items:
        if taken := [field for field in STEP_FIELDS[STEP] if field in item]:
            remedy = "these are captions already; give the items, or rename the column"
            raise InputError(f"{where_of(item)}: field `{taken[0]}` is written by this step; {remedy}")
        try:
            if has_failed(item):
                raise RecordError(item["error"])
            messages = description_request(item, prompt)
        except RecordError as error:
            yield from (error_record(item, str(error), _record_ids(item, number, k)) for number in range(k))
            continue
        for number in range(k):
            ids = _record_ids(item, number, k)
            if not output.skip_finished(ids["caption_id"]):
                yield Job(item, ids, Request(messages, sampling, sample_seed(seed, item["id"], number)))


def _record_ids(item: Record, number: int, k: int) -> dict[str, Any]:
    return {"caption_id": caption_id(item["id"], number), "caption_count": k}


def description_request(item: Record, prompt: str) -> list[dict[str, Any]]:
    """Returns the chat that asks for a caption: the item's images and the prompt, nothing else.

    Raises:
        RecordError: the item has no image.
    """
    images = image_list(item)
    if not images:
        hint = "; `file_name` is there: give the folder instead of its metadata" if "file_name" in item else ""
        raise RecordError(f"{where_of(item)}: field `image` is missing; a caption needs an image{hint}")
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": prompt}]
    return [{"role": "user", "content": content}]
