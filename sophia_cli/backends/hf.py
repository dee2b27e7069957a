"""transformers in this process: batched, on one GPU or the CPU. The default of the embedded models.

Finished rows leave the batch and others join (`_hf/batch.py`). Each row draws from its own noise
(`_hf/gumbel_sampling.py`), so a sample does not depend on the batch, up to rounding: matrix products of another shape
may round the last bit differently. The embedded models compute in float64, where that bit decides nothing. On GPUs, in
bfloat16, a rare token may differ between batch sizes.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import takewhile
from typing import Any, cast

import torch
from torch.nn.functional import pad
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
)
from transformers.utils import logging as transformers_logging

from sophia_cli import registry
from sophia_cli.backends._hf import cpu_attention
from sophia_cli.backends._hf.batch import Batch, job_style
from sophia_cli.backends._hf.gumbel_sampling import LogprobRecorder, logits_processors
from sophia_cli.errors import RecordError, SophiaError
from sophia_cli.inference.backend_options import BackendOptions
from sophia_cli.inference.types import Completion, EmptyResponse, Failure, Job, Request
from sophia_cli.io.images import open_image
from sophia_cli.models.aliases import ModelRef
from sophia_cli.models.folder_check import (
    check_chat_template,
    check_model_files,
    check_tokenizer_files,
    load_error,
    load_weights,
)
from sophia_cli.models.thinking import ThinkTags, has_marks, leaves_open, to_think_tags
from sophia_cli.records import THINK_CLOSE, THINK_OPEN, check_surrogates
from sophia_cli.runtime.read_ahead import ReadAhead

TOKENS_PER_STRIDE = 40
"""Tokens between two updates of a batch, in which finished rows leave and others join."""

DEFAULT_BATCH_ROWS = 64
"""Rows of a batch, unless the model's folder or `--concurrency` says otherwise."""

JOIN_DIVISOR = 8
"""Rows join when 1/8 of the batch has left, because encoding their prompts is a forward pass."""

Outcome = tuple[Job, Completion | Failure]
PreparedRow = tuple[Job, str, list[Any]]


class Backend:
    """One model in this process; it loads with the first job."""

    def __init__(self, model: ModelRef, options: BackendOptions):
        self.model = model
        self.rows = options.concurrency or int(model.default("hf", "rows", DEFAULT_BATCH_ROWS))
        self.think_tags = options.think_tags
        self.engine: ModelRunner | None = None

    def stream(self, jobs: ReadAhead[Job]) -> Iterator[Outcome]:
        """Yields completions as they finish; those of one stride in the order of their jobs."""
        batch: Batch | None = None
        while (fresh := self._take_jobs(jobs, batch)) or batch:
            self.engine = self.engine or ModelRunner(self.model, self.think_tags)
            if fresh:
                outcomes, joining = self.engine.start_batch(fresh)
                yield from outcomes
                if batch and joining:
                    batch.join_rows(joining)
                batch = batch or joining
            if batch:
                yield from self.engine.generate_stride(batch)

    def _take_jobs(self, jobs: ReadAhead[Job], batch: Batch | None) -> list[Job]:
        """Returns jobs of one style that start now. Blocks when no row is in progress; then an empty list means the end."""
        if not batch:
            taken = jobs.take_batch(self.rows)
        elif JOIN_DIVISOR * (room := self.rows - len(batch)) >= self.rows and batch.has_room_for(room, TOKENS_PER_STRIDE):
            taken = jobs.take_batch(room, max_wait=0.0, wait=False)
        else:
            taken = []
        if not taken:
            return []
        # Temperature and top-p are settings of the whole batch, so rows of another style wait.
        style = batch.sampling_style if batch else job_style(taken[0])
        fresh = list(takewhile(lambda job: job_style(job) == style, taken))
        jobs.put_back(taken[len(fresh) :])
        return fresh

    def status(self) -> str:
        """Returns an empty text: all rows in progress are in the batch."""
        return ""

    def close(self) -> None:
        """Does nothing: the model ends with the process."""


