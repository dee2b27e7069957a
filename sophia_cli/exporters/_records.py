"""Chooses the records to export and makes an example of each."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from types import ModuleType
from typing import Any

from sophia_cli import registry
from sophia_cli.errors import RecordError
from sophia_cli.exporters._base import ExportExample, has_inner_images
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.images import data_uri, is_download, is_embedded, local_path, shorten_reference, wire_bytes
from sophia_cli.io.parquet import stored_image
from sophia_cli.io.rereadable import InputFiles, RereadableInputs
from sophia_cli.io.shards import Shard
from sophia_cli.models.aliases import resolve_model
from sophia_cli.models.thinking import to_think_tags
from sophia_cli.prompts import load_prompt, question_text
from sophia_cli.prompts.image_marks import place_images
from sophia_cli.records import Record, has_failed, image_list, need_text, record_name, where_of
from sophia_cli.rewards.preference_pairs import preference_pairs
from sophia_cli.rewards.training_set import load_weighted, selection_rule, unique_items
from sophia_cli.rewards.trajectory import SelectionRule
from sophia_cli.runtime.progress import log_line
from sophia_cli.training.examples import record_weight, system_prompt

STEP = "export"


Pair = tuple[Record, Record | None]
"""A record and, in preference data, the wrong trajectory beside it."""


@dataclass(frozen=True)
class ExportRequest:
    """The options of a run. model: whose prompts to use, and which model to ask; None uses the paper's prompts."""

    to: str
    images: str | None
    model: str | None
    alpha: float | None
    keep: int | None
    pairs: int

    @property
    def exporter(self) -> ModuleType:
        return registry.find("exporters", self.to)

    @property
    def embed(self) -> bool:
        return bool(self.exporter.EMBEDS_IMAGES) if self.images is None else self.images == "embed"


@dataclass(frozen=True)
class ReadOptions:
    """Which records to read: shard, limit, and the seed that draws pairs. quiet: log nothing."""

    shard: Shard
    limit: int | None
    seed: int
    quiet: bool


class ExampleSource:
    """The examples to export, in the order of the records."""

    def __init__(self, files: list[tuple[str, str]], asked: ExportRequest, take: ReadOptions):
        self.source, self.request, self.read_options = InputFiles(files), asked, take
        known = asked.model is not None and asked.to != "openai-batch"
        self.style = resolve_model(asked.model).prompt_style if asked.model is not None and known else "full"

    def kept_records(self, counter: RecordCounter) -> Iterator[Pair]:
        """Yields the records to export, each with its wrong trajectory or None; `counter` counts the records read or
        kept.
        """
        exporter, take = self.request.exporter, self.read_options
        if exporter.SOURCE_KIND == "pairs":
            rule = replace(selection_rule(self.request.alpha, self.request.keep) or SelectionRule(), seed=take.seed)
            lines = RereadableInputs([path for _, path in self.source.files])
            yield from islice(preference_pairs(lines, rule, self.request.pairs, take.shard, counter), take.limit)
            return
        kept = unique_items(self.source) if self.are_items else self._load_kept()
        yield from ((record, None) for record in counter.count_records(take.shard.take(kept, take.limit)))

    @cached_property
    def are_items(self) -> bool:
        """Whether items are exported instead of trajectories."""
        of = self.request.exporter.SOURCE_KIND
        return bool(
            of == "items" or (of == "any" and not any("trajectory" in record for record in self.source.read_records()))
        )

    @cached_property
    def has_inner_images(self) -> bool:
        """Whether a question has an image after some text."""
        for record in self.source.read_records():
            with suppress(RecordError):  # named when the record itself is exported
                if has_inner_images(place_images(question_text(record), image_list(record), where_of(record))):
                    return True
        return False

    def _load_kept(self) -> Iterator[Record]:
        def log(text: str) -> None:
            log_line(text, self.read_options.quiet)

        return load_weighted(
            self.source, selection_rule(self.request.alpha, self.request.keep), lambda record: None, STEP, log
        )

    def log_failures(self) -> int:
        """Logs the records that failed in an earlier step; they are not exported. Returns their number."""
        count = 0
        for record in self.source.read_records():
            if has_failed(record):
                count += 1
                log_line(f"{STEP}: {record_name(record)} skipped, it failed before: {record['error']}")
        return count

    def make_example(self, record: Record, partner: Record | None, table: bool, reads_images: bool = True) -> ExportExample:
        """Makes one example; `reads_images` says whether its images are read too.

        Raises:
            RecordError: a field is bad or an image is missing.
        """
        answer = None if self.are_items else _trajectory_of(record)
        rejected = None if partner is None else _trajectory_of(partner)
        images: list[Any] = image_list(record)
        if reads_images:
            images = [self._image_reference(record, image, table) for image in images]
        return ExportExample(
            record=record,
            name=str(record["id"]) if answer is None else record_name(record),
            system=load_prompt("slow_thinking", self.style) if answer is None else system_prompt(answer, self.style),
            content=place_images(question_text(record), images, where_of(record)),
            answer=answer,
            weight=record_weight(record) if "weight" in record else 1.0,
            rejected=rejected,
            model=self.request.model or "",
            as_parts=self.has_inner_images,
        )

    def _image_reference(self, record: Record, reference: str, table: bool) -> Any:
        """Returns an image of a record as it is exported.

        Raises:
            RecordError: the file does not exist.
        """
        reference = local_path(reference)
        if not (is_download(reference) or is_embedded(reference)):
            if not os.path.isfile(reference):
                fault = f"field `image`: {shorten_reference(reference)} cannot be read (no such file)"
                raise RecordError(f"{where_of(record)}: {fault}; fix the path or the file")
            reference = os.path.abspath(reference)
        if table:
            return stored_image(reference, self.request.embed)
        return data_uri(*wire_bytes(reference)) if self.request.embed else reference


def _trajectory_of(record: Record) -> str:
    """Returns the trajectory as `train` shows it to the model."""
    return to_think_tags(need_text(record, "trajectory", "`sophia reason` writes it"))
