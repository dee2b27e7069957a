"""Tests of the statistics against published values, a library, and brute force."""

import json
import math
import subprocess
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from helpers.commands import SOPHIA, records_of, sophia, write_lines
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sophia_cli.evaluation import statistics

SCORES = st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4), min_size=2, max_size=30)


@given(SCORES)
def test_the_clustered_error_is_the_published_one(clusters: list[list[float]]) -> None:
    flat = [score for scores in clusters for score in scores]
    mean, count = sum(flat) / len(flat), len(clusters)
    squares = sum((sum(scores) - mean * len(scores)) ** 2 for scores in clusters)
    found = statistics.clustered_error(clusters)
    assert found == pytest.approx(math.sqrt(count / (count - 1) * squares) / len(flat), abs=1e-12)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30))
def test_without_clusters_it_is_the_standard_error_of_a_mean(scores: list[float]) -> None:
    assert statistics.clustered_error([[score] for score in scores]) == pytest.approx(stats.sem(scores), abs=1e-12)


@given(SCORES)
def test_intervals_hold_their_mean(clusters: list[list[float]]) -> None:
    low, high = statistics.clustered_interval(clusters)
    assert 0 <= low <= statistics.mean_score(clusters) <= high <= 1 and high > low


@pytest.mark.parametrize(("right", "count"), [(0, 20), (20, 20), (0, 1), (7, 7)])
def test_where_all_agree_the_interval_is_wilsons(right: int, count: int) -> None:
    low, high = statistics.clustered_interval([[float(right > 0)]] * count)
    wilson = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)


def test_pass_at_k_is_the_published_one() -> None:
    found = [statistics.pass_at_k(8, 3, k) for k in (1, 2, 4, 8)]
    assert found == pytest.approx([0.375, 0.642857, 0.928571, 1.0], abs=1e-6)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    subsets = list(combinations([True] * right + [False] * (samples - right), k))
    assert statistics.pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_majorities() -> None:
    votes = [("a", 1.0), ("a", 1.0), ("b", 0.0), ("c", 0.0)]
    assert statistics.maj_at_k(votes, 1) == 0.5 and statistics.maj_at_k(votes, 4) == 1.0
    assert statistics.maj_at_k(votes, 2) == pytest.approx((1 + 4 * 0.5 + 0) / 6)  # aa; ab, ac twice each; bc
    assert statistics.maj_at_k([("b", 0.0), ("b", 0.0), ("a", 1.0)], 3) == 0.0
    assert statistics.maj_at_k([(None, 0.0), (None, 0.0), ("a", 1.0)], 3) == 1.0, "what cannot be read has no vote"
    assert statistics.maj_at_k([(None, 0.0)] * 2, 2) == 0.0


def test_majorities_of_many_samples_are_drawn_and_repeat() -> None:
    votes = [("a", 1.0)] * 12 + [("b", 0.0)] * 12
    found = statistics.maj_at_k(votes, 7)
    assert found == statistics.maj_at_k(votes, 7) and found == pytest.approx(0.5, abs=0.03)


def test_a_paired_difference_is_the_t_test_of_many_questions() -> None:
    random = Random(1)
    differences = [random.choice([-1.0, 0.0, 0.0, 1.0, 1.0]) for _ in range(2000)]
    found = statistics.paired_difference([[[each] for each in differences]])
    tested = stats.ttest_1samp(differences, 0)
    bounds = tested.confidence_interval()
    assert (found.difference, *found.ci95) == pytest.approx((sum(differences) / 2000, bounds.low, bounds.high), abs=1e-4)
    assert found.p == pytest.approx(tested.pvalue, rel=0.05, abs=1e-12)


