"""Drops training items that overlap a benchmark: `sophia decontaminate FILE --against BENCH.jsonl`.

As the paper did (method.md): by words of the question, and by a language model's check of what those find (`--judge`); here
by what images look like, too. Every pair is named; what stays goes out as it came.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sophia_cli.errors import InputError, RecordError, SophiaError, UsageError
from sophia_cli.frame import Common, Counter, refuse_odd_side_files, run_step
from sophia_cli.inference.backend_options import Lazy, Place
from sophia_cli.inference.sampler import Completion, Failure, Job, Request, Sampling, answer_in_order
from sophia_cli.io.images import shorten
from sophia_cli.io.jsonl import read_records, to_line
from sophia_cli.io.record_writer import Output, appender
from sophia_cli.judge.prompts_and_parsing import last_word
from sophia_cli.looks import Looks, cache_file, looks_of
from sophia_cli.overlap import Images, Near, Texts
from sophia_cli.prompts import fill, load_prompt
from sophia_cli.records import Record, failed, has_failed, image_list, name_of, sample_seed, where_of
from sophia_cli.rewards.table import short
from sophia_cli.runtime.progress import notice, remark
from sophia_cli.runtime.worker_pool import ordered_map
from sophia_cli.sources import read_items

STEP = "decontaminate"
NEEDED = {
    "any": ("question", "image"),
    "both": ("question", "image"),
    "text": ("question",),
    "image": ("image",),
}
"""What is compared, by `--match`: of a benchmark's item one of them is enough for `any`, else all are needed."""
PATIENCE_SECONDS = 600.0
"""How long a worker may take over the images of one record: they may come from the network."""
LONGEST = 4096
"""Tokens that a judge may think and answer in."""
SHOWN = 4000
"""Characters of a question that a judge is shown."""
MOST_ASKED = 8
"""Overlaps of one item that a judge is asked about."""
MOST_TOLD = 100
"""Pairs of one item that are named."""
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
    """A record, the overlaps of its item, why it could not be compared, and what a judge said of each pair of texts."""

    record: Record
    texts: list[Near] = field(default_factory=list)
    images: list[Near] = field(default_factory=list)
    fault: str = ""
    verdicts: dict[int, str] = field(default_factory=dict)

    def doubtful(self) -> list[Near]:
        """The overlaps of words in which the questions are not one."""
        return [near for near in self.texts if not near.same]

    def settle(self) -> None:
        """Where all that a judge was asked about are different, so are the lesser overlaps, which it was not asked about."""
        if set(self.verdicts.values()) == {"different"}:
            self.verdicts.update({near.number: "different" for near in self.doubtful()})

    def overlaps(self, match: str) -> list[Near]:
        """The pairs for which it is dropped; those that a judge told apart are none."""
        if match == "both" and not self.images:
            return []
        texts = [near for near in self.texts if self.verdicts.get(near.number) != "different"]
        if match == "both":
            looks = {near.number for near in self.images}
            texts = [near for near in texts if near.number in looks]
            words = {near.number for near in texts}
            return texts + [near for near in self.images if near.number in words]
        return texts + self.images


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
    if rules.match not in NEEDED:
        raise UsageError(f"--match {rules.match}: choose from {', '.join(NEEDED)}")
    if "-" in files and "-" in against:
        raise UsageError("--against -: stdin holds the records already; give the benchmark as a file")
    _refuse_report(report, common, [*files, *against])
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
                pairs = each.overlaps(rules.match)
                told.tell(each, pairs)
                tally.note(pairs)
                if not pairs:
                    yield each.record
        output.failed += benchmark.unreadable

    backend = judge.backend if judge else None
    code = run_step(
        STEP, "id", common, settings, produce, inputs=[*files, *against], anew=True, backend=backend, report=tally.report
    )
    notice(tally.line(rules), common.quiet)
    return code


