"""Counts the samples of an evaluation, benchmark by benchmark, into the figures that are told of it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sophia_cli.evaluation import statistics
from sophia_cli.evaluation.statistics import Clusters, Vote
from sophia_cli.records import THINK_CLOSE, THINK_OPEN, Record, has_failed

UNREADABLE = ("no_answer", "truncated")
"""Verdicts on a response that holds no final answer."""
RIGHT = "right"
"""The vote of every right answer, however it is written."""


@dataclass
class Question:
    """The graded samples of one question: votes, what it is a variant of, and its categories."""

    cluster: str
    groups: dict[str, list[str]]
    votes: list[Vote] = field(default_factory=list)

    @property
    def scores(self) -> list[float]:
        return [score for _, score in self.votes]


@dataclass
class Tally:
    """The samples of one benchmark. by: the fields of its categories."""

    by: Sequence[str] = ()
    questions: dict[str, Question] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    twice: dict[tuple[bool, bool], int] = field(default_factory=lambda: defaultdict(int))
    parts: list[float] = field(default_factory=list)
    tokens: int = 0
    thinking: int = 0
    failed: int = 0

    def add(self, record: Record) -> None:
        """Takes one record of `eval`."""
        if has_failed(record):
            self.failed += 1
            return
        self.verdicts[record["verdict"]] += 1
        self.tokens += record["response_tokens"]
        self.thinking += record["response"].lstrip().startswith(THINK_OPEN) and THINK_CLOSE in record["response"]
        if record.get("judge_verdict") is not None:
            self.twice[record["rules_verdict"] == "correct", record["judge_verdict"] == "correct"] += 1
        if record.get("parts"):
            self.parts.append(record["parts_right"] / record["parts"])
        if record["reward"] is None:
            return
        name = str(record["id"])
        if name not in self.questions:
            groups = {by: _values(record[by]) for by in self.by if record.get(by) not in (None, "", [])}
            self.questions[name] = Question(str(record.get("cluster", name)), groups)
        self.questions[name].votes.append((_vote(record), float(record["reward"])))

    def figures(self) -> dict[str, Any]:
        """What is told of them; shares in [0, 1], null where nothing was graded.

        accuracy: the mean over graded samples (pass@1), unreadable answers wrong; ci95 and standard_error: `statistics.py`,
        clustered by `cluster`, else by question. n: graded samples. unreadable: the share without a final answer, truncated:
        of which the token limit, or thinking that never closes, is the cause. thinking: the share that thinks in the tags.
        pass_at, maj_at: by k, where all questions have more than one graded sample. worst_case: where a cluster has several
        questions (variants), the mean over clusters of their worst. by: accuracy, ci95, n of each category.
        parts: where a judge counted them, the mean share of parts that are right. rules_and_judge: where both judged, the
        shares that each alone, both and either find right.
        """
        samples, clusters = sum(self.verdicts.values()), self._clusters(self.questions.values())
        told: dict[str, Any] = {
            **_accuracy(clusters),
            "standard_error": statistics.clustered_error(clusters) if clusters else None,
            "questions": len(self.questions),
            "unreadable": sum(self.verdicts[name] for name in UNREADABLE) / samples if samples else None,
            "truncated": self.verdicts["truncated"] / samples if samples else None,
            "thinking": self.thinking / samples if samples else None,
            "mean_tokens": self.tokens / samples if samples else None,
            "failed": self.failed,
            "verdicts": {name: count for name, count in sorted(self.verdicts.items()) if count},
        }
        if several := self._of_several():
            told |= several
        if len(clusters) < len(self.questions):
            told["worst_case"] = self._worst_case()
        if self.parts:
            told["parts"] = {"n": len(self.parts), "right": sum(self.parts) / len(self.parts)}
        if self.twice:
            told["rules_and_judge"] = self._both_verdicts()
        if groups := {by: self._group(by) for by in self.by if any(by in one.groups for one in self.questions.values())}:
            told["by"] = groups
        return told

    def _clusters(self, questions: Iterable[Question]) -> Clusters:
        found: dict[str, list[float]] = defaultdict(list)
        for question in questions:
            found[question.cluster] += question.scores
        return list(found.values())

    def _of_several(self) -> dict[str, Any]:
        """pass@k and maj@k for k = 1, 2, 4, … up to the samples that every question has."""
        least = min((len(question.votes) for question in self.questions.values()), default=0)
        sizes = [1 << power for power in range(least.bit_length())]
        if least < 2:
            return {}
        if sizes[-1] != least:
            sizes.append(least)
        votes = [question.votes for question in self.questions.values()]
        right = [(len(each), sum(score == 1.0 for _, score in each)) for each in votes]
        return {
            "pass_at": {str(k): sum(statistics.pass_at_k(*each, k) for each in right) / len(right) for k in sizes},
            "maj_at": {str(k): sum(statistics.maj_at_k(each, k) for each in votes) / len(votes) for k in sizes},
        }

    def _worst_case(self) -> float:
        worst: dict[str, float] = {}
        for question in self.questions.values():
            mean = statistics.mean_of([question.scores])
            worst[question.cluster] = min(mean, worst.get(question.cluster, mean))
        return sum(worst.values()) / len(worst)

    def _both_verdicts(self) -> dict[str, float]:
        count = sum(self.twice.values())
        shares = {
            "rules": self.twice[True, False] + self.twice[True, True],
            "judge": self.twice[False, True] + self.twice[True, True],
            "both": self.twice[True, True],
            "either": count - self.twice[False, False],
        }
        return {"n": count, **{name: found / count for name, found in shares.items()}}

    def _group(self, by: str) -> dict[str, dict[str, Any]]:
        members: dict[str, list[Question]] = defaultdict(list)
        for question in self.questions.values():
            for value in question.groups.get(by, ()):
                members[value].append(question)
        return {value: _accuracy(self._clusters(members[value])) for value in sorted(members)}


def summarised(model: str, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """The figures of a whole run: of its one benchmark, or of each and the mean of their accuracies."""
    each = [{"benchmark": name, **tally.figures()} for name, tally in tallies.items()]
    if len(each) == 1:
        return {"model": model, **each[0]}
    graded = [one for one in each if one["accuracy"] is not None]
    samples = sum(sum(one["verdicts"].values()) for one in each)
    unread = sum(count for one in each for name, count in one["verdicts"].items() if name in UNREADABLE)
    whole, means = len(graded) == len(each), [one["accuracy"] for one in graded]
    return {
        "model": model,
        "benchmark": ",".join(tallies),
        "accuracy": sum(means) / len(means) if whole else None,
        "ci95": list(statistics.mean_interval(means, [one["ci95"] for one in graded])) if whole else None,
        "n": sum(one["n"] for one in each),
        "unreadable": unread / samples if samples else None,
        "failed": sum(one["failed"] for one in each),
        "benchmarks": each,
    }


def _accuracy(clusters: Clusters) -> dict[str, Any]:
    if not clusters:
        return {"accuracy": None, "ci95": None, "n": 0}
    return {
        "accuracy": statistics.mean_of(clusters),
        "ci95": list(statistics.interval(clusters)),
        "n": sum(map(len, clusters)),
    }


def _vote(record: Mapping[str, Any]) -> str | None:
    if record["reward"] == 1.0:
        return RIGHT
    extracted = record.get("extracted")
    return None if extracted is None else "wrong: " + "".join(str(extracted).split()).casefold()


def _values(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]
