"""Drops training items that overlap a benchmark: `sophia decontaminate FILE --against BENCH.jsonl`.

As the paper did (method.md): by words of the question, and by a language model's check of what those find (`--judge`); here
by what images look like, too. Every pair is named; what stays goes out as it came.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sophia_cli.errors import RecordError, SophiaError, UsageError
from sophia_cli.frame import Common, Counter, refuse_input_as_output, run_step
from sophia_cli.images import shorten
from sophia_cli.ledger import short
from sophia_cli.looks import Looks, cache_file, looks_of
from sophia_cli.output import Output
from sophia_cli.overlap import Images, Near, Texts
from sophia_cli.place import Lazy, Place
from sophia_cli.processes import ordered_map
from sophia_cli.progress import notice, remark
from sophia_cli.prompts import fill, load_prompt
from sophia_cli.records import Record, failed, has_failed, image_list, name_of, sample_seed, where_of
from sophia_cli.sampling import Completion, Failure, Job, Request, Sampling, answer_in_order
from sophia_cli.sources import read_items
from sophia_cli.streams import read_records, to_line
from sophia_cli.verifiers.judge import last_word

STEP = "decontaminate"
MATCHES = ("any", "both", "text", "image")
PATIENCE_SECONDS = 600.0
"""How long a worker may take over the images of one record: they may come from the network."""
LONGEST = 4096
"""Tokens that a judge may think and answer in."""
SHOWN = 4000
"""Characters of a question that a judge is shown."""
MANY = 0.2
"""The share of records that are dropped by their text alone above which that is remarked on."""


@dataclass(frozen=True)
class Rules:
    """What an overlap is. run: words in a row; share: of the shorter question's words; distance: bits of 256."""

    run: int = 8
    share: float = 0.5
    distance: int = 24
    match: str = "any"


@dataclass(frozen=True)
class Judge:
    """Who is asked whether two questions are one problem."""

    backend: Lazy
    prompt: str
    sampling: Sampling
    seed: int


@dataclass
class Checked:
    """A record, the overlaps of its item, and why its images could not be looked at."""

    record: Record
    texts: list[Near] = field(default_factory=list)
    images: list[Near] = field(default_factory=list)
    fault: str = ""
    verdict: str | None = None

    def is_dropped(self, match: str) -> bool:
        """Whether its overlaps are what is dropped; a pair of texts that a judge told apart is none."""
        texts = self.texts if self.verdict != "different" else []
        if match == "both":
            return bool({near.number for near in texts} & {near.number for near in self.images})
        return bool(texts and match != "image") or bool(self.images and match != "text")


def run(
    common: Common,
    files: list[str],
    against: list[str],
    rules: Rules,
    report: Path | None,
    judge_model: str | None,
    place: Place,
) -> int:
    """`sophia decontaminate`: reads records, passes on those that overlap no benchmark. Returns the exit code."""
    if rules.match not in MATCHES:
        raise UsageError(f"--match {rules.match}: choose from {', '.join(MATCHES)}")
    refuse_input_as_output(report, [*files, *against])
    judge, judged_by = (None, {}) if judge_model is None else _judge(judge_model, common.seed, place)
    benchmark = Benchmark(against, rules)
    if common.dry_run:
        notice(f"{STEP}: {rules}, against {len(benchmark.items)} items of {', '.join(against)}; nothing read")
        return 0
    tally = Tally()
    settings = {**vars(rules), "against": against, **judged_by}

    def produce(output: Output, counter: Counter) -> Iterator[Record]:
        records = counter.over(common.part.take(read_records(files), common.limit))
        checked = benchmark.check(records)
        with Report(report, benchmark) as told:
            for each in checked if judge is None else by_judge(checked, judge, benchmark):
                if each.fault:
                    yield failed(each.record, each.fault, {})
                    continue
                dropped = each.is_dropped(rules.match)
                told.tell(each, dropped)
                tally.note(each, dropped)
                if not dropped:
                    yield each.record
        output.failed += benchmark.unreadable

    backend = judge.backend if judge else None
    code = run_step(
        STEP, "id", common, settings, produce, inputs=[*files, *against], anew=True, backend=backend, report=tally.report
    )
    notice(tally.line(rules), common.quiet)
    return code


