"""From `--bench` to items: which benchmarks, and the item of each row.

`mathvision` comes from the hub or its cache. `mathvision=FOLDER` comes from a clone of the hub's repository, or a
folder with a file per split (`SPLIT.jsonl`, `SPLIT.parquet`, `CONFIG/SPLIT.…`). `mathvision=FILE` comes from one file
of its rows. Any other name is a source of the user's own, as in `--data`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sophia_cli import registry
from sophia_cli.errors import RecordError, UsageError
from sophia_cli.evaluation.benchmark_files import find_splits, read_split
from sophia_cli.io.images import to_cached_file
from sophia_cli.records import Record, where_of
from sophia_cli.sources.items import count_items, read_items


@dataclass(frozen=True)
class EvalBenchmark:
    """A benchmark to evaluate on.

    Attributes:
        name: Its name in the records.
        kind: Its file of `benchmarks/`; None for a source of the user's own.
        source: Where its rows are; None for the hub.
        prefixed: Its name is put before its ids, because ids of several benchmarks may be equal.
    """

    name: str
    kind: ModuleType | None
    source: str | None
    prefixed: bool = True

    @property
    def category_fields(self) -> Sequence[str]:
        """The fields of its categories."""
        return tuple(self.kind.CATEGORIES) if self.kind else ()

    @property
    def is_llm_judged(self) -> bool:
        """Whether the paper had a model judge its answers."""
        return bool(self.kind and self.kind.LLM_JUDGED)

    def count_questions(self) -> int | None:
        """Returns its number of questions, if known beforehand."""
        if self.kind is None:
            return count_items(str(self.source))
        return int(self.kind.QUESTION_COUNT) if self.source is None else None

    def read_items(self) -> Iterator[Record]:
        """Yields its questions with `id` and `benchmark`; one that cannot be asked, or whose id repeats, has `error`.

        Raises:
            UsageError, InputError: its rows cannot be read.
        """
        if self.kind is None:
            for own in read_items(str(self.source)):
                name = f"{self.name}/{own['id']}" if self.prefixed else own["id"]
                yield Record({**own, "id": name, "benchmark": self.name}, where_of(own))
            return
        seen: dict[str, str] = {}
        for part in find_splits(self.kind, self.name, self.source):
            for row in read_split(self.kind, self.source, part):
                item = _make_item(self.kind, self.name, row, part)
                if item is None:
                    continue
                where = where_of(row)
                if item["id"] in seen:
                    said = f"{where}: id {item['id']} is also at {seen[item['id']]}; delete one"
                    item = Record({"id": f"{self.name}/{where}", "benchmark": self.name, "error": said}, where)
                seen[item["id"]] = where
                yield item


def parse_benchmarks(names: str) -> list[EvalBenchmark]:
    """Returns the benchmarks of a comma-separated list.

    Raises:
        UsageError: a name is neither a benchmark nor a source.
    """
    found = []
    for given in names.split(","):
        name, _, source = given.strip().partition("=")
        if name in registry.names("benchmarks"):
            if source and not Path(source).exists():
                raise UsageError(f"--bench {given}: no such file or folder; give the rows of {name}")
            found.append(EvalBenchmark(name, registry.find("benchmarks", name), source or None))
        elif name and (Path(name).exists() or name.startswith("hf:")):
            found.append(own_benchmark(name, prefixed=True))
        else:
            known = ", ".join(registry.names("benchmarks"))
            raise UsageError(
                f"--bench {name or names}: neither a benchmark nor a file; choose from {known}, or give a .jsonl file"
            )
    if len({benchmark.name for benchmark in found}) < len(found):
        raise UsageError(f"--bench {names}: two have the same name; omit one, or rename its file")
    return found


def own_benchmark(source: str, prefixed: bool = False) -> EvalBenchmark:
    """Returns a source of the user's own as a benchmark, named after its file."""
    return EvalBenchmark(Path(source).name if Path(source).exists() else source, None, source, prefixed)


def _make_item(kind: ModuleType, name: str, row: Record, part: str) -> Record | None:
    """Returns the item of a row with its images as files; with `error` where it is bad; None for a row of another task."""
    where = where_of(row)
    try:
        fields = kind.make_item(row, part)
        if fields is None:
            return None
        if "image" in fields:
            fields["image"] = [to_cached_file(image) for image in fields["image"]]
    except RecordError as error:
        given = row.get(kind.ID_FIELD)
        own = str(given) if isinstance(given, int | str) and given != "" else where
        own = f"{part}/{own}" if len(kind.SPLITS) > 1 and part else own  # ids may repeat in another split
        return Record({"id": f"{name}/{own}", "benchmark": name, "error": str(error)}, where)
    return Record({**fields, "id": f"{name}/{fields['id']}", "benchmark": name}, where)
