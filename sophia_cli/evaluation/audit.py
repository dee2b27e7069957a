"""Why answers are as they are (Table 9): visual hallucination and broken logic, as a judge sees them, and as a person does.

A judge labels a sample of the answers; a sheet with the same answers, without its labels, goes to a person. When the sheet
comes back, Cohen's κ says how far the two agree, and so what the judge's shares are worth.
"""

import csv
import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sophia_cli.errors import InputError, SophiaError, UsageError
from sophia_cli.evaluation import statistics
from sophia_cli.inference.sampler import sample_records
from sophia_cli.inference.types import Completion, Job, Request
from sophia_cli.io.images import to_cached_file
from sophia_cli.io.jsonl import read_records, to_line
from sophia_cli.judge.answer_judge import AnswerJudge
from sophia_cli.judge.prompts_and_parsing import joined_golds, strip_prompt_tags, whole_question
from sophia_cli.prompts import fill_template
from sophia_cli.records import Record, has_failed, image_list, sample_seed
from sophia_cli.verifier.extract import after_thinking

FAULTS = {"hallucination": "visual hallucination", "broken_logic": "broken logic"}
"""The two labels: as columns name them, and as people do."""
LABEL_VALUES = {"yes": True, "no": False}
LABEL_LINE = re.compile(r"\W*(hallucination|broken logic)\W+(yes|no)\W*", re.IGNORECASE)
TEXT_COLUMNS = ("question", "answer", "response")
"""Columns that somebody has written who might write a formula."""
CSV_COLUMNS = ("sample_id", "image", "question", "answer", "response", *FAULTS)
MAX_SHOWN_CHARS = 24_000
"""Characters of a response that a judge is shown: its beginning and its end, where it is longer."""


@dataclass
class AuditSample:
    """A sample of the records that come by: those whose ids have the least hashes, whatever the order they come in."""

    size: int
    seed: int
    _kept: list[tuple[int, str, Record]] = field(default_factory=list)

    def add_record(self, record: Record) -> None:
        """Takes one record of `eval`; those that failed are no answers."""
        if not has_failed(record):
            name = str(record["sample_id"])
            rank = int.from_bytes(sha256(f"{self.seed}\x00{name}".encode()).digest()[:8], "big")
            put = heapq.heappush if len(self._kept) < self.size else heapq.heappushpop
            put(self._kept, (-rank, name, record))

    @property
    def drawn_records(self) -> list[Record]:
        """Those that were drawn, by id."""
        return [record for _, _, record in sorted(self._kept, key=lambda kept: kept[1])]


def audit_records(records: Sequence[Record], judge: AnswerJudge) -> Iterator[Record]:
    """What the judge says of each answer: `sample_id` and the label of each fault, or `error`."""

    def finish(job: Job, completion: Completion) -> Record:
        return Record({"sample_id": job.record["sample_id"], **parse_labels(completion.text)})

    return sample_records((_make_job(record, judge) for record in records), judge.backend, finish)


def _make_job(record: Record, judge: AnswerJudge) -> Job:
    response = str(record["response"])
    if len(response) > MAX_SHOWN_CHARS:
        response = f"{response[: MAX_SHOWN_CHARS // 2]}\n[…]\n{response[-MAX_SHOWN_CHARS // 2 :]}"
    blanks = {"question": whole_question(record), "gold": joined_golds(record), "response": response}
    text = fill_template(judge.prompt, {name: strip_prompt_tags(str(value)) for name, value in blanks.items()})
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in image_list(record)]
    content.append({"type": "text", "text": text})
    seed = sample_seed(judge.seed, text, 0)
    return Job(record, {}, Request([{"role": "user", "content": content}], judge.sampling, seed))


def parse_labels(text: str) -> dict[str, bool | None]:
    """The labels in the last lines of what a judge said; None where a line is missing, or says neither yes nor no."""
    lines = [line for line in (after_thinking(text) or "").splitlines() if line.strip()]
    said = [match for line in lines[-len(FAULTS) :] if (match := LABEL_LINE.fullmatch(line))]
    labels = {match[1].casefold().replace(" ", "_"): LABEL_VALUES[match[2].casefold()] for match in said}
    return {fault: labels.get(fault) for fault in FAULTS}


def fault_shares(labels: Iterable[Mapping[str, bool | None]]) -> dict[str, Any]:
    """Of each fault: how many were labelled, the share that has it, and its 95% interval (Wilson's)."""
    each = list(labels)
    found: dict[str, Any] = {"n": len(each)}
    for fault in FAULTS:
        known = [bool(label[fault]) for label in each if label[fault] is not None]
        bounds = list(statistics.wilson_interval(sum(known), len(known))) if known else None
        found[fault] = {"labelled": len(known), "share": sum(known) / len(known) if known else None, "ci95": bounds}
    return found


