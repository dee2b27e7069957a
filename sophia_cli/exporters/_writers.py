"""Writes the formats that are not a stream of lines: tables, hub folders, and folders with extra files."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sophia_cli.errors import RecordError, UsageError
from sophia_cli.exporters._records import ExampleSource
from sophia_cli.io.counter import RecordCounter
from sophia_cli.io.images import image_bytes, image_format, is_embedded
from sophia_cli.io.jsonl import read_records, to_line
from sophia_cli.io.parquet import check_unicode, column_types, dataset_card, typed_row, write_parquet, write_parquet_folder
from sophia_cli.io.rereadable import spooling
from sophia_cli.records import Record, image_list, record_name
from sophia_cli.runtime.progress import Progress, log_line


class TableRows:
    """The rows of a table, read twice: the records are first spooled to a file, without their images."""

    def __init__(self, make: ExampleSource, table: bool, aside: Path):
        self.examples, self.table, self.spool, self.count = make, table, aside, 0

    def spool_records(self, counter: RecordCounter) -> None:
        """Writes the records to the spool file, each with its place for errors."""
        with spooling(), self.spool.open("wb") as file:
            for record, _ in self.examples.kept_records(counter):
                file.write(to_line({"where": record.where, "record": record}))
                self.count += 1

    def check_images_outside(self, folder: Path) -> None:
        """Checks that a folder which will be replaced has no image of the records.

        Raises:
            UsageError: it has one.
        """
        for record in self._spooled_records():
            for image in image_list(record):
                if not is_embedded(image) and Path(image).resolve().is_relative_to(folder.resolve()):
                    raise UsageError(
                        f"{folder}: contains an image of the records ({image}); write to another folder with -o"
                    )

    def rows_without_images(self) -> Iterator[dict[str, Any]]:
        """Yields the rows without images, to find the column types; skips what cannot be a row."""
        for record in self._spooled_records():
            try:
                yield self._make_row(record, reads_images=False)
            except RecordError:
                continue

    def export_rows(self, progress: Progress, types: dict[str, str] | None) -> Iterator[dict[str, Any]]:
        """Yields the rows with these column types; logs and counts what cannot be a row."""
        for record in self._spooled_records():
            try:
                row = self._make_row(record, reads_images=True)
                row = check_unicode(row) if types is None else typed_row(row, types)
            except RecordError as error:
                log_line(f"{record_name(record)} failed: {error}")
                progress.count_record(failed=True)
                continue
            progress.count_record()
            yield row

    def _make_row(self, record: Record, reads_images: bool) -> dict[str, Any]:
        row: dict[str, Any] = self.examples.request.exporter.row_fields(
            self.examples.make_example(record, None, self.table, reads_images)
        )
        return row

    def _spooled_records(self) -> Iterator[Record]:
        return (Record(aside["record"], aside["where"]) for aside in read_records([str(self.spool)]))


def write_draft(exporter: ModuleType, rows: TableRows, progress: Progress, draft: Path) -> None:
    if exporter.OUTPUT_KIND == "folder":
        draft.mkdir()
        with (draft / exporter.FILE_NAME).open("wb") as file:
            for row in rows.export_rows(progress, None):
                file.write(to_line({**row, "images": [_save_embedded_image(draft, image) for image in row["images"]]}))
        for name, content in exporter.EXTRA_FILES.items():
            (draft / name).write_text(json.dumps(content, indent=2) + "\n")
        return
    types = column_types(rows.rows_without_images(), exporter.TYPED_COLUMNS)
    if exporter.OUTPUT_KIND == "table":
        write_parquet(rows.export_rows(progress, types), types, draft)
        return
    draft.mkdir()
    write_parquet_folder(rows.export_rows(progress, types), types, draft)
    (draft / "README.md").write_text(dataset_card(types))


def _save_embedded_image(folder: Path, image: str) -> str:
    """Returns an image's path; an embedded image becomes a file of the folder, named by its hash."""
    if not is_embedded(image):
        return image
    data = image_bytes(image)
    file = folder / "images" / f"{hashlib.sha256(data).hexdigest()[:32]}.{image_format(data)}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    return str(file.relative_to(folder))


def remove_path(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
