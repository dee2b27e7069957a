"""Counts the samples of an evaluation into metrics, benchmark by benchmark."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sophia_cli.evaluation import statistics
from sophia_cli.evaluation.majority_vote import vote_key
from sophia_cli.evaluation.statistics import Clusters, Vote
from sophia_cli.records import THINK_CLOSE, THINK_OPEN, Record, choices_of, has_failed

UNREADABLE_VERDICTS = ("no_answer", "truncated")
"""Verdicts of a response without a final answer."""
READABLE_VERDICTS = ("correct", "wrong")
"""Verdicts of a judge that count."""
CORRECT_VOTE = "right"
"""The vote of every correct answer, however it is written."""


@dataclass
class QuestionSamples:
    """The graded samples of one question: its cluster, its categories, and its votes."""

    cluster: str
    groups: dict[str, list[str]]
    votes: list[Vote] = field(default_factory=list)

    @property
    def scores(self) -> list[float]:
        return [score for _, score in self.votes]


@dataclass
class BenchmarkMetrics:
    """The samples of one benchmark. by: the fields of its categories."""

    by: Sequence[str] = ()
    questions: dict[str, QuestionSamples] = field(default_factory=dict)
    asked_ids: set[str] = field(default_factory=set)
    verdicts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    verdict_pairs: dict[tuple[bool, bool], int] = field(default_factory=lambda: defaultdict(int))
    asked: int = 0
    unsure: int = 0
    ungraded: int = 0
    unparsed: int = 0
    cut: int = 0
    extracted: int = 0
    parts: list[float] = field(default_factory=list)
    tokens: int = 0
    thinking: int = 0
    failed: int = 0

    def add_record(self, record: Record) -> None:
        """Adds one record of `eval`."""
        self.asked_ids.add(str(record.get("id")))
        if has_failed(record):
            self.failed += 1
            return
        self.verdicts[record["verdict"]] += 1
        self.tokens += record["response_tokens"]
        self.thinking += record["response"].lstrip().startswith(THINK_OPEN) and THINK_CLOSE in record["response"]
        by_rules, judged = record.get("rules_verdict", record["verdict"]), record.get("judge_verdict")
        self.unparsed += by_rules in UNREADABLE_VERDICTS
        self.cut += by_rules == "truncated"
        self.extracted += "extracted_by" in record
        if record.get("judge_parts"):
            self.parts.append(record["judge_parts_right"] / record["judge_parts"])
        self.unsure += judged is not None and judged not in READABLE_VERDICTS
        self.ungraded += record["reward"] is None
        if record["reward"] is None:
            return
        self.asked += judged in READABLE_VERDICTS
        self.verdict_pairs[by_rules == "correct", record["verdict"] == "correct"] += 1
        name = str(record["id"])
        if name not in self.questions:
            groups = {by: _category_values(record[by]) for by in self.by if record.get(by) not in (None, "", [])}
            cluster = record.get("cluster")
            self.questions[name] = QuestionSamples(name if cluster is None else str(cluster), groups)
        self.questions[name].votes.append((_record_vote(record), float(record["reward"])))

    def to_figures(self) -> dict[str, Any]:
        """Returns the metrics; shares are in [0, 1], null where nothing was graded.

        accuracy: mean over graded samples (pass@1); unreadable answers are wrong. ci95, standard_error: see
        `statistics.py`, clustered by `cluster`, else by question. n: graded samples; questions: their questions;
        asked: questions, graded or not. unreadable: share in which the rules find no final answer; truncated: share of
        these caused by the token limit or by thinking that never closes. thinking: share that thinks inside the tags.

        pass_at, maj_at: by k, over the questions with that many graded samples (questions_at). worst_case: where a
        cluster has several variants, the mean over clusters of the worst variant. by: accuracy, ci95 and n of each
        category.

        extracted: share of responses in which the judge found an answer and the rules did not. parts: mean share of
        correct parts, where a judge counted them. rules_and_judge: where a judge was asked, the shares of graded
        samples that rules, judge, both and either find correct; where the judge gave no verdict, the rules' counts
        (judged: how often it gave one). unsure: how often the judge gave none. ungraded: samples that neither could
        grade; they are in no mean.
        """
        samples, clusters = sum(self.verdicts.values()), self._score_clusters(self.questions.values())
        figures: dict[str, Any] = {
            **_accuracy_figures(clusters),
            "standard_error": statistics.clustered_error(clusters) if clusters else None,
            "questions": len(self.questions),
            "asked": len(self.asked_ids),
            "unreadable": self.unparsed / samples if samples else None,
            "truncated": self.cut / samples if samples else None,
            "thinking": self.thinking / samples if samples else None,
            "mean_tokens": self.tokens / samples if samples else None,
            "failed": self.failed,
            "ungraded": self.ungraded,
            "verdicts": {name: count for name, count in sorted(self.verdicts.items()) if count},
        }
        if several := self._sample_figures():
            figures |= several
        if len(clusters) < len(self.questions):
            figures["worst_case"] = self._worst_case()
        if self.extracted:
            figures["extracted"] = self.extracted / samples
        if self.parts:
            figures["parts"] = {"n": len(self.parts), "right": sum(self.parts) / len(self.parts)}
        if self.asked:
            figures["rules_and_judge"] = self._verdict_figures()
        if self.unsure:
            figures["unsure"] = self.unsure
        if groups := {
            by: self._group_figures(by) for by in self.by if any(by in one.groups for one in self.questions.values())
        }:
            figures["by"] = groups
        return figures

    def _score_clusters(self, questions: Iterable[QuestionSamples]) -> Clusters:
        found: dict[str, list[float]] = defaultdict(list)
        for question in questions:
            found[question.cluster] += question.scores
        return list(found.values())

    def _sample_figures(self) -> dict[str, Any]:
        """Returns pass@k and maj@k for k = 1, 2, 4, … and all, over the questions with that many graded samples."""
        most = max((len(question.votes) for question in self.questions.values()), default=0)
        if most < 2:
            return {}
        found: dict[str, Any] = {"pass_at": {}, "maj_at": {}, "questions_at": {}}
        for k in sorted({1 << power for power in range(most.bit_length())} | {most}):
            votes = [question.votes for question in self.questions.values() if len(question.votes) >= k]
            right = [(len(each), sum(score == 1.0 for _, score in each)) for each in votes]
            found["pass_at"][str(k)] = sum(statistics.pass_at_k(*each, k) for each in right) / len(right)
            found["maj_at"][str(k)] = sum(statistics.maj_at_k(each, k) for each in votes) / len(votes)
            found["questions_at"][str(k)] = len(votes)
        return found

    def _worst_case(self) -> float:
        worst: dict[str, float] = {}
        for question in self.questions.values():
            mean = statistics.mean_score([question.scores])
            worst[question.cluster] = min(mean, worst.get(question.cluster, mean))
        return sum(worst.values()) / len(worst)

    def _verdict_figures(self) -> dict[str, float]:
        count = sum(self.verdict_pairs.values())
        shares = {
            "rules": self.verdict_pairs[True, False] + self.verdict_pairs[True, True],
            "judge": self.verdict_pairs[False, True] + self.verdict_pairs[True, True],
            "both": self.verdict_pairs[True, True],
            "either": count - self.verdict_pairs[False, False],
        }
        return {"n": count, "judged": self.asked, **{name: found / count for name, found in shares.items()}}

    def _group_figures(self, by: str) -> dict[str, dict[str, Any]]:
        members: dict[str, list[QuestionSamples]] = defaultdict(list)
        for question in self.questions.values():
            for value in question.groups.get(by, ()):
                members[value].append(question)
        return {value: _accuracy_figures(self._score_clusters(members[value])) for value in sorted(members)}


def run_figures(model: str, tallies: Mapping[str, BenchmarkMetrics]) -> dict[str, Any]:
    """Returns the metrics of a whole run: of its only benchmark, or of each and the mean of their accuracies."""
    each = [{"benchmark": name, **tally.to_figures()} for name, tally in tallies.items()]
    if len(each) == 1:
        return {"model": model, **each[0]}
    graded = [one for one in each if one["accuracy"] is not None]
    whole, means = len(graded) == len(each), [one["accuracy"] for one in graded]
    return {
        "model": model,
        "benchmark": ",".join(tallies),
        "accuracy": sum(means) / len(means) if whole else None,
        "ci95": list(statistics.mean_interval(means, *_each_benchmark(graded, "ci95", "standard_error"))) if whole else None,
        "n": sum(one["n"] for one in each),
        "unreadable": _mean_of_benchmarks([one["unreadable"] for one in each]),
        "failed": sum(one["failed"] for one in each),
        "benchmarks": each,
    }


def _each_benchmark(found: Sequence[Mapping[str, Any]], *names: str) -> list[list[Any]]:
    return [[one[name] for one in found] for name in names]


def _mean_of_benchmarks(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if len(known) == len(shares) else None


def _accuracy_figures(clusters: Clusters) -> dict[str, Any]:
    if not clusters:
        return {"accuracy": None, "ci95": None, "n": 0}
    return {
        "accuracy": statistics.mean_score(clusters),
        "ci95": list(statistics.clustered_interval(clusters)),
        "n": sum(map(len, clusters)),
    }


def _record_vote(record: Mapping[str, Any]) -> str | None:
    """Returns the vote of an answer: correct, an option, a number or a text; None where there is none."""
    if record["reward"] == 1.0:
        return CORRECT_VOTE
    return None if record.get("extracted") is None else vote_key(str(record["extracted"]), choices_of(record))


def _category_values(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]