def test_no_difference_at_all_is_no_certainty() -> None:
    found = statistics.paired_difference([[[0.0]] * 100])
    assert (found.difference, found.p) == (0.0, 1.0) and 0.02 < found.ci95[1] < 0.04 and found.ci95[0] == -found.ci95[1]
    found = statistics.paired_difference([[[1.0]] * 10])
    assert found.difference == found.ci95[1] == 1.0 and found.ci95[0] < 0.8 and found.p == pytest.approx(2 * 0.5**10)


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 20))
def test_where_few_questions_differ_p_is_that_of_the_sign_test(wins: int, losses: int, ties: int) -> None:
    """More evidence never increases p: five wins of five give 1/16, four wins and a tie 1/8."""
    differences = [[1.0]] * wins + [[-1.0]] * losses + [[0.0]] * ties
    if differences:
        wanted = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert statistics.paired_difference([differences]).p == pytest.approx(wanted)


def test_the_mean_of_two_benchmarks_is_no_surer_than_their_questions() -> None:
    """Five wins of five in each of two benchmarks count as ten wins of ten, and not less."""
    found = statistics.paired_difference([[[1.0]] * 5] * 2)
    assert found.p == pytest.approx(2 * 0.5**10) and found.ci95[0] < 0.7
    large = statistics.paired_difference([[[1.0]] * 20, [[float(number % 3 - 1)] for number in range(300)]])
    assert 0 < large.p < 1e-4


def test_the_mean_of_benchmarks_has_the_error_of_all() -> None:
    low, high = statistics.mean_interval([0.5] * 8, [(0.47, 0.53)] * 8, [0.03 / statistics.Z95] * 8)
    assert statistics.mean_interval([0.5] * 8, [(0.47, 0.53)] * 8, [0.0] * 8) == pytest.approx((low, high))
    cut = statistics.mean_interval([0.99, 0.5], [(0.95, 1.0), (0.4, 0.6)], [0.04 / statistics.Z95, 0.1 / statistics.Z95])
    assert cut[1] == pytest.approx(0.745 + math.hypot(0.04, 0.1) / 2), "a bound that was cut is no narrower"
    assert (low, high) == pytest.approx((0.5 - 0.03 / math.sqrt(8), 0.5 + 0.03 / math.sqrt(8)))


def run_of(scores: dict[str, list[float | None]], benchmark: str = "ours", **more: str) -> list[dict[str, object]]:
    return [
        {"id": item, "sample_id": f"{item}/s{number}", "benchmark": benchmark, "reward": score, **more}
        for item, rewards in scores.items()
        for number, score in enumerate(rewards)
    ]


def test_two_runs_are_compared_question_by_question(tmp_path: Path) -> None:
    one = {"a": [1.0, 1.0], "b": [0.0, 1.0], "c": [0.0, 0.0], "d": [1.0, None], "alone": [1.0]}
    other = {"d": [1.0], "c": [1.0, 0.0], "b": [1.0, 1.0], "a": [0.0, 0.0], "ungraded": [None]}
    write_lines(tmp_path / "one.jsonl", [*run_of(one), {"sample_id": "z/s0", "id": "z", "error": "lost"}])
    write_lines(tmp_path / "other.jsonl", run_of(other))
    done = sophia("compare", "one.jsonl", "other.jsonl", "--summary", "s.json", cwd=tmp_path)
    flipped = {row["id"]: (row["one"], row["other"]) for row in records_of(done.stdout)}
    assert flipped == {"a": (1.0, 0.0), "b": (0.5, 1.0), "c": (0.0, 0.5)}
    ((name, found),) = json.loads((tmp_path / "s.json").read_text())["compared"].items()
    assert (name, found["questions"], found["wins"], found["losses"], found["difference"]) == ("ours", 4, 2, 1, 0.0)
    assert "1 graded questions of one.jsonl are not in the other" in done.stderr.decode()
    assert "other.jsonl against one.jsonl" in done.stderr.decode()
    assert "1 samples of one.jsonl failed" in done.stderr.decode()
    assert "1 samples of other.jsonl could not be graded" in done.stderr.decode()
    before = (tmp_path / "other.jsonl").read_bytes()
    sophia("compare", "one.jsonl", "other.jsonl", "--summary", "other.jsonl", cwd=tmp_path, code=2)
    full = subprocess.run(
        ["bash", "-c", f"{' '.join(SOPHIA)} compare one.jsonl other.jsonl > /dev/full"], cwd=tmp_path, capture_output=True
    )
    assert full.returncode == 1 and b"sophia: stdout: cannot be written" in full.stderr
    assert (tmp_path / "other.jsonl").read_bytes() == before
    write_lines(tmp_path / "third.jsonl", run_of(other, answer="another"))
    assert b"a different question" in sophia("compare", "one.jsonl", "third.jsonl", cwd=tmp_path, code=2).stderr


