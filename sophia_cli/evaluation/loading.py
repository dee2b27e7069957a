"""From `--bench` to items: where a benchmark's rows are, and what each is asked as.

`mathvision` comes from the hub, or its cache; `mathvision=FOLDER` from a copy of it: a clone of the hub's repository, or a
folder with a file for each part (`SPLIT.jsonl`, `SPLIT.parquet`, `CONFIG/SPLIT.…`); `mathvision=FILE` from one file of its
rows. What is no benchmark's name is a source of one's own, as `--data` takes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sophia_cli import registry
from sophia_cli.errors import InputError, RecordError, UsageError
from sophia_cli.images import image_bytes, kept_image
from sophia_cli.progress import notice
from sophia_cli.records import Record, where_of
from sophia_cli.sources import count_items, read_items, read_rows
from sophia_cli.streams import loads

SUFFIXES = (".parquet", ".jsonl")


@dataclass(frozen=True)
class Benchmark:
    """One that is asked: its name in the records, its file of `benchmarks/`, and where its rows are; None: on the hub.

    A source of the user's own has no file, and is the place itself. prefixed: its name is put before its ids, as those of
    several sources may be the same.
    """

    name: str
    kind: ModuleType | None
    place: str | None
    prefixed: bool = True

    @property
    def by(self) -> Sequence[str]:
        """The fields of its categories."""
        return tuple(self.kind.BY) if self.kind else ()

    @property
    def judged(self) -> bool:
        """Whether the paper had a model judge its answers."""
        return bool(self.kind and self.kind.JUDGED)

    def count(self) -> int | None:
        """How many questions it has, where that is known beforehand."""
        if self.kind is None:
            return count_items(str(self.place))
        return int(self.kind.QUESTIONS) if self.place is None else None

    def items(self) -> Iterator[Record]:
        """Its questions, each with an `id` and `benchmark`; one that cannot be asked carries `error`.

        Raises UsageError, InputError when its rows cannot be read, or an id comes twice.
        """
        if self.kind is None:
            for own in read_items(str(self.place)):
                name = f"{self.name}/{own['id']}" if self.prefixed else own["id"]
                yield Record({**own, "id": name, "benchmark": self.name}, where_of(own))
            return
        self._tell_missing()
        seen: dict[str, str] = {}
        for part in self.kind.PARTS if not self._is_file() else ("",):
            for row in self._rows(part):
                item = _item(self.kind, self.name, row, part)
                if item is None:
                    continue
                if item["id"] in seen:
                    raise InputError(f"{where_of(row)}: id {item['id']} stands at {seen[item['id']]} already; leave one out")
                seen[item["id"]] = where_of(row)
                yield item

    def _is_file(self) -> bool:
        return self.place is not None and Path(self.place).is_file()

    def _rows(self, part: str) -> Iterator[Record]:
        """The rows of a part, from where they are."""
        assert self.kind
        if self.place is None:
            return (
                read_rows(f"hf:{self.kind.HUB}:{part}") if "@" in part else self._matching(_downloaded(self.kind.HUB), part)
            )
        if self._is_file():
            return read_rows(self.place)
        folder = Path(self.place)
        if "@" not in part:
            return self._matching(folder, part)
        if any(_file_of(folder, each) for each in self.kind.PARTS):
            return self._beside(self._of_file(folder, part), folder)
        return read_rows(f"hf:{folder}:{part}")

    def _of_file(self, folder: Path, part: str) -> Iterator[Record]:
        """The rows of a part's own file; none where there are files of other parts alone (`_tell_missing`)."""
        file = _file_of(folder, part)
        return read_rows(str(file)) if file else iter(())

    def _tell_missing(self) -> None:
        """Says which parts a folder with a file for each does not hold."""
        assert self.kind
        if self.place is None or self._is_file():
            return
        missing = [part for part in self.kind.PARTS if "@" in part and not _file_of(Path(self.place), part)]
        if 0 < len(missing) < len(self.kind.PARTS):
            notice(
                f"eval: {self.place} holds {len(self.kind.PARTS) - len(missing)} of {len(self.kind.PARTS)} parts of "
                f"{self.name}; left out: {', '.join(missing)}"
            )

    def _matching(self, folder: Path, pattern: str) -> Iterator[Record]:
        """The rows of the folder's JSON files, each a list or JSONL."""
        files = sorted(file for suffix in ("", "l") for file in folder.glob(pattern + suffix))
        if not files:
            raise InputError(f"{folder}: holds no {pattern}; give the folder that the data set was downloaded to")
        for file in files:
            yield from self._beside(_json_rows(file), folder)

    def _beside(self, rows: Iterator[Record], folder: Path) -> Iterator[Record]:
        """Rows whose images are files of the benchmark's folder."""
        assert self.kind
        for row in rows:
            for name in self.kind.IMAGES:
                if isinstance(row.get(name), list):
                    row[name] = [_within(folder, image) for image in row[name]]
                elif name in row:
                    row[name] = _within(folder, row[name])
            yield row


