"""Trajectories as others read them: `sophia export FILE --to trl|trl-preference|llamafactory|swift|verl|…`.

What goes out: the records with a weight, or, where nobody propagated, those that Eq. 6 keeps; for preference data, pairs of
graded ones. The caption is not part of what is asked (Eq. 7). An exporter is one file of `exporters/`.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sophia_cli import registry
from sophia_cli.errors import SOME_FAILED, InputError, RecordError, SophiaError, UsageError
from sophia_cli.exporters._base import Example
from sophia_cli.io.counter import Counter
from sophia_cli.io.images import data_uri, image_bytes, image_file, kind_of, shorten
from sophia_cli.io.jsonl import read_records, to_line
from sophia_cli.io.manifest import SUFFIX, Manifest
from sophia_cli.io.parquet import card, cells, stored, types_of, writable, write, write_folder
from sophia_cli.io.paths import refuse_input_as_output
from sophia_cli.io.record_writer import Output
from sophia_cli.io.rereadable import InputFiles, Lines, holding, rereadable
from sophia_cli.models.aliases import resolve
from sophia_cli.prompts import load_prompt, question_text
from sophia_cli.records import Record, failed, has_failed, image_list, name_of, need_text, where_of
from sophia_cli.rewards.preference_pairs import preference_pairs
from sophia_cli.rewards.training_set import each_item, rule_of, weighted
from sophia_cli.rewards.trajectory import Rule
from sophia_cli.runtime.progress import Progress, notice
from sophia_cli.steps._common import Common
from sophia_cli.steps._runner import run_step
from sophia_cli.training.examples import system_for, weight_of

STEP = "export"
IMAGES = ("path", "embed")
Pair = tuple[Record, Record | None]
"""A record, and in preference data the wrong trajectory beside it."""


@dataclass(frozen=True)
class Asked:
    """What the user asked for. model: whose prompts, and who is asked; None: the paper's prompts."""

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
        return bool(self.exporter.EMBED) if self.images is None else self.images == "embed"


def run(common: Common, files: list[str], asked: Asked) -> int:
    """`sophia export`: reads records, writes what others read. Returns the exit code."""
    exporter = asked.exporter
    if asked.images is not None and asked.images not in IMAGES:
        raise UsageError(f"--images {asked.images}: choose from {', '.join(IMAGES)}")
    if asked.images == "path" and not getattr(exporter, "BY_PATH", True):
        raise UsageError(f"--to {asked.to}: its readers open images out of the file alone; leave --images path out")
    if asked.to == "openai-batch" and asked.model is None:
        raise UsageError("--to openai-batch: name who is asked with --model, as the provider does")
    if exporter.FORM != "lines" and common.out is None:
        raise UsageError(f"--to {asked.to}: say where to with -o; it is no stream of lines")
    if exporter.FORM != "lines":
        _refuse_to_replace(common, files)
    with tempfile.TemporaryDirectory(prefix="sophia-") as folder:
        make = Examples(rereadable(files, folder), asked, common)
        if common.dry_run:
            return _show_plan(make, exporter)
        if exporter.FORM == "lines":
            return _lines(make, common, asked, files)
        return _whole(make, common, asked, Path(folder))


