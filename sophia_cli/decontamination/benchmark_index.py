"""The index of all benchmark items by words and images, and the check of each record against it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sophia_cli.decontamination.image_hash import ImageHashCache, cache_file, hash_images
from sophia_cli.decontamination.image_overlap import ImageIndex
from sophia_cli.decontamination.overlap import Overlap
from sophia_cli.decontamination.text_overlap import TextIndex
from sophia_cli.errors import InputError, RecordError
from sophia_cli.io.images import shorten_reference
from sophia_cli.records import Record, has_failed, image_list, where_of, with_step_names
from sophia_cli.rewards.table import hash64
from sophia_cli.runtime.progress import log_line
from sophia_cli.runtime.worker_pool import ordered_map
from sophia_cli.sources.items import read_items

STEP = "decontaminate"


REQUIRED_FIELDS = {
    "any": ("question", "image"),
    "both": ("question", "image"),
    "text": ("question",),
    "image": ("image",),
}
"""The fields compared, by `--match`. For `any`, an item of a benchmark needs one of them, else all."""


RECORD_TIMEOUT_SECONDS = 600.0
"""How long a worker may take for the images of one record; they may come from the network."""


@dataclass(frozen=True)
class OverlapRules:
    """What counts as an overlap.

    Attributes:
        ngram: Words in a row.
        min_overlap: Share of the shorter question's words.
        max_hash_distance: Differing bits of 256.
        match: any, both, text or image.
    """

    ngram: int = 8
    min_overlap: float = 0.5
    max_hash_distance: int = 24
    match: str = "any"


@dataclass
class CheckedRecord:
    """A record, its overlaps, why it could not be compared, and the judge's verdict on each text pair."""

    record: Record
    texts: list[Overlap] = field(default_factory=list)
    images: list[Overlap] = field(default_factory=list)
    fault: str = ""
    verdicts: dict[int, str] = field(default_factory=dict)

    def uncertain(self) -> list[Overlap]:
        """Returns the text overlaps in which the questions are not identical."""
        return [near for near in self.texts if not near.same]

    def extend_verdicts(self) -> None:
        """If the judge found all pairs different, marks the smaller overlaps, which it was not asked about, as different
        too.
        """
        if set(self.verdicts.values()) == {"different"}:
            self.verdicts.update({near.number: "different" for near in self.uncertain()})

    def overlaps(self, match: str) -> list[Overlap]:
        """Returns the pairs for which the record is dropped, without those that the judge found different."""
        if match == "both" and not self.images:
            return []
        texts = [near for near in self.texts if self.verdicts.get(near.number) != "different"]
        if match == "both":
            looks = {near.number for near in self.images}
            texts = [near for near in texts if near.number in looks]
            words = {near.number for near in texts}
            return texts + [near for near in self.images if near.number in words]
        return texts + self.images


class BenchmarkIndex:
    """The items of all benchmarks by their words and images.

    An image that cannot be read is logged and counted.

    Raises:
        InputError, UsageError: a benchmark cannot be read.
    """

    def __init__(self, sources: list[str], rules: OverlapRules):
        self.rules, self.unreadable = rules, 0
        self.items = [(source, item) for source in sources for item in read_items(source, distinct=False)]
        self.check_fields(sources)
        self.hash_cache, self.images = ImageHashCache(cache_file()), ImageIndex(rules.max_hash_distance)
        questions = (str(item.get("question") or "") for _, item in self.items)
        self.texts = TextIndex(questions if rules.match != "image" else (), rules.ngram, rules.min_overlap)
        if rules.match != "text":
            self._hash_images()

    def check_fields(self, sources: list[str]) -> None:
        """Checks that the benchmarks have items with the compared fields.

        Raises:
            InputError: one has none.
        """
        needed = REQUIRED_FIELDS[self.rules.match]
        wanted = f" {'or' if self.rules.match == 'any' else 'and'} ".join(f"`{name}`" for name in needed)
        enough = any if self.rules.match == "any" else all
        for source in sources:
            items = [item for of, item in self.items if of == source]
            bare = [item for item in items if not enough(item.get(name) for name in needed)]
            if len(bare) == len(items):
                what = "contains no item" if not items else f"no item has {wanted}"
                raise InputError(f"{source}: {what}; rename the columns, and give an ImageFolder as its folder")
            for item in bare:
                log_line(f"{STEP}: {where_of(item)}: has no {wanted} and is not compared")
            self.unreadable += len(bare)

    def _hash_images(self) -> None:
        for number, (item, looks) in enumerate(self._with_hashes(item for _, item in self.items)):
            faults = [look for look in looks if isinstance(look, str)]
            for fault in [str(item["error"])] if has_failed(item) else faults:
                log_line(f"{STEP}: {where_of(item)}: {fault}; this item's images are not compared")
                self.unreadable += 1
            for look in looks:
                if isinstance(look, bytes):
                    self.images.add_hash(number, look)

    def check_records(self, records: Iterable[Record]) -> Iterator[CheckedRecord]:
        """Yields the records in order with their overlaps. Equal questions and images are looked up once."""
        texts: dict[int, list[Overlap]] = {}
        images: dict[tuple[bytes, ...], list[Overlap]] = {}
        for record, looks in (
            self._with_hashes(records) if self.images.hashes else ((record, _image_faults(record)) for record in records)
        ):
            question = with_step_names(record).get("question") or ""
            fault = next((look for look in looks if isinstance(look, str)), "")
            if not isinstance(question, str):
                fault = f"{where_of(record)}: field `question` is not a string; fix it"
            if has_failed(record) or fault:
                yield CheckedRecord(record, fault="" if has_failed(record) else fault)
                continue
            if (words := hash64(question)) not in texts:
                texts[words] = self.texts.find_overlaps(question)
            seen = tuple(look for look in looks if isinstance(look, bytes))
            if seen and seen not in images:
                images[seen] = self.images.find_overlaps(seen)
            yield CheckedRecord(record, texts[words], images.get(seen, []))

    def _with_hashes(self, records: Iterable[Record]) -> Iterator[tuple[Record, list[bytes | str]]]:
        """Yields the records in order with the hash of each image, or why it has none; all cores compute new ones."""
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for record, made in ordered_map(
            hash_images, records, workers, self._missing_images, RECORD_TIMEOUT_SECONDS, _lost_worker_faults
        ):
            for reference, look in made.items():
                if isinstance(look, bytes):
                    self.hash_cache.put_hash(reference, look)
            looks = [made.get(reference, self.hash_cache.get_hash(reference)) for reference in _record_images(record)]
            changed = "its image changed while it was read; run the command again"
            yield record, _image_faults(record) + [changed if look is None else look for look in looks]

    def _missing_images(self, record: Record) -> list[str]:
        return [reference for reference in _record_images(record) if self.hash_cache.get_hash(reference) is None]


def _record_images(record: Record) -> list[str]:
    """Returns the images of a record; none where the field is bad (`_image_faults` reports it)."""
    try:
        return [] if has_failed(record) else image_list(with_step_names(record))
    except RecordError:
        return []


def _image_faults(record: Record) -> list[bytes | str]:
    """Returns what is wrong with the field `image`."""
    try:
        image_list(with_step_names(record))
        return []
    except RecordError as error:
        return [str(error)]


def _lost_worker_faults(record: Record, outcome: str) -> dict[str, bytes | str]:
    fault = "took too long to read" if outcome == "timeout" else "crashes the process that reads it"
    return {reference: f"image {shorten_reference(reference)} {fault}; fix the file" for reference in _record_images(record)}