def benchmarks(names: str) -> list[Benchmark]:
    """The benchmarks of a list with commas. Raises UsageError for what is neither one nor a source."""
    found = []
    for given in names.split(","):
        name, _, place = given.strip().partition("=")
        if name in registry.names("benchmarks"):
            if place and not Path(place).exists():
                raise UsageError(f"--bench {given}: no such file or folder; give the rows of {name}")
            found.append(Benchmark(name, registry.find("benchmarks", name), place or None))
        elif Path(name).exists() or name.startswith("hf:"):
            found.append(own(name, prefixed="," in names))
        else:
            known = ", ".join(registry.names("benchmarks"))
            raise UsageError(f"--bench {name}: no benchmark and no file; choose from {known}, or give a .jsonl file")
    if len({benchmark.name for benchmark in found}) < len(found):
        raise UsageError(f"--bench {names}: names one twice; leave it out")
    return found


def own(source: str, prefixed: bool = False) -> Benchmark:
    """A source of the user's own as a benchmark, named after its file."""
    return Benchmark(Path(source).name if Path(source).exists() else source, None, source, prefixed)


def _item(kind: ModuleType, name: str, row: Record, part: str) -> Record | None:
    """The item of a row, its images as files; with `error` where it cannot be one; None for a row of another task."""
    where = where_of(row)
    try:
        fields = kind.item(row, part)
        if fields is None:
            return None
        if "image" in fields:
            given = fields["image"] if isinstance(fields["image"], list) else [fields["image"]]
            fields["image"] = [_as_file(image) for image in given]
    except RecordError as error:
        given_id = row.get(kind.ID)
        own = str(given_id) if isinstance(given_id, int | str) and given_id != "" else where
        own = f"{part}/{own}" if len(kind.PARTS) > 1 and part else own  # ids may be those of another part, too
        return Record({"id": f"{name}/{own}", "benchmark": name, "error": str(error)}, where)
    return Record({**fields, "id": f"{name}/{fields['id']}", "benchmark": name}, where)


def _as_file(image: str) -> str:
    """An embedded image as a file of the cache: records stay short, and a person can look at it."""
    return kept_image(image_bytes(image)) if image.startswith("data:") else image


def _file_of(folder: Path, part: str) -> Path | None:
    """The file of a part in a folder that has one for each."""
    config, _, split = part.partition("@")
    files = [folder / within / f"{split}{suffix}" for within in (config, "") for suffix in SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def _within(folder: Path, image: Any) -> Any:
    """The path of an image that a row names as it lies in the folder; embedded ones stay."""
    return str(folder / image) if isinstance(image, str) and image and not image.startswith("data:") else image


def _downloaded(hub: str) -> Path:
    """The folder of a repository on the hub, downloaded whole: images are files of it, too. Raises InputError."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub, repo_type="dataset"))
    except Exception as error:  # noqa: BLE001  (hub and network raise anything)
        raise InputError(f"hf:{hub}: cannot be loaded ({type(error).__name__}: {error}); check the network") from None


def _json_rows(file: Path) -> Iterator[Record]:
    """The rows of a JSON file that is one list, or of JSON lines. Raises InputError."""
    with file.open("rb") as stream:
        if stream.read(64).lstrip()[:1] != b"[":
            return read_rows(str(file))
    try:
        rows = loads(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error}); download it again") from None
    return (Record(row if isinstance(row, dict) else {}, f"{file}:{number}") for number, row in enumerate(rows, 1))