class Examples:
    """The examples to export, in the order of the records."""

    def __init__(self, files: list[tuple[str, str]], asked: Asked, common: Common):
        self.source, self.asked, self.common = InputFiles(files), asked, common
        known = asked.model is not None and asked.to != "openai-batch"
        self.style = resolve(asked.model).prompts if asked.model is not None and known else "full"

    def records(self, counter: Counter) -> Iterator[Pair]:
        """The records that go out, each with its fellow; `counter` counts the records read or kept."""
        exporter, common = self.asked.exporter, self.common
        if exporter.OF == "pairs":
            rule = replace(rule_of(self.asked.alpha, self.asked.keep) or Rule(), seed=common.seed)
            lines = Lines([path for _, path in self.source.files])
            yield from islice(preference_pairs(lines, rule, self.asked.pairs, common.part, counter), common.limit)
            return
        kept = each_item(self.source) if self.are_items else self._kept()
        yield from ((record, None) for record in counter.over(common.part.take(kept, common.limit)))

    @cached_property
    def are_items(self) -> bool:
        """Whether items go out, not trajectories."""
        of = self.asked.exporter.OF
        return bool(of == "items" or (of == "any" and not any("trajectory" in record for record in self.source.records())))

    def _kept(self) -> Iterator[Record]:
        def tell(text: str) -> None:
            notice(text, self.common.quiet)

        return weighted(self.source, rule_of(self.asked.alpha, self.asked.keep), lambda record: None, STEP, tell)

    def name_failures(self) -> int:
        """Names the records on which an earlier step failed, none of which goes out; returns how many."""
        count = 0
        for record in self.source.records():
            if has_failed(record):
                count += 1
                notice(f"{STEP}: {name_of(record)} left out, it failed before: {record['error']}")
        return count

    def example(self, record: Record, fellow: Record | None, table: bool, look: bool = True) -> Example:
        """One example. look: read its images, too. Raises RecordError."""
        answer = None if self.are_items else need_text(record, "trajectory", "`sophia reason` writes it")
        rejected = need_text(fellow, "trajectory", "`sophia reason` writes it") if fellow is not None else None
        return Example(
            record=record,
            name=str(record["id"]) if answer is None else name_of(record),
            system=load_prompt("slow_thinking", self.style) if answer is None else system_for(answer, self.style),
            user=question_text(record),
            images=[self._image(record, image, table) for image in image_list(record)] if look else [],
            answer=answer,
            weight=weight_of(record) if "weight" in record else 1.0,
            rejected=rejected,
            model=self.asked.model or "",
        )

    def _image(self, record: Record, reference: str, table: bool) -> Any:
        """An image of a record as it goes out. Raises RecordError when it is not there."""
        if reference.startswith("file://"):
            reference = url2pathname(urlsplit(reference).path)
        if not reference.startswith(("http://", "https://", "data:")):
            if not os.path.isfile(reference):
                fault = f"field `image`: {shorten(reference)} cannot be read (no such file)"
                raise RecordError(f"{where_of(record)}: {fault}; mend the path or the file")
            reference = os.path.abspath(reference)
        if table:
            return stored(reference, self.asked.embed)
        return data_uri(image_file(reference)) if self.asked.embed and not reference.startswith("data:") else reference


def _lines(make: Examples, common: Common, asked: Asked, files: list[str]) -> int:
    """JSONL, to stdout or a file."""

    def produce(output: Output, counter: Counter) -> Iterator[Record]:
        for record, fellow in make.records(counter):
            try:
                yield Record(writable(asked.exporter.fields(make.example(record, fellow, table=False))))
            except RecordError as error:
                output.name_failure(failed(record, str(error), {}))
        output.failed += make.name_failures()
        if not output.written:
            notice("export: nothing went out; look at --alpha, or at what `sophia stats` says", common.quiet)

    return run_step(STEP, "id", common, _settings(asked), produce, inputs=files, anew=True)


def _settings(asked: Asked) -> dict[str, Any]:
    return {
        "to": asked.to,
        "embed": asked.embed,
        "model": asked.model,
        "alpha": asked.alpha,
        "keep": asked.keep,
        "pairs": asked.pairs,
    }


def _show_plan(make: Examples, exporter: ModuleType) -> int:
    first = next(make.records(Counter()), None)
    if first is None:
        notice("export: nothing goes out")
        return 0
    fields = exporter.fields(make.example(*first, table=exporter.FORM in ("table", "hub"), look=False))
    notice(
        f"export: {make.asked}\n--- the first row, without its images\n{json.dumps(fields, indent=1, ensure_ascii=False)}"
    )
    return 0