def _refuse_report(report: Path | None, common: Common, inputs: list[str]) -> None:
    """Raises UsageError where the report would be written over what is read, or over what is left."""
    refuse_odd_side_files([report], inputs, (common.out, common.tee))
    if report and any(Path(source).is_dir() and Path(source).resolve() in report.resolve().parents for source in inputs):
        raise UsageError(f"--report {report}: lies in a folder that is read; name another place")


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
        self.items = [(source, item) for source in sources for item in read_items(source, distinct=False)]
        self.refuse_what_cannot_be_compared(sources)
        self.looks, self.images = Looks(cache_file()), Images(rules.distance)
        questions = (str(item.get("question") or "") for _, item in self.items)
        self.texts = Texts(questions if rules.match != "image" else (), rules.run, rules.share)
        if rules.match != "text":
            self._look_at_images()

    def refuse_what_cannot_be_compared(self, sources: list[str]) -> None:
        """Raises InputError for a benchmark without items, or of whose items none has what is to be compared."""
        needed = NEEDED[self.rules.match]
        wanted = f" {'or' if self.rules.match == 'any' else 'and'} ".join(f"`{name}`" for name in needed)
        enough = any if self.rules.match == "any" else all
        for source in sources:
            items = [item for of, item in self.items if of == source]
            bare = [item for item in items if not enough(item.get(name) for name in needed)]
            if len(bare) == len(items):
                what = "no item in it" if not items else f"no item in it has {wanted}"
                raise InputError(f"{source}: {what}; name the columns so, and give an ImageFolder as the folder")
            for item in bare:
                notice(f"{STEP}: {where_of(item)}: lacks {wanted} and is not compared")
            self.unreadable += len(bare)

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
        texts: dict[int, list[Near]] = {}
        images: dict[tuple[bytes, ...], list[Near]] = {}
        for record, looks in (
            self._looked(records) if self.images.hashes else ((record, _faults(record)) for record in records)
        ):
            question = record.get("question") or ""
            fault = next((look for look in looks if isinstance(look, str)), "")
            if not isinstance(question, str):
                fault = f"{where_of(record)}: field `question` is no text; mend it"
            if has_failed(record) or fault:
                yield Checked(record, fault="" if has_failed(record) else fault)
                continue
            if (words := short(question)) not in texts:
                texts[words] = self.texts.near(question)
            seen = tuple(look for look in looks if isinstance(look, bytes))
            if seen and seen not in images:
                images[seen] = self.images.near(seen)
            yield Checked(record, texts[words], images.get(seen, []))

    def _looked(self, records: Iterable[Record]) -> Iterator[tuple[Record, list[bytes | str]]]:
        """The records in order, with the hash of each of their images, or why it has none; all cores make new ones."""
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for record, made in ordered_map(looks_of, records, workers, self._missing, PATIENCE_SECONDS, _lost):
            for reference, look in made.items():
                if isinstance(look, bytes):
                    self.looks.put(reference, look)
            looks = [made.get(reference, self.looks.get(reference)) for reference in _images_of(record)]
            changed = "its image changed while it was read; type the command again"
            yield record, _faults(record) + [changed if look is None else look for look in looks]

    def _missing(self, record: Record) -> list[str]:
        return [reference for reference in _images_of(record) if self.looks.get(reference) is None]


def _images_of(record: Record) -> list[str]:
    """The images of a record; none where the field is bad (`_faults` tells)."""
    try:
        return [] if has_failed(record) else image_list(record)
    except RecordError:
        return []


def _faults(record: Record) -> list[bytes | str]:
    """What is wrong with the field `image`."""
    try:
        image_list(record)
        return []
    except RecordError as error:
        return [str(error)]


def _lost(record: Record, outcome: str) -> dict[str, bytes | str]:
    fault = "took too long to read" if outcome == "timeout" else "breaks what reads it"
    return {reference: f"image {shorten(reference)} {fault}; mend the file" for reference in _images_of(record)}