def write_labels_csv(file: Path, records: Sequence[Record], labels: Mapping[str, Mapping[str, bool | None]]) -> None:
    """The answers as CSV, with empty columns for a person's labels; the judge's in a file beside, so that nobody is led.

    Raises SophiaError when one of them cannot be written.
    """
    try:
        with file.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, CSV_COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(_csv_row(record) for record in records)
        judge_labels_file(file).write_bytes(b"".join(to_line({"sample_id": name, **said}) for name, said in labels.items()))
    except OSError as error:
        raise SophiaError(f"{file}: cannot be written ({error.strerror}); choose another file with --labels-csv") from None


def check_not_labeled(sheet: Path) -> None:
    """Raises UsageError where a sheet stands that somebody has filled in, or a file that is none."""
    if not sheet.exists() or not sheet.stat().st_size:
        return
    try:
        filled = any(label is not None for labels in _read_label_rows(sheet).values() for label in labels.values())
    except InputError:
        filled = True
    if filled:
        raise UsageError(f"{sheet}: holds somebody's labels, or is no sheet; choose another file, or --force replaces it")


def _csv_row(record: Record) -> dict[str, str]:
    """The cells of an answer. What a spreadsheet would take for a formula is marked as text: a model has written it."""
    cells = {name: str(record.get(name) or "") for name in CSV_COLUMNS} | {"question": whole_question(record)}
    cells |= {name: f"'{cells[name]}" for name in TEXT_COLUMNS if cells[name].lstrip().startswith(("=", "+", "-", "@"))}
    return cells | {"image": " ".join(to_cached_file(image) for image in image_list(record))}


def judge_labels_file(sheet: Path) -> Path:
    """Where the judge's labels of a sheet lie."""
    return sheet.with_name(f"{sheet.name}.judge.jsonl")


def label_agreement(sheet: Path) -> dict[str, Any]:
    """Of each fault: how many answers both labelled, the share on which they agree, Cohen's κ, and both shares.

    Raises InputError for a sheet that cannot be read, or holds other labels than yes and no, or other answers than the
    judge's.
    """
    theirs: dict[str, Mapping[str, Any]] = {
        str(row.get("sample_id")): row for row in read_records([str(judge_labels_file(sheet))])
    }
    ours = _read_label_rows(sheet)
    if strangers := [name for name in ours if name not in theirs]:
        seen = f"{judge_labels_file(sheet).name} holds no answer of this id"
        raise InputError(f"{sheet}: sample_id {strangers[0]!r}: {seen}; leave the ids as they were written")
    found: dict[str, Any] = {}
    for fault in FAULTS:
        pairs = [
            (label, bool(theirs[name][fault]))
            for name, labels in ours.items()
            if (label := labels[fault]) is not None and theirs[name].get(fault) is not None
        ]
        found[fault] = {"n": len(pairs), "agreed": None, "kappa": None, "person": None, "judge": None}
        if pairs:
            person, judge = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
            agreed = sum(one == other for one, other in pairs) / len(pairs)
            kappa = statistics.cohen_kappa(pairs)
            found[fault] |= {"agreed": agreed, "kappa": kappa, "person": person, "judge": judge}
    return found


def _read_label_rows(sheet: Path) -> dict[str, dict[str, bool | None]]:
    """The labels of each answer. Raises InputError."""
    found: dict[str, dict[str, bool | None]] = {}
    for number, row in enumerate(_read_csv(sheet), 2):
        said = {fault: row[fault].casefold() for fault in FAULTS}
        if odd := [fault for fault in FAULTS if said[fault] and said[fault] not in LABEL_VALUES]:
            column = f"{sheet}: row {number}: column `{odd[0]}`"
            raise InputError(f"{column} is {said[odd[0]]!r}; write yes or no, or leave it empty")
        if (name := row["sample_id"]) in found:
            raise InputError(f"{sheet}: row {number}: sample_id {name!r} comes twice; leave one out")
        found[name] = {fault: LABEL_VALUES.get(said[fault]) for fault in FAULTS}
    return found


def _read_csv(sheet: Path) -> Iterator[dict[str, str]]:
    """The rows of a sheet, however a spreadsheet has saved it: commas, semicolons or tabs; columns in any order and case."""
    try:
        csv.field_size_limit(1 << 30)  # a response may be longer than its usual limit
        with sheet.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            stream.seek(0)
            delimiter = max(",;\t", key=head.count)
            rows = csv.reader(stream, delimiter=delimiter)
            columns = [name.strip().casefold().replace(" ", "_") for name in next(rows, [])]
            if missing := [name for name in ("sample_id", *FAULTS) if name not in columns]:
                raise InputError(f"{sheet}: has no column `{missing[0]}`; give the sheet that `eval --labels-csv` wrote")
            for cells in rows:
                if any(cell.strip() for cell in cells):
                    padded = [*cells, *[""] * len(columns)]
                    yield {name: cell.strip() for name, cell in zip(columns, padded, strict=False)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{sheet}: cannot be read ({getattr(error, 'strerror', None) or error}); give the sheet") from None