def _whole(make: Examples, common: Common, asked: Asked, folder: Path) -> int:
    """A file or folder that is made whole or not at all, in a draft that takes its place in the end."""
    exporter, out = asked.exporter, common.out or Path()
    if common.tee:
        raise UsageError(f"--to {asked.to}: is no stream of lines; give -o, not --tee")
    manifest = Manifest(out, STEP, _settings(asked) | {"seed": common.seed, "shard": str(common.part)})
    counter, rows = Counter(), Rows(make, exporter.FORM in ("table", "hub"), folder / "kept.jsonl")
    with Progress(STEP, quiet=common.quiet).shown() as progress:
        rows.gather(counter)
        if not rows.count:
            raise InputError("nothing to export: no record is kept; look at --alpha, or at what `sophia stats` says")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
                draft = Path(beside) / "draft"
                _write(exporter, rows, progress, draft)
                _remove(out)
                os.replace(draft, out)
        except OSError as error:
            raise SophiaError(f"{out}: cannot be written ({error.strerror or error}); make room or choose another") from None
    bad = progress.failed + make.name_failures()
    manifest.save(finished=True, counts={"in": counter.count, "out": progress.done - progress.failed, "failed": bad})
    return SOME_FAILED if bad else 0


def _refuse_to_replace(common: Common, files: list[str]) -> None:
    """Raises UsageError where something stands that is not to be replaced: an input, or what no export has made."""
    out = common.out or Path()
    if str(out) == "-" or not out.name or (out.exists() and not out.is_file() and not out.is_dir()):
        raise UsageError(f"{out}: no place for a file or a folder; name one with -o")
    if not out.exists():
        return
    if not common.force:
        raise UsageError(f"{out} exists; choose another place with -o, or --force to replace it")
    if out.is_file():
        refuse_input_as_output(out, files)
    elif not out.with_name(out.name + SUFFIX).exists():
        raise UsageError(f"{out}: no folder that `sophia export` made ({out.name}{SUFFIX} is not beside it); choose another")


class Rows:
    """The rows of a table, gone through twice: the records that go out are put aside, without their images."""

    def __init__(self, make: Examples, table: bool, aside: Path):
        self.make, self.table, self.aside, self.count = make, table, aside, 0

    def gather(self, counter: Counter) -> None:
        """Puts the records aside, each with the place that errors name."""
        with holding(), self.aside.open("wb") as file:
            for record, _ in self.make.records(counter):
                file.write(to_line({"where": record.where, "record": record}))
                self.count += 1

    def plain(self) -> Iterator[dict[str, Any]]:
        """The rows without images, for the types of their columns; what cannot be a row is left out."""
        for record in self._records():
            try:
                yield self._row(record, look=False)
            except RecordError:
                continue

    def made(self, progress: Progress, types: dict[str, str] | None) -> Iterator[dict[str, Any]]:
        """The rows, of a table those of these types; what cannot be one is named and counted."""
        for record in self._records():
            try:
                row = self._row(record, look=True)
                row = writable(row) if types is None else cells(row, types)
            except RecordError as error:
                notice(f"{name_of(record)} failed: {error}")
                progress.advance(failed=True)
                continue
            progress.advance()
            yield row

    def _row(self, record: Record, look: bool) -> dict[str, Any]:
        row: dict[str, Any] = self.make.asked.exporter.fields(self.make.example(record, None, self.table, look))
        return row

    def _records(self) -> Iterator[Record]:
        return (Record(aside["record"], aside["where"]) for aside in read_records([str(self.aside)]))


def _write(exporter: ModuleType, rows: Rows, progress: Progress, draft: Path) -> None:
    if exporter.FORM == "folder":
        draft.mkdir()
        with (draft / exporter.FILE).open("wb") as file:
            for row in rows.made(progress, None):
                file.write(to_line({**row, "images": [_as_file_of(draft, image) for image in row["images"]]}))
        for name, content in exporter.BESIDE.items():
            (draft / name).write_text(json.dumps(content, indent=2) + "\n")
        return
    types = types_of(rows.plain(), exporter.SHAPED)
    if exporter.FORM == "table":
        write(rows.made(progress, types), types, draft)
        return
    draft.mkdir()
    write_folder(rows.made(progress, types), types, draft)
    (draft / "README.md").write_text(card(types))


def _as_file_of(folder: Path, image: str) -> str:
    """An image by its path; one that is embedded becomes a file of the folder, named by its bytes."""
    if not image.startswith("data:"):
        return image
    data = image_bytes(image)
    file = folder / "images" / f"{hashlib.sha256(data).hexdigest()[:32]}.{kind_of(data)}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    return str(file.relative_to(folder))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