def _judge(name: str, seed: int, place: Place) -> tuple[Judge, dict[str, Any]]:
    """The judge, and what of it makes the records what they are."""
    model = place.resolve(name)
    prompt = load_prompt("same_problem", model.prompts)
    sampling = Sampling(temperature=0.0).with_defaults(model, "judge", LONGEST)
    settings = {"judge": model.identity, "judge_prompt": prompt, "judge_sampling": sampling.settings()}
    return Judge(place.backend(model), prompt, sampling, seed), settings


class Benchmark:
    """The items of all benchmarks, by their words and by what their images look like.

    Raises InputError and UsageError for what cannot be read. An image that cannot be looked at is named and counted.
    """

    def __init__(self, sources: list[str], rules: Rules):
        self.rules, self.unreadable = rules, 0
        self.items = [(source, item) for source in sources for item in read_items(source)]
        self.looks, self.images = Looks(cache_file()), Images(rules.distance)
        questions = (str(item.get("question") or "") for _, item in self.items)
        self.texts = Texts(questions if rules.match != "image" else (), rules.run, rules.share)
        if rules.match != "text":
            self._look_at_images()

    def _look_at_images(self) -> None:
        for number, (item, looks) in enumerate(self._looked(item for _, item in self.items)):
            faults = [look for look in looks if isinstance(look, str)]
            for fault in [str(item["error"])] if has_failed(item) else faults:
                notice(f"{STEP}: {where_of(item)}: {fault}; this item's images are not compared")
                self.unreadable += 1
            for look in looks:
                if isinstance(look, bytes):
                    self.images.add(number, look)

    def check(self, records: Iterable[Record]) -> Iterator[Checked]:
        """The records in their order, with what they overlap. The same question and images are looked up once."""
        known: dict[int, tuple[list[Near], list[Near], str]] = {}
        for record, looks in self._looked(records) if self.images.hashes else ((record, []) for record in records):
            if has_failed(record):
                yield Checked(record)
                continue
            question = record.get("question")
            name = short(f"{question}\0{record.get('image')}")
            if name not in known:
                fault = next((look for look in looks if isinstance(look, str)), "")
                texts = self.texts.near(question) if isinstance(question, str) else []
                images = self.images.near(look for look in looks if isinstance(look, bytes)) if self.images.hashes else []
                known[name] = (texts, images, fault)
            yield Checked(record, *known[name])

    def _looked(self, records: Iterable[Record]) -> Iterator[tuple[Record, list[bytes | str]]]:
        """The records in order, with the hash of each of their images, or why it has none; all cores make new ones."""
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for record, made in ordered_map(looks_of, records, workers, self._missing, PATIENCE_SECONDS, _lost):
            for reference, look in made.items():
                if isinstance(look, bytes):
                    self.looks.put(reference, look)
            looks = (made.get(reference) or self.looks.get(reference) for reference in _images_of(record))
            yield record, [look or "its image changed while it was read" for look in looks]

    def _missing(self, record: Record) -> list[str]:
        return [reference for reference in _images_of(record) if self.looks.get(reference) is None]


def _images_of(record: Record) -> list[str]:
    """The images of a record; none where something else is wrong with it, which is told elsewhere."""
    try:
        return [] if has_failed(record) else image_list(record)
    except RecordError:
        return []


def _lost(record: Record, outcome: str) -> dict[str, bytes | str]:
    fault = "took too long to read" if outcome == "timeout" else "breaks what reads it"
    return {reference: f"image {shorten(reference)} {fault}; mend the file" for reference in _images_of(record)}