def test_variants_of_a_question_are_one_cluster(tmp_path: Path) -> None:
    """Ten variants that all flip are not ten independent observations."""
    steady = {f"q{number}": [float(number % 2)] for number in range(30)}
    before, after = ({f"v{number}": [score] for number in range(10)} for score in (0.0, 1.0))
    for file, variants in (("one.jsonl", before), ("other.jsonl", after)):
        write_lines(tmp_path / file, run_of(steady) + run_of(variants, cluster="v"))
    sophia("compare", "one.jsonl", "other.jsonl", "--summary", "s.json", cwd=tmp_path)
    (found,) = json.loads((tmp_path / "s.json").read_text())["compared"].values()
    assert found["difference"] == 0.25 and found["p"] > 0.1
    for file, variants in (("one.jsonl", before), ("other.jsonl", after)):
        write_lines(tmp_path / file, run_of(steady) + run_of(variants))
    sophia("compare", "one.jsonl", "other.jsonl", "--summary", "s.json", cwd=tmp_path)
    (found,) = json.loads((tmp_path / "s.json").read_text())["compared"].values()
    assert found["p"] < 0.01


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "a", "reward": 1.0}], "`sample_id` is missing"),
        ([{"id": "a", "sample_id": "a/s0", "reward": "yes"}], "`reward` is a string"),
        ([{"id": "a", "sample_id": "a/s0", "reward": 1.0}] * 2, "one.jsonl:2: sample a/s0"),
        ([{"id": "b", "sample_id": "b/s0", "reward": 1.0}], "no graded question in common"),
    ],
)
def test_files_that_cannot_be_compared_are_refused(rows: list[dict[str, object]], said: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "one.jsonl", rows)
    write_lines(tmp_path / "other.jsonl", run_of({"a": [1.0]}))
    assert said in sophia("compare", "one.jsonl", "other.jsonl", cwd=tmp_path, code=2).stderr.decode()


def test_every_benchmark_counts_alike_in_the_mean(tmp_path: Path) -> None:
    """A small benchmark that gains 60 points and a large one that loses 10 have a mean gain of 25."""
    small, large = {f"s{n}": [float(n < 2)] for n in range(10)}, {f"l{n}": [float(n < 50)] for n in range(100)}
    better, worse = {f"s{n}": [float(n < 8)] for n in range(10)}, {f"l{n}": [float(n < 40)] for n in range(100)}
    write_lines(tmp_path / "one.jsonl", run_of(small, "[/small]") + run_of(large, "large"))
    write_lines(tmp_path / "other.jsonl", run_of(better, "[/small]") + run_of(worse, "large"))
    done = sophia("compare", "one.jsonl", "other.jsonl", "--summary", "s.json", cwd=tmp_path)
    found = json.loads((tmp_path / "s.json").read_text())["compared"]
    assert found["mean"]["difference"] == pytest.approx(0.25) and found["mean"]["questions"] == 110
    width = [(part["ci95"][1] - part["ci95"][0]) / 2 for part in (found["[/small]"], found["large"])]
    assert found["mean"]["ci95"][1] - 0.25 == pytest.approx(math.hypot(*width) / 2)
    assert "[/small]" in done.stderr.decode()