class ModelRunner:
    """The loaded model, its tokenizer, and its processor if it sees images."""

    def __init__(self, model: ModelRef, think_tags: ThinkTags | None = None):
        self.think_tags = think_tags
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # what concerns a record is its `error`
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(int(model.default("hf", "threads", torch.get_num_threads())))
        self.small = self.device.type == "cpu" and bool(model.default("hf", "small", False))
        check_model_files(model.path)
        check_tokenizer_files(model.path)
        try:
            config = AutoConfig.from_pretrained(model.path)
            self.sees = hasattr(config, "vision_config")
            auto = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
            weights = load_weights(auto, model.name, model.path, dtype=_model_dtype(model, self.device))
            self.lm = weights.to(self.device).eval()
            if self.small:
                cpu_attention.keep_freed_memory()
                self.lm.model.get_decoder().set_attn_implementation(cpu_attention.ATTENTION_NAME)
            self.processor = load_processor(model.path, config) if self.sees else None
            self.tokenizer = self.processor.tokenizer if self.processor else AutoTokenizer.from_pretrained(model.path)
        except SophiaError:
            raise
        except Exception as error:
            raise load_error(model.name, error) from error
        check_chat_template(model.name, self.tokenizer)
        # Models that keep state of the whole batch outside the cache (Qwen-VL's rope deltas), or one whose rows cannot be
        # removed (linear attention), generate in one call.
        whole = hasattr(getattr(self.lm, "model", None), "rope_deltas")
        layers = DynamicCache(config=self.lm.config).layers
        self.shares = not whole and all(hasattr(layer, "batch_select_indices") for layer in layers)
        text_config = config.get_text_config()
        self.context = int(getattr(text_config, "max_position_embeddings", 0) or 1 << 30)
        self.tokenizer.padding_side = "left"
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        self.end_tokens = _find_end_tokens(self.lm.generation_config.eos_token_id, self.tokenizer.eos_token_id)
        # generate() takes unset parameters from here, for example a repetition penalty that was not requested
        self.lm.generation_config = GenerationConfig(eos_token_id=self.end_tokens, pad_token_id=self.pad)
        names = ("image_token", "start_image_token", "end_image_token", "video_token")
        found = [getattr(self.processor, name, None) for name in names]
        self.placeholders = [token for token in found if isinstance(token, str)]
        self.banned = _banned_tokens(self.processor, config, len(self.tokenizer), text_config.vocab_size)

    @torch.inference_mode()
    def start_batch(self, jobs: list[Job]) -> tuple[list[Outcome], Batch | None]:
        """Returns the rows of these jobs (of one style) with encoded prompts, and the outcomes of jobs that fail at once.

        A request that cannot be read, or is too long, fails alone.
        """
        outcomes: list[Outcome] = []
        ready: list[PreparedRow] = []
        # The K requests of an image arrive together: decode it once.
        open_once = lru_cache(maxsize=None)(open_image)
        for job in jobs:
            try:
                ready.append(
                    (job, self._render_prompt(job.request), [open_once(image) for image in request_images(job.request)])
                )
            except RecordError as error:
                outcomes.append((job, Failure(str(error))))
        if not ready:
            return outcomes, None
        rows, prompts = self._distinct_prompts(ready)
        try:
            inputs = self._model_inputs(prompts)
        except Exception:
            refused = self._refused_prompts(prompts)
            if not refused:
                raise
            outcomes += [(ready[row][0], Failure(refused[number])) for row, number in enumerate(rows) if number in refused]
            others, batch = self.start_batch([ready[row][0] for row, number in enumerate(rows) if number not in refused])
            return outcomes + others, batch
        lengths = [int(length) for length in inputs["attention_mask"].sum(dim=1)[rows]]
        long = {id(job): length for (job, _, _), length in zip(ready, lengths, strict=True) if length >= self.context}
        if long:
            for job in [job for job, _, _ in ready if id(job) in long]:
                trouble = f"the prompt has {long[id(job)]} tokens, the model takes {self.context}; shorten the prompt"
                outcomes.append((job, Failure(trouble)))
            others, batch = self.start_batch([job for job, _, _ in ready if id(job) not in long])
            return outcomes + others, batch
        batch = self._encode_prompts(inputs, torch.tensor(rows, device=self.device), [job for job, _, _ in ready], lengths)
        return outcomes, batch

    def _distinct_prompts(self, ready: list[PreparedRow]) -> tuple[list[int], list[PreparedRow]]:
        """Returns the prompt number of each row and the distinct prompts. The K captions of an image share one encoding."""
        # Images by identity: `open_once` returns one object for each reference.
        numbers: dict[Any, int] = {}
        rows = []
        for row, (_, text, images) in enumerate(ready):
            rows.append(numbers.setdefault((text, *map(id, images)) if self.shares else row, len(numbers)))
        return rows, [ready[rows.index(number)] for number in range(len(numbers))]

    def _refused_prompts(self, prompts: list[PreparedRow]) -> dict[int, str]:
        """Returns the prompts that the processor refuses, each with its reason. For example, Qwen's refuses images that
        are 200 times as wide as high: https://github.com/2U1/Qwen-VL-Series-Finetune/issues/133.
        """
        refused = {}
        for number, prompt in enumerate(prompts):
            try:
                self._model_inputs([prompt])
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001  (processors raise anything)
                refused[number] = f"the model's processor refuses it: {error or type(error).__name__}"
        return refused

    def _render_prompt(self, request: Request) -> str:
        if request_images(request) and not self.sees:
            raise RecordError("the model cannot see images; use a vision-language model")
        if any(token in text for token in self.placeholders for text in request_text(request)):
            raise RecordError("the text contains the model's image placeholder; remove it")
        for text in request_text(request):
            check_surrogates(text)
        try:
            return str(self.tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=False))
        except Exception as error:  # noqa: BLE001  (templates raise anything; the template itself was checked at load)
            raise RecordError(f"the model's chat template refuses it: {error or type(error).__name__}") from None

    def _model_inputs(self, prompts: list[PreparedRow]) -> dict[str, torch.Tensor]:
        """Returns the model inputs, padded on the left to one length of at least two."""
        texts, images = [text for _, text, _ in prompts], [image for _, _, shown in prompts for image in shown]
        if self.processor:
            batch = self.processor(images=images or None, text=texts, padding=True, return_tensors="pt")
        else:
            batch = self.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        # Some tokenizers return them, and decoder models refuse them.
        batch.pop("token_type_ids", None)
        if batch["input_ids"].shape[1] == 1:
            batch["input_ids"], batch["attention_mask"] = (
                pad(batch["input_ids"], (1, 0)),
                pad(batch["attention_mask"], (1, 0)),
            )
        return {name: _move_to(value, self.device, self.lm.dtype) for name, value in batch.items()}

    def _encode_prompts(
        self, inputs: dict[str, torch.Tensor], rows: torch.Tensor, jobs: list[Job], lengths: list[int]
    ) -> Batch:
        """Returns the first state of the rows: all prompt tokens but the last are encoded, once for all rows of a prompt."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        cache = cpu_attention.new_cache() if self.small else DynamicCache(config=self.lm.config)
        wanted = [job.request.sampling.max_tokens for job in jobs]
        limits = [min(most, self.context - length) for most, length in zip(wanted, lengths, strict=True)]
        extra = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        if self.shares:
            # Prompts are padded on the left: the first real token has position 0.
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            start = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1], "position_ids": positions[:, :-1]}
            self.lm(**start, past_key_values=cache, use_cache=True, logits_to_keep=1, **extra)
            # One encoded prompt becomes the rows of all its samples.
            cache.batch_select_indices(rows)
            extra = {}
        return Batch(jobs, ids[rows], mask[rows], cache, lengths, [ids.shape[1]] * len(jobs), limits, extra)

    @torch.inference_mode()
    def generate_stride(self, batch: Batch) -> list[Outcome]:
        """Generates up to TOKENS_PER_STRIDE tokens for every row. Finished rows leave the batch and are returned."""
        width = batch.width
        config = GenerationConfig(
            max_length=width
            + (
                min(TOKENS_PER_STRIDE, batch.max_tokens_left, batch.tokens_until_full(self.context))
                if self.shares
                else batch.max_tokens_left
            ),
            # Our processor adds Gumbel noise from each row's own seed; the maximum is then a sample.
            do_sample=False,
            eos_token_id=self.end_tokens,
            pad_token_id=self.pad,
            return_dict_in_generate=True,
        )
        chooser = logits_processors(
            [job.request.seed for job in batch.jobs], batch.starts, batch.sampling_style, self.banned
        )
        # Recorded before temperature and top-p: log µ is the reasoner's own.
        noting = LogprobRecorder(chooser) if batch.jobs[0].request.sampling.logprobs else None
        out = self.lm.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            past_key_values=batch.cache if self.shares else None,
            generation_config=config,
            logits_processor=LogitsProcessorList([noting]) if noting else chooser,
            **batch.extra,
        )
        batch.append_tokens(out.sequences)
        if noting:
            batch.add_logprobs(noting.columns, self.end_tokens)
        said = torch.isin(batch.ids[:, width:], torch.tensor(self.end_tokens, device=self.device)).any(dim=1).tolist()
        full = [batch.width - start >= limit for start, limit in zip(batch.starts, batch.limits, strict=True)]
        ended = [row for row in range(len(batch)) if said[row] or full[row]]
        outcomes: list[Outcome] = [(batch.jobs[row], self._make_completion(batch, row)) for row in ended]
        if ended:
            batch.keep_rows([row for row in range(len(batch)) if not (said[row] or full[row])])
        return outcomes

    def _make_completion(self, batch: Batch, row: int) -> Completion | Failure:
        """Returns the answer of a row, up to its first end token or its limit."""
        start = batch.starts[row]
        tokens = batch.ids[row, start : start + batch.limits[row]].tolist()
        stop = next((index for index, token in enumerate(tokens) if token in self.end_tokens), None)
        tokens = tokens if stop is None else tokens[: stop + 1]
        text = self._decode_text(tokens)
        if not text.startswith(THINK_OPEN) and leaves_open(self._render_prompt(batch.jobs[row].request), self.think_tags):
            text = f"{THINK_OPEN}\n{text.lstrip()}"
        if not text.strip():
            return EmptyResponse(tokens=len(tokens))
        logprob = batch.logprobs[row] if batch.jobs[row].request.sampling.logprobs else None
        return Completion(text, len(tokens), "length" if stop is None else "stop", logprob)

    def _decode_text(self, tokens: list[int]) -> str:
        """Returns the text of tokens without special tokens, except for the marks of thinking, which may be special."""
        whole = str(self.tokenizer.decode(tokens, skip_special_tokens=False))
        if not has_marks(whole, self.think_tags):
            return str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        text = to_think_tags(whole, self.think_tags)
        for token in self.tokenizer.all_special_tokens:
            if token not in (THINK_OPEN, THINK_CLOSE):
                text = text.replace(token, "")
        return text


def load_processor(path: str, config: Any) -> Any:
    """Returns the processor of a vision-language model: its family's loader, else `AutoProcessor`."""
    name = config.model_type.replace("_", "-")
    if name in registry.names("families"):
        return registry.find("families", name).load_processor(path)
    return AutoProcessor.from_pretrained(path)


def request_text(request: Request) -> list[str]:
    """Returns the texts of a request's messages."""
    texts = []
    for message in request.messages:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    return texts


def request_images(request: Request) -> list[str]:
    """Returns the images of a request's messages, in order."""
    contents = [message["content"] for message in request.messages if isinstance(message["content"], list)]
    return [part["image"] for parts in contents for part in parts if part["type"] == "image"]


def _model_dtype(model: ModelRef, device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return cast(torch.dtype, getattr(torch, model.default("hf", "dtype", "float32")))
    return torch.bfloat16


def _move_to(value: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _find_end_tokens(*given: int | list[int] | None) -> list[int]:
    found = [token for part in given if part is not None for token in ([part] if isinstance(part, int) else part)]
    return sorted(set(found))


def _banned_tokens(processor: Any, config: Any, known: int, table: int) -> list[int]:
    names = ("image_token_id", "video_token_id", "image_token_index", "start_image_token_id", "end_image_token_id")
    ids = [getattr(owner, name, None) for owner in (processor, config) for name in names if owner is not None]
    # Ids beyond the tokenizer's are padding of the embedding table and decode to nothing.
    return sorted({token for token in ids if isinstance(token, int)} | set(range(known, table)))
