"""transformers in this process: batched, on one GPU or the CPU. The embedded models' default.

Every row of a batch draws from its own noise: the logits are perturbed with Gumbel noise that is a function of the row's
seed, the position and the token alone, and the largest wins (the Gumbel-max trick; equal in law to sampling). So a sample
does not depend on its company, up to the engine's rounding: matrix products of another shape may round the last bit
otherwise. The embedded models compute in float64, where that bit decides nothing; on GPUs, in bfloat16, a rare token may
differ between batch sizes. Left out on purpose: new rows do not join a running batch (servers do that better).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging as transformers_logging

from sophia_cli import registry
from sophia_cli.aliases import Model
from sophia_cli.arrivals import Arrivals
from sophia_cli.backends import _cpu
from sophia_cli.errors import RecordError, SophiaError
from sophia_cli.images import open_image
from sophia_cli.place import Place
from sophia_cli.records import THINK_OPEN
from sophia_cli.sampling import Completion, Failure, Job, Request, Sampling

STRIDE = 40
"""Tokens between two looks at a batch: rows that have ended leave it, so that it does not wait in full for its longest."""

ROWS = 64
"""Rows of a batch, unless the model's folder or `--concurrency` says otherwise."""


class Backend:
    """One model in this process; loaded when the first job arrives."""

    def __init__(self, model: Model, place: Place):
        self.model = model
        self.rows = place.concurrency or int(model.default("hf", "rows", ROWS))
        self.engine: Engine | None = None

    def stream(self, jobs: Arrivals[Job]) -> Iterator[tuple[Job, Completion | Failure]]:
        """Completions in the order of the jobs."""
        while batch := jobs.take(self.rows):
            self.engine = self.engine or Engine(self.model)
            yield from zip(batch, self.engine.complete([job.request for job in batch]), strict=True)

    def status(self) -> str:
        """Nothing: a batch is written when it is done."""
        return ""

    def close(self) -> None:
        """Nothing: the model ends with the process."""