def by_judge(checked: Iterable[Checked], judge: Judge, benchmark: Benchmark) -> Iterator[Checked]:
    """The same in order; of each whose question overlaps another, what the judge says to the greatest overlap.

    Where it fails the overlap stands, and the record carries no `error`: to drop too much is the safe side.
    """

    def job(each: Checked) -> Job | None:
        if not each.texts:
            return None
        _, other = benchmark.items[each.texts[0].number]
        shown = {"question": _shown(each.record), "other": _shown(other)}
        text = fill(judge.prompt, shown)
        request = Request([{"role": "user", "content": text}], judge.sampling, sample_seed(judge.seed, text, 0))
        return Job(each.record, {}, request)

    def finish(each: Checked, outcome: Completion | Failure | None) -> Checked:
        if isinstance(outcome, Failure):
            notice(f"{STEP}: {name_of(each.record)}: the judge failed ({outcome.error}); its overlap stands")
        if isinstance(outcome, Completion):
            word = last_word(outcome.text)
            each.verdict = word if word in ("same", "different") else "unsure"
        return each

    return answer_in_order(checked, job, judge.backend, finish)


def _shown(item: Record) -> str:
    """The beginning of a question with its options, without what could close the marks it stands in."""
    choices = item.get("choices")
    options = "\n".join(map(str, choices)) if isinstance(choices, list) else ""
    return re.sub(r"</?(?:first|second)>", "", f"{item.get('question') or ''}\n{options}".strip()[:SHOWN])


class Report:
    """Names every pair, each once: a line on stderr, and a record in a file if there is one."""

    def __init__(self, file: Path | None, benchmark: Benchmark):
        self.file, self.benchmark = file, benchmark
        self.stream: IO[bytes] | None = None
        self.told: set[int] = set()

    def __enter__(self) -> "Report":
        if self.file:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self.stream = self.file.open("wb")
            except OSError as error:
                raise UsageError(f"--report {self.file}: cannot be written ({error.strerror}); choose another") from None
        return self

    def __exit__(self, *error: object) -> None:
        if self.stream:
            self.stream.close()

    def tell(self, each: Checked, dropped: bool) -> None:
        """The pairs of an item that is dropped, or that a judge told apart, unless they were told. Raises SophiaError."""
        item = str(each.record.get("id"))
        if not (dropped or each.verdict == "different") or short(item) in self.told:
            return
        self.told.add(short(item))
        for near in (*each.texts, *each.images):
            source, other = self.benchmark.items[near.number]
            by = "text" if near.share is not None else "image"
            how = f"{near.share:.0%} of the words" if near.share is not None else f"{near.distance} of 256 bits differ"
            judged = f", judge: {each.verdict}" if each.verdict and by == "text" else ""
            outcome = "dropped" if dropped else "kept"
            remark(f"{STEP}: {item} {outcome}: {by} as {other['id']} of {source} ({how}{judged})")
            fields = {
                "id": item, "dropped": dropped, "by": by, "share": near.share, "distance": near.distance,
                "judge": each.verdict if by == "text" else None, "question": each.record.get("question"),
                "image": each.record.get("image"), "against": source, "against_id": other["id"],
                "against_question": other.get("question"), "against_image": other.get("image"),
            }  # fmt: skip
            self._write(to_line(fields))

    def _write(self, line: bytes) -> None:
        if self.stream:
            try:
                self.stream.write(line)
                self.stream.flush()
            except OSError as error:
                raise SophiaError(f"--report {self.file}: cannot be written ({error.strerror}); make room") from None


@dataclass
class Tally:
    """How many records were dropped, and by what."""

    records: int = 0
    dropped: int = 0
    by_text: int = 0
    by_image: int = 0
    by_both: int = 0

    def note(self, each: Checked, dropped: bool) -> None:
        self.records += 1
        if dropped:
            texts = bool(each.texts) and each.verdict != "different"
            self.dropped += 1
            self.by_both += texts and bool(each.images)
            self.by_text += texts and not each.images
            self.by_image += bool(each.images) and not texts

    def report(self) -> dict[str, Any]:
        """For the manifest."""
        return {"dropped": vars(self)}

    def line(self, rules: Rules) -> str:
        """`decontaminate: 12 of 400 records dropped (…)`."""
        parts = f"{self.by_text} by text, {self.by_image} by image, {self.by_both} by both"
        hint = ""
        if rules.match == "any" and self.by_text > self.records * MANY:
            hint = "; many by text alone: if questions are made from templates, --match both asks for the image, too"
        return f"{STEP}: {self.dropped} of {self.records} records dropped ({parts}){hint}"
