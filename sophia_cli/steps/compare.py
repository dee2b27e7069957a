"""Compares two evaluation runs, question by question.

Both runs answer the same questions, so the difference on each question counts. Its standard error is far smaller than
that of two separate accuracies (Miller, arXiv 2411.00640). The questions that flipped go to stdout, the figures to
stderr.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from sophia_cli.errors import InputError, RecordError
from sophia_cli.evaluation import statistics
from sophia_cli.evaluation.report import format_percent
from sophia_cli.io.jsonl import read_records, to_line, write_json
from sophia_cli.io.paths import check_side_files, check_stdout
from sophia_cli.io.stdio import claim_stdout, write_stdout
from sophia_cli.records import Record, has_failed, need_number, need_text, where_of
from sophia_cli.runtime.progress import log_line, stderr_console
from sophia_cli.runtime.tables import fitted_table

MADE_BY = "`sophia eval` writes it"
MEAN = "mean"


@dataclass
class GradedQuestion:
    """The graded samples of one question in one run. question_key: question and gold answer, to detect another question
    of the same id.
    """

    benchmark: str
    cluster: str
    question_key: str
    scores: list[float] = field(default_factory=list)

    @property
    def mean_score(self) -> float:
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class QuestionPair:
    """One question in both runs."""

    id: str
    first: GradedQuestion
    second: GradedQuestion

    @property
    def difference(self) -> float:
        """How much better the second run is."""
        return self.second.mean_score - self.first.mean_score


def run(one: str, other: str, summary_file: Path | None, quiet: bool) -> int:
    """`sophia compare`: reads two runs, writes the questions that flipped, and shows which run is better. Returns the
    exit code.
    """
    check_stdout([one, other])
    check_side_files([summary_file], [one, other])
    files, left = (one, other), (Counter[str](), Counter[str]())
    try:
        runs = [graded_questions(read_records([file]), without) for file, without in zip(files, left, strict=True)]
    except RecordError as error:
        raise InputError(str(error)) from None
    pairs = pair_questions(files, *runs)
    stdout = claim_stdout()
    for flipped in flipped_questions(pairs):
        write_stdout(stdout, to_line(flipped))
    only = [len(run) - len(pairs) for run in runs]
    for file, alone, without in zip(files, only, left, strict=True):
        if alone:
            log_line(f"compare: {alone:,} graded questions of {file} are not in the other run; they are ignored", quiet)
        for why, count in without.items():
            log_line(f"compare: {count:,} samples of {file} {why}; they are ignored", quiet)
    counts = {"only_in_one": only, "left_out": [dict(without) for without in left]}
    figures = {"runs": list(files), **counts, "compared": comparison_figures(pairs)}
    if not quiet:
        print_comparison(figures)
    if summary_file:
        write_json(summary_file, figures)
    return 0


def pair_questions(
    files: tuple[str, str], one: dict[str, GradedQuestion], other: dict[str, GradedQuestion]
) -> list[QuestionPair]:
    """Returns the questions that both runs have graded samples of.

    Raises:
        InputError: there are none, or one id stands for two questions.
    """
    pairs = [QuestionPair(name, one[name], other[name]) for name in one if name in other]
    both = " and ".join(files)
    if not pairs:
        raise InputError(f"{both}: have no graded question in common; compare two runs of the same benchmark")
    for pair in pairs:
        if (pair.first.benchmark, pair.first.question_key) != (pair.second.benchmark, pair.second.question_key):
            raise InputError(
                f"{both}: {pair.id} is a different question in each run; compare two runs of the same questions"
            )
    return pairs


def graded_questions(records: Iterable[Record], left: Counter[str]) -> dict[str, GradedQuestion]:
    """Returns the graded questions of a run by id; `left` counts the ungraded samples by cause.

    Raises:
        RecordError: a record was not written by `eval`.
        InputError: a sample occurs twice.
    """
    found: dict[str, GradedQuestion] = {}
    seen: dict[str, str] = {}
    for record in records:
        if has_failed(record):
            left["failed"] += 1
            continue
        sample, name = need_text(record, "sample_id", MADE_BY), need_text(record, "id", MADE_BY)
        score = need_number(record, "reward")
        if sample in seen:
            raise InputError(f"{where_of(record)}: sample {sample} is also at {seen[sample]}; delete one of them")
        seen[sample] = where_of(record)
        if score is None:
            left["could not be graded"] += 1
        else:
            asked = orjson.dumps([record.get("question"), record.get("answer")]).decode("utf-8", "replace")
            benchmark, cluster = str(record.get("benchmark", "?")), record.get("cluster")
            cluster = name if cluster is None else str(cluster)
            found.setdefault(name, GradedQuestion(benchmark, cluster, asked)).scores.append(score)
    return found


def flipped_questions(pairs: Iterable[QuestionPair]) -> Iterator[dict[str, Any]]:
    """Yields the questions on which the two runs score differently."""
    for pair in pairs:
        if pair.difference:
            yield {
                "id": pair.id,
                "benchmark": pair.first.benchmark,
                "one": pair.first.mean_score,
                "other": pair.second.mean_score,
            }


def comparison_figures(pairs: list[QuestionPair]) -> dict[str, dict[str, Any]]:
    """Returns the figures of each benchmark and, for several benchmarks, of their means."""
    groups: dict[str, list[QuestionPair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.first.benchmark].append(pair)
    found = {name: _benchmark_figures([members]) for name, members in groups.items()}
    return found if len(found) == 1 else {**found, MEAN: _benchmark_figures(list(groups.values()))}


def _benchmark_figures(benchmarks: list[list[QuestionPair]]) -> dict[str, Any]:
    """Returns accuracies as means over questions, the difference (second minus first) with its 95% interval and p, and
    wins and losses. All benchmarks have the same weight.
    """
    of_all = [pair for pairs in benchmarks for pair in pairs]
    found = statistics.paired_difference([_cluster_differences(pairs) for pairs in benchmarks])
    return {
        "questions": len(of_all),
        "one": _mean_score([_mean_score([pair.first.mean_score for pair in pairs]) for pairs in benchmarks]),
        "other": _mean_score([_mean_score([pair.second.mean_score for pair in pairs]) for pairs in benchmarks]),
        "difference": found.difference,
        "ci95": list(found.ci95),
        "p": found.p,
        "wins": sum(pair.difference > 0 for pair in of_all),
        "losses": sum(pair.difference < 0 for pair in of_all),
    }


def _mean_score(values: list[float]) -> float:
    return sum(values) / len(values)


def _cluster_differences(pairs: list[QuestionPair]) -> list[list[float]]:
    """Returns the differences of one benchmark, grouped by cluster."""
    clusters: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        clusters[pair.first.cluster].append(pair.difference)
    return list(clusters.values())


def print_comparison(figures: Mapping[str, Any]) -> None:
    """Prints the comparison as a table to stderr."""
    one, other = figures["runs"]
    headings = ("benchmark", "one", "other", "by", "95% interval", "p", "won", "lost")
    rows = []
    for name, found in figures["compared"].items():
        low, high = found["ci95"]
        cells = [format_percent(found["one"]), format_percent(found["other"]), f"{100 * found['difference']:+.1f}"]
        cells += [f"{100 * low:+.1f}…{100 * high:+.1f}", "<0.001" if found["p"] < 0.001 else f"{found['p']:.3f}"]
        rows.append([name, *cells, f"{found['wins']:,}", f"{found['losses']:,}"])
    console, caption = stderr_console(), "won, lost: questions on which the other is better, worse"
    console.print(fitted_table(f"{other} against {one}", headings, rows, console.width, ("benchmark",), caption))