class Engine:
    """The loaded model, its tokenizer, and its processor if it sees images."""

    def __init__(self, model: Model):
        transformers_logging.disable_progress_bar()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(int(model.default("hf", "threads", torch.get_num_threads())))
        self.small = self.device.type == "cpu" and bool(model.default("hf", "small", False))
        try:
            config = AutoConfig.from_pretrained(model.path)
            self.sees = hasattr(config, "vision_config")
            auto = AutoModelForImageTextToText if self.sees else AutoModelForCausalLM
            self.lm = auto.from_pretrained(model.path, dtype=_dtype(model, self.device)).to(self.device).eval()
            if self.small:
                _cpu.keep_memory()
                self.lm.model.get_decoder().set_attn_implementation(_cpu.ATTENTION)
            self.processor = load_processor(model.path, config) if self.sees else None
            self.tokenizer = self.processor.tokenizer if self.processor else AutoTokenizer.from_pretrained(model.path)
        except (OSError, ValueError) as error:
            raise SophiaError(
                f"{model.name}: cannot be loaded ({str(error)[:300]}); check the name, the network or HF_HUB_OFFLINE"
            ) from None
        # Models that keep state of the whole batch outside the cache (Qwen-VL's rope deltas) generate in one go.
        self.shares = not hasattr(getattr(self.lm, "model", None), "rope_deltas")
        text_config = config.get_text_config()
        self.context = int(getattr(text_config, "max_position_embeddings", 0) or 1 << 30)
        self.tokenizer.padding_side = "left"
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        self.ends = _end_tokens(self.lm.generation_config.eos_token_id, self.tokenizer.eos_token_id)
        names = ("image_token", "start_image_token", "end_image_token", "video_token")
        found = [getattr(self.processor, name, None) for name in names]
        self.placeholders = [token for token in found if isinstance(token, str)]
        self.banned = _never_said(self.processor, config, len(self.tokenizer), text_config.vocab_size)

    def complete(self, requests: list[Request]) -> list[Completion | Failure]:
        """The completions of one batch, in order. Requests that cannot be read fail alone."""
        outcomes: dict[int, Completion | Failure] = {}
        ready: list[tuple[int, str, list[Any]]] = []
        open_once = lru_cache(maxsize=None)(open_image)
        for index, request in enumerate(requests):
            try:
                ready.append((index, self._render(request), [open_once(image) for image in images_of(request)]))
            except RecordError as error:
                outcomes[index] = Failure(str(error))
        for style in dict.fromkeys(_style(requests[index]) for index, _, _ in ready):
            part = [row for row in ready if _style(requests[row[0]]) == style]
            asked = [requests[index] for index, _, _ in part]
            completions = self._generate([text for _, text, _ in part], [images for _, _, images in part], asked)
            outcomes.update(zip((index for index, _, _ in part), completions, strict=True))
        return [outcomes[index] for index in range(len(requests))]

    def _render(self, request: Request) -> str:
        if images_of(request) and not self.sees:
            raise RecordError("the model does not see images; give --model one that does")
        if any(token in text for token in self.placeholders for text in texts_of(request)):
            raise RecordError("the text holds an image placeholder of the model; take it out")
        return str(self.tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=False))

    @torch.inference_mode()
    def _generate(self, texts: list[str], images: list[list[Any]], requests: list[Request]) -> list[Completion | Failure]:
        """One completion a row, all of one temperature and top-p, each up to its own `max_tokens`.

        Rows of one prompt (the K captions of an image, say) share its encoding.
        """
        prompts: dict[Any, int] = {}
        keys = [
            (text, *map(id, shown)) if self.shares else row
            for row, (text, shown) in enumerate(zip(texts, images, strict=True))
        ]
        rows = [prompts.setdefault(key, len(prompts)) for key in keys]
        first = [rows.index(number) for number in range(len(prompts))]
        inputs = self._inputs([texts[row] for row in first], [images[row] for row in first])
        length = inputs["input_ids"].shape[1]
        if length >= self.context:
            if len(first) == 1:
                return [Failure(f"the prompt has {length} tokens, the model takes {self.context}; shorten it")] * len(rows)
            return [self._generate([t], [i], [r])[0] for t, i, r in zip(texts, images, requests, strict=True)]
        answers = self._decode(inputs, rows, requests)
        return [self._completion(answer, text) for answer, text in zip(answers, texts, strict=True)]

    def _inputs(self, texts: list[str], images: list[list[Any]]) -> dict[str, torch.Tensor]:
        flat = [image for row in images for image in row]
        if self.processor:
            batch = self.processor(images=flat or None, text=texts, padding=True, return_tensors="pt")
        else:
            batch = self.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        batch.pop("token_type_ids", None)
        return {name: _to(value, self.device, self.lm.dtype) for name, value in batch.items()}

    def _decode(self, inputs: dict[str, torch.Tensor], rows: list[int], requests: list[Request]) -> list[list[int]]:
        """Token ids of each row's answer, its end token included if it came. `rows`: each answer's row of `inputs`."""
        prompt = inputs["input_ids"].shape[1]
        longest = torch.tensor([min(request.sampling.max_tokens, self.context - prompt) for request in requests])
        answers: list[list[int]] = [[] for _ in requests]
        alive, index = list(range(len(requests))), torch.tensor(rows, device=self.device)
        ids, mask, cache, extra = self._encode(inputs, index)
        while alive:
            limit = prompt + int(longest[alive].max())
            config = GenerationConfig(
                max_length=min(ids.shape[1] + STRIDE, limit) if self.shares else limit,
                do_sample=False,
                eos_token_id=self.ends,
                pad_token_id=self.pad,
                return_dict_in_generate=True,
            )
            chooser = _choosers([requests[row].seed for row in alive], prompt, requests[0].sampling, self.banned)
            out = self.lm.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=config,
                logits_processor=chooser,
                **extra,
            )
            ids, cache, extra = out.sequences, out.past_key_values, {}
            ended = _ended(ids[:, prompt:], self.ends) | (longest[alive].to(self.device) <= ids.shape[1] - prompt)
            for row, tokens in zip(alive, ids[:, prompt:].tolist(), strict=True):
                answers[row] = tokens
            keep = (~ended).nonzero().flatten()
            mask = torch.cat([mask, mask.new_ones(len(alive), ids.shape[1] - mask.shape[1])], dim=1)
            alive, ids, mask = [alive[i] for i in keep.tolist()], ids[keep], mask[keep]
            if alive and len(alive) < len(ended):
                cache.batch_select_indices(keep)
        return [_cut(answer[:most], self.ends) for answer, most in zip(answers, longest.tolist(), strict=True)]

    def _encode(self, inputs: dict[str, torch.Tensor], index: torch.Tensor) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Ids, mask and cache of each answer: all of the prompt but its last token is encoded, once for all its answers."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        extra = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        if not self.shares:
            return ids, mask, None, extra
        cache = _cpu.new_cache() if self.small else DynamicCache(config=self.lm.config)
        if ids.shape[1] > 1:
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            start = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1], "position_ids": positions[:, :-1]}
            self.lm(**start, past_key_values=cache, use_cache=True, logits_to_keep=1, **extra)
            cache.batch_select_indices(index)
        return ids[index], mask[index], cache, {}

    def _completion(self, tokens: list[int], prompt: str) -> Completion:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        if prompt.rstrip().endswith(THINK_OPEN):  # the template opened it (QwQ, R1)
            text = f"{THINK_OPEN}\n{text.lstrip()}"
        return Completion(text, len(tokens), "stop" if tokens and tokens[-1] in self.ends else "length")