def by_judge(checked: Iterable[Checked], judge: Judge, benchmark: Benchmark) -> Iterator[Checked]:
    """The same in order, with what the judge says to the greatest overlaps of words; the same question needs no judge.

    Where it fails an overlap stands: to drop too much is the safe side.
    """

    def asked() -> Iterator[tuple[Checked, Near | None]]:
        for each in checked:
            yield from ((each, near) for near in each.doubtful()[:MOST_ASKED])
            yield each, None

    def job(pair: tuple[Checked, Near | None]) -> Job | None:
        each, near = pair
        if near is None:
            return None
        _, other = benchmark.items[near.number]
        text = fill(judge.prompt, {"question": _shown(each.record), "other": _shown(other)})
        request = Request([{"role": "user", "content": text}], judge.sampling, sample_seed(judge.seed, text, 0))
        return Job(each.record, {}, request)

    def finish(pair: tuple[Checked, Near | None], outcome: Completion | Failure | None) -> tuple[Checked, Near | None]:
        each, near = pair
        if isinstance(outcome, Failure):
            notice(f"{STEP}: {name_of(each.record)}: the judge failed ({outcome.error}); its overlap stands")
        if near is not None and isinstance(outcome, Completion):
            each.verdicts[near.number] = {"same": "same", "different": "different"}.get(last_word(outcome.text), "unsure")
        return pair

    for each, near in answer_in_order(asked(), job, judge.backend, finish):
        if near is None:
            each.settle()
            yield each


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
                self.stream = appender(self.file, fresh=True)
            except OSError as error:
                raise UsageError(f"--report {self.file}: cannot be written ({error.strerror}); choose another") from None
        return self

    def __exit__(self, *error: object) -> None:
        if self.stream:
            with suppress(OSError):  # a full disk was told of when a line was flushed
                self.stream.close()

    def tell(self, each: Checked, pairs: list[Near]) -> None:
        """The pairs for which an item is dropped, and those that a judge told apart. Raises SophiaError on a full disk."""
        record = each.record
        apart = [near for near in each.texts if each.verdicts.get(near.number) == "different"]
        item = short(f"{record.get('id')}\0{record.get('question')}\0{record.get('image')}")
        if not (pairs or apart) or item in self.told:
            return
        self.told.add(item)
        name = where_of(record) if record.get("id") is None else str(record["id"])
        for near in [*pairs, *apart][:MOST_TOLD]:
            self._tell_pair(name, record, near, bool(pairs), each.verdicts.get(near.number))
        if len(pairs) + len(apart) > MOST_TOLD:
            remark(f"{STEP}: {name}: {len(pairs) + len(apart) - MOST_TOLD} more pairs")

    def _tell_pair(self, name: str, record: Record, near: Near, dropped: bool, verdict: str | None) -> None:
        source, other = self.benchmark.items[near.number]
        by = "image" if near.share is None else "text"
        how = f"{near.distance} of 256 bits differ" if near.share is None else f"{near.share:.0%} of the words"
        judged = f", judge: {verdict}" if verdict and by == "text" else ""
        remark(f"{STEP}: {name} {'dropped' if dropped else 'kept'}: {by} as {other['id']} of {source} ({how}{judged})")
        fields = {
            "id": record.get("id"), "dropped": dropped, "by": by, "share": near.share, "distance": near.distance,
            "judge": verdict if by == "text" else None, "question": record.get("question"), "image": record.get("image"),
            "against": source, "against_id": other["id"], "against_question": other.get("question"),
            "against_image": other.get("image"),
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

    def note(self, pairs: list[Near]) -> None:
        """One more record, and the pairs for which it is dropped."""
        texts, images = any(near.share is not None for near in pairs), any(near.share is None for near in pairs)
        self.records += 1
        self.dropped += texts or images
        self.by_both += texts and images
        self.by_text += texts and not images
        self.by_image += images and not texts

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
