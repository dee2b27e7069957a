"""Why answers are wrong (Table 9): visual hallucination and broken logic, as a judge and a person label them.

A judge labels a sample of the answers. A CSV file with the same answers, without the judge's labels, goes to a person.
Afterwards Cohen's κ says how far the two agree, and so how reliable the judge's shares are.
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
from sophia_cli.models.thinking import answer_of
from sophia_cli.prompts import fill_template
from sophia_cli.records import Record, has_failed, image_list, sample_seed

FAULTS = {"hallucination": "visual hallucination", "broken_logic": "broken logic"}
"""The two faults: column names, and names for people."""
LABEL_VALUES = {"yes": True, "no": False}
LABEL_LINE = re.compile(r"\W*(hallucination|broken logic)\W+(yes|no)\W*", re.IGNORECASE)
TEXT_COLUMNS = ("question", "answer", "response")
"""Columns with text that may look like a formula."""
CSV_COLUMNS = ("sample_id", "image", "question", "answer", "response", *FAULTS)
MAX_SHOWN_CHARS = 24_000
"""Characters of a response that the judge sees: its beginning and its end, if it is longer."""


@dataclass
class AuditSample:
    """A random sample of records: those whose ids have the smallest hashes, in whatever order they come."""

    size: int
    seed: int
    _kept: list[tuple[int, str, Record]] = field(default_factory=list)

    def add_record(self, record: Record) -> None:
        """Offers one record of `eval`. Failures are not answers."""
        if not has_failed(record):
            name = str(record["sample_id"])
            rank = int.from_bytes(sha256(f"{self.seed}\x00{name}".encode()).digest()[:8], "big")
            put = heapq.heappush if len(self._kept) < self.size else heapq.heappushpop
            put(self._kept, (-rank, name, record))

    @property
    def drawn_records(self) -> list[Record]:
        """Returns the sampled records, by id."""
        return [record for _, _, record in sorted(self._kept, key=lambda kept: kept[1])]


def audit_records(records: Sequence[Record], judge: AnswerJudge) -> Iterator[Record]:
    """Yields the judge's labels for each answer: `sample_id` and the label of each fault, or `error`."""

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
    """Returns the labels in the last lines of a judge's response; None where a line is missing or neither yes nor no."""
    lines = [line for line in (answer_of(text) or "").splitlines() if line.strip()]
    said = [match for line in lines[-len(FAULTS) :] if (match := LABEL_LINE.fullmatch(line))]
    labels = {match[1].casefold().replace(" ", "_"): LABEL_VALUES[match[2].casefold()] for match in said}
    return {fault: labels.get(fault) for fault in FAULTS}


def fault_shares(labels: Iterable[Mapping[str, bool | None]]) -> dict[str, Any]:
    """Returns for each fault the number of labels, the share that has it, and its 95% interval (Wilson's)."""
    each = list(labels)
    found: dict[str, Any] = {"n": len(each)}
    for fault in FAULTS:
        known = [bool(label[fault]) for label in each if label[fault] is not None]
        bounds = list(statistics.wilson_interval(sum(known), len(known))) if known else None
        found[fault] = {"labeled": len(known), "share": sum(known) / len(known) if known else None, "ci95": bounds}
    return found


def write_labels_csv(file: Path, records: Sequence[Record], labels: Mapping[str, Mapping[str, bool | None]]) -> None:
    """Writes the answers as CSV with empty label columns, and the judge's labels to a separate file, so that they do not
    bias the person.

    Raises:
        SophiaError: a file cannot be written.
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
    """Checks that a file may be overwritten.

    Raises:
        UsageError: it holds a person's labels, or is not such a file.
    """
    if not sheet.exists() or not sheet.stat().st_size:
        return
    try:
        filled = any(label is not None for labels in _read_label_rows(sheet).values() for label in labels.values())
    except InputError:
        filled = True
    if filled:
        raise UsageError(
            f"{sheet}: contains labels, or is not a file of labels; choose another file, or use --force to replace it"
        )


def _csv_row(record: Record) -> dict[str, str]:
    """Returns the cells of an answer. What a spreadsheet would take for a formula is escaped, because a model has written
    it.
    """
    cells = {name: str(record.get(name) or "") for name in CSV_COLUMNS} | {"question": whole_question(record)}
    cells |= {name: f"'{cells[name]}" for name in TEXT_COLUMNS if cells[name].lstrip().startswith(("=", "+", "-", "@"))}
    return cells | {"image": " ".join(to_cached_file(image) for image in image_list(record))}


def judge_labels_file(sheet: Path) -> Path:
    """Returns the path of the judge's labels."""
    return sheet.with_name(f"{sheet.name}.judge.jsonl")


def label_agreement(sheet: Path) -> dict[str, Any]:
    """Returns for each fault the number of answers with both labels, the agreement, Cohen's κ, and both shares.

    Raises:
        InputError: the file cannot be read, or holds other labels or other answers than the judge's.
    """
    theirs: dict[str, Mapping[str, Any]] = {
        str(row.get("sample_id")): row for row in read_records([str(judge_labels_file(sheet))])
    }
    ours = _read_label_rows(sheet)
    if strangers := [name for name in ours if name not in theirs]:
        seen = f"{judge_labels_file(sheet).name} has no answer with this id"
        raise InputError(f"{sheet}: sample_id {strangers[0]!r}: {seen}; do not change the ids")
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
    """Returns the labels of each answer.

    Raises:
        InputError: a label or an id is bad.
    """
    found: dict[str, dict[str, bool | None]] = {}
    for number, row in enumerate(_read_csv(sheet), 2):
        said = {fault: row[fault].casefold() for fault in FAULTS}
        if odd := [fault for fault in FAULTS if said[fault] and said[fault] not in LABEL_VALUES]:
            column = f"{sheet}: row {number}: column `{odd[0]}`"
            raise InputError(f"{column} is {said[odd[0]]!r}; write yes or no, or leave it empty")
        if (name := row["sample_id"]) in found:
            raise InputError(f"{sheet}: row {number}: sample_id {name!r} occurs twice; delete one")
        found[name] = {fault: LABEL_VALUES.get(said[fault]) for fault in FAULTS}
    return found


def _read_csv(sheet: Path) -> Iterator[dict[str, str]]:
    """Returns the rows of a CSV file as any spreadsheet saves it: commas, semicolons or tabs; columns in any order and
    case.
    """
    try:
        csv.field_size_limit(1 << 30)  # a response may be longer than the default limit
        with sheet.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            stream.seek(0)
            delimiter = max(",;\t", key=head.count)
            rows = csv.reader(stream, delimiter=delimiter)
            columns = [name.strip().casefold().replace(" ", "_") for name in next(rows, [])]
            if missing := [name for name in ("sample_id", *FAULTS) if name not in columns]:
                raise InputError(f"{sheet}: has no column `{missing[0]}`; give the file that `eval --labels-csv` wrote")
            for cells in rows:
                if any(cell.strip() for cell in cells):
                    padded = [*cells, *[""] * len(columns)]
                    yield {name: cell.strip() for name, cell in zip(columns, padded, strict=False)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{sheet}: cannot be read ({getattr(error, 'strerror', None) or error}); give what `eval --labels-csv` wrote"
        ) from None