class GumbelNoise(LogitsProcessor):
    """Adds to each logit the Gumbel noise of (row's seed, position in the answer, token). Shapes: scores B x V."""

    def __init__(self, seeds: list[int], prompt_length: int):
        self.seeds, self.prompt_length = torch.tensor(seeds, dtype=torch.int64), prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position = input_ids.shape[1] - self.prompt_length
        rows = mix(self.seeds.to(scores.device) ^ mix(torch.tensor(position + 1, device=scores.device)))
        words = mix(torch.arange(scores.shape[1], device=scores.device))
        bits = mix(rows[:, None] ^ words[None, :])
        uniform = ((bits >> 11) & ((1 << 53) - 1)).double().add_(0.5).mul_(2.0**-53)
        return scores.double() - torch.log(-torch.log(uniform))


def mix(bits: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser on int64 tensors: a bijection that scatters neighbours (Steele et al., OOPSLA 2014)."""
    bits = bits + -7046029254386353131
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


class NeverSaid(LogitsProcessor):
    """Bars tokens that would break what comes after: image placeholders, and rows of the table that stand for no token."""

    def __init__(self, banned: list[int]):
        self.banned = banned

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, torch.tensor(self.banned, device=scores.device), -torch.inf)


def _choosers(seeds: list[int], prompt: int, sampling: Sampling, banned: list[int]) -> LogitsProcessorList:
    steps: list[LogitsProcessor] = [NeverSaid(banned)] if banned else []
    if sampling.temperature > 0:
        steps.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_p < 1:
            steps.append(TopPLogitsWarper(float(sampling.top_p)))
        steps.append(GumbelNoise(seeds, prompt))
    return LogitsProcessorList(steps)


def load_processor(path: str, config: Any) -> Any:
    """The processor of a vision-language model: its family's own loader, else transformers' `AutoProcessor`."""
    name = config.model_type.replace("_", "-")
    if name in registry.names("families"):
        return registry.find("families", name).load_processor(path)
    return AutoProcessor.from_pretrained(path)


def texts_of(request: Request) -> list[str]:
    """The texts of a request's messages."""
    texts = []
    for message in request.messages:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    return texts


def images_of(request: Request) -> list[str]:
    """The images of a request's messages, in order."""
    contents = [message["content"] for message in request.messages if isinstance(message["content"], list)]
    return [part["image"] for parts in contents for part in parts if part["type"] == "image"]


def _style(request: Request) -> tuple[float, float]:
    """What the rows of one batch have in common."""
    return request.sampling.temperature, request.sampling.top_p


def _dtype(model: Model, device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return cast(torch.dtype, getattr(torch, model.default("hf", "dtype", "float32")))
    return torch.bfloat16


def _to(value: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _end_tokens(*given: int | list[int] | None) -> list[int]:
    found = [token for part in given if part is not None for token in ([part] if isinstance(part, int) else part)]
    return sorted(set(found))


def _never_said(processor: Any, config: Any, known: int, table: int) -> list[int]:
    names = ("image_token_id", "video_token_id", "image_token_index", "start_image_token_id", "end_image_token_id")
    ids = [getattr(owner, name, None) for owner in (processor, config) for name in names if owner is not None]
    return sorted({token for token in ids if isinstance(token, int)} | set(range(known, table)))


def _ended(answers: torch.Tensor, ends: list[int]) -> torch.Tensor:
    return torch.isin(answers, torch.tensor(ends, device=answers.device)).any(dim=1)


def _cut(answer: list[int], ends: list[int]) -> list[int]:
    """The answer up to its first end token, padding left out."""
    stop = next((index for index, token in enumerate(answer) if token in ends), None)
    return answer if stop is None else answer[: stop + 1]
