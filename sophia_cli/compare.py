"""Whether one of two runs is better: question by question, on the same questions.

Two runs answer the same questions, so what counts is the difference on each; its standard error is far smaller than that
of the two accuracies on their own (Miller, arXiv 2411.00640). Reads what `eval` wrote; the questions that flipped go to
stdout, the figures to stderr.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sophia_cli.descriptors import claim_stdout
from sophia_cli.errors import InputError, RecordError
from sophia_cli.evaluation import statistics
from sophia_cli.evaluation.tables import percent
from sophia_cli.progress import console, notice
from sophia_cli.records import Record, has_failed, need_number, need_text, where_of
from sophia_cli.streams import read_records, to_line, write_json

MADE_BY = "`sophia eval` writes it"
MEAN = "mean"


@dataclass
class Answered:
    """The graded samples of one question in one run."""

    benchmark: str
    cluster: str
    scores: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class Pair:
    """One question in both runs."""

    id: str
    one: Answered
    other: Answered

    @property
    def difference(self) -> float:
        """How much better the second run is."""
        return self.other.mean - self.one.mean


def run(one: str, other: str, summary_file: Path | None, quiet: bool) -> int:
    """`sophia compare`: reads two runs, writes the questions that flipped, and says which run is better. The exit code."""
    try:
        runs = [answered(read_records([file])) for file in (one, other)]
    except RecordError as error:
        raise InputError(str(error)) from None
    pairs = [Pair(name, runs[0][name], runs[1][name]) for name in runs[0] if name in runs[1]]
    if not pairs:
        raise InputError(f"{one} and {other}: have no graded question in common; give two runs of the same benchmark")
    stdout = claim_stdout()
    for flipped in flips(pairs):
        stdout.write(to_line(flipped))
    stdout.flush()
    only = [len(run) - len(pairs) for run in runs]
    figures = {"runs": [one, other], "only_in_one": only, "compared": compared(pairs)}
    for file, alone in zip((one, other), only, strict=True):
        if alone:
            notice(f"compare: {alone:,} graded questions of {file} are not in the other; they are left out", quiet)
    if not quiet:
        show(figures)
    if summary_file:
        write_json(summary_file, figures)
    return 0


def answered(records: Iterable[Record]) -> dict[str, Answered]:
    """The graded questions of a run, by id. Raises RecordError for what is not `eval`'s, InputError for a sample twice."""
    found: dict[str, Answered] = {}
    seen: dict[str, str] = {}
    for record in records:
        if has_failed(record):
            continue
        sample, name = need_text(record, "sample_id", MADE_BY), need_text(record, "id", MADE_BY)
        score = need_number(record, "reward")
        if sample in seen:
            raise InputError(f"{where_of(record)}: sample {sample} stands at {seen[sample]} already; leave one out")
        seen[sample] = where_of(record)
        if score is not None:
            benchmark, cluster = str(record.get("benchmark", "?")), record.get("cluster")
            cluster = name if cluster is None else str(cluster)
            found.setdefault(name, Answered(benchmark, cluster)).scores.append(score)
    return found


def flips(pairs: Iterable[Pair]) -> Iterator[dict[str, Any]]:
    """The questions of which the runs do not score the same."""
    for pair in pairs:
        if pair.difference:
            yield {"id": pair.id, "benchmark": pair.one.benchmark, "one": pair.one.mean, "other": pair.other.mean}


def compared(pairs: list[Pair]) -> dict[str, dict[str, Any]]:
    """The figures of each benchmark, and where there are several, of the means over them, as `eval` has it."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.one.benchmark].append(pair)
    found = {name: _figures(members) for name, members in groups.items()}
    return found if len(found) == 1 else {**found, MEAN: _mean(list(found.values()))}


def _mean(each: list[dict[str, Any]]) -> dict[str, Any]:
    """Every benchmark counts alike; their errors are independent."""
    means = {name: sum(found[name] for found in each) / len(each) for name in ("one", "other", "difference")}
    width = math.hypot(*((found["ci95"][1] - found["ci95"][0]) / 2 for found in each)) / len(each)
    p = 2 * statistics.NORMAL.cdf(-abs(means["difference"]) * statistics.Z95 / width) if width else 1.0
    bounds = [max(-1.0, means["difference"] - width), min(1.0, means["difference"] + width)]
    counts = {name: sum(found[name] for found in each) for name in ("questions", "wins", "losses")}
    return {**counts, **means, "ci95": bounds, "p": p}


def _figures(pairs: list[Pair]) -> dict[str, Any]:
    """Accuracies as means over questions, the second minus the first with 95% interval and p, and who wins how often."""
    clusters: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        clusters[f"{pair.one.benchmark}\0{pair.one.cluster}"].append(pair.difference)
    difference, bounds, p = statistics.paired(list(clusters.values()))
    return {
        "questions": len(pairs),
        "one": sum(pair.one.mean for pair in pairs) / len(pairs),
        "other": sum(pair.other.mean for pair in pairs) / len(pairs),
        "difference": difference,
        "ci95": list(bounds),
        "p": p,
        "wins": sum(pair.difference > 0 for pair in pairs),
        "losses": sum(pair.difference < 0 for pair in pairs),
    }


def show(figures: Mapping[str, Any]) -> None:
    """The comparison as a table on stderr."""
    from rich.markup import escape
    from rich.table import Table

    one, other = map(escape, figures["runs"])
    table = Table(title=f"{other} against {one}", caption="won, lost: questions on which the other is better, worse")
    for heading in ("benchmark", "one", "other", "by", "95% interval", "p", "won", "lost"):
        table.add_column(heading, justify="left" if heading == "benchmark" else "right")
    for name, found in figures["compared"].items():
        low, high = found["ci95"]
        cells = [percent(found["one"]), percent(found["other"]), f"{100 * found['difference']:+.1f}"]
        cells += [f"{100 * low:+.1f}…{100 * high:+.1f}", "<0.001" if found["p"] < 0.001 else f"{found['p']:.3f}"]
        table.add_row(escape(name), *cells, f"{found['wins']:,}", f"{found['losses']:,}")
    console().print(table)
