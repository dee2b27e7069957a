"""Tests of evaluation: one record per sample, and correct figures."""

import json
import math
from pathlib import Path

import pytest
from helpers.chat_server import ChatServer
from helpers.commands import records_of, sophia, write_lines
from hypothesis import given
from hypothesis import strategies as st

from sophia_cli.evaluation.metrics import BenchmarkMetrics
from sophia_cli.records import Record


def summary(scores: dict[str, list[float | None]]) -> dict:
    counted = BenchmarkMetrics()
    for item, rewards in scores.items():
        for reward in rewards:
            verdict = "timeout" if reward is None else "correct" if reward else "wrong"
            fields = {
                "id": item,
                "response": "<think>a</think>b",
                "response_tokens": 3,
                "verdict": verdict,
                "reward": reward,
            }
            counted.add_record(Record(fields))
    return counted.to_figures()


@given(
    st.dictionaries(
        st.text(min_size=1), st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4), min_size=2, max_size=30
    )
)
def test_the_interval_is_the_published_clustered_one(scores: dict[str, list[float | None]]) -> None:
    found = summary(scores)
    flat = [float(score) for cluster in scores.values() for score in cluster if score is not None]
    mean, count = sum(flat) / len(flat), len(scores)
    squares = sum(sum(float(score or 0) - mean for score in cluster) ** 2 for cluster in scores.values())
    error = math.sqrt(count / (count - 1) * squares) / len(flat)
    assert found["thinking"] == 1.0 and found["mean_tokens"] == 3.0
    assert found["accuracy"] == pytest.approx(mean) and found["n"] == len(flat)
    low, high = found["ci95"]
    if squares > 1e-12:
        assert (low, high) == pytest.approx(
            (max(0, mean - 1.959963984540054 * error), min(1, mean + 1.959963984540054 * error))
        )
    assert 0 <= low <= mean <= high <= 1


def test_agreement_of_all_questions_is_no_certainty() -> None:
    low, high = summary({str(number): [1.0] for number in range(20)})["ci95"]
    assert 0.8 < low < 0.9 and high == 1.0


def test_what_could_not_be_graded_is_not_in_the_mean() -> None:
    assert summary({"a": [1.0, None], "b": [None]})["n"] == 1
    assert summary({"a": [None]})["accuracy"] is None


def test_eval_writes_a_record_a_sample_and_a_summary(lab: Path, tmp_path: Path) -> None:
    out = tmp_path / "eval.jsonl"
    arguments = [
        "eval",
        "--model",
        "tiny-vlm",
        "--data",
        "imgs",
        "-n",
        "2",
        "-o",
        str(out),
        "--summary",
        str(tmp_path / "s.json"),
    ]
    done = sophia(*arguments, cwd=lab)
    rows = records_of(out)
    assert {row["sample_id"] for row in rows} == {f"{row['id']}/s{n}" for row in rows for n in range(2)} and len(rows) == 16
    figures = json.loads((tmp_path / "s.json").read_text())
    assert figures["accuracy"] == sum(row["reward"] for row in rows) / 16 and figures["n"] == 16
    assert figures["unreadable"] == sum(row["verdict"] in ("no_answer", "truncated") for row in rows) / 16
    assert "accuracy" in done.stderr.decode() and f"{100 * figures['accuracy']:.1f}%" in done.stderr.decode()
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:7]))
    (tmp_path / "s.json").unlink()
    sophia(*arguments, cwd=lab)
    assert json.loads((tmp_path / "s.json").read_text()) == figures
    assert sorted(map(str, records_of(out))) == sorted(map(str, rows))


def test_eval_always_asks_for_slow_thinking(lab: Path) -> None:
    assert "Think step by step" in sophia("eval", "--data", "imgs", "--dry-run", cwd=lab).stderr.decode()


def test_an_item_without_an_answer_fails_alone(lab: Path, tmp_path: Path) -> None:
    rows = [{**row, "image": str(lab / row["image"])} for row in records_of(lab / "caps.jsonl")[::2]]
    del rows[1]["answer"]
    write_lines(tmp_path / "items.jsonl", rows)
    done = sophia("eval", "--data", "items.jsonl", "--summary", "s.json", cwd=tmp_path, code=3)
    bad = [row for row in records_of(done.stdout) if "error" in row]
    assert len(bad) == 1 and "items.jsonl:2" in bad[0]["error"] and "`answer`" in bad[0]["error"]
    assert json.loads((tmp_path / "s.json").read_text())["failed"] == 1


def tally_of(samples: list[tuple[str, str | None, float | None]], **more: object) -> dict:
    """Returns the figures of (question, extracted answer, reward)."""
    counted = BenchmarkMetrics()
    for item, extracted, reward in samples:
        verdict = "timeout" if reward is None else "correct" if reward else "no_answer" if extracted is None else "wrong"
        fields = {"id": item, "response": "", "response_tokens": 1, "verdict": verdict, "reward": reward}
        counted.add_record(Record({**fields, "extracted": extracted, **more}))
    return counted.to_figures()


def test_answers_are_one_vote_however_they_are_written() -> None:
    letters = [("q", said, float(said == "C")) for said in ("(B)", "B", "B. 5", "C", "C")]
    assert tally_of(letters, choices=["4", "5", "6"])["maj_at"] == pytest.approx({"1": 0.4, "2": 0.4, "4": 0.3, "5": 0.0})
    numbers = [("q", said, float(said == "3")) for said in ("0.5", "1/2", "$\\frac{1}{2}$", "3", "3")]
    assert tally_of(numbers)["maj_at"]["5"] == 0.0


def test_a_question_that_could_not_be_graded_often_costs_the_others_nothing() -> None:
    samples = [("a", "1", 1.0)] * 4 + [("b", "1", 1.0), ("b", "2", None), ("b", "2", None), ("b", "2", None)]
    told = tally_of(samples)
    assert told["pass_at"] == {"1": 1.0, "2": 1.0, "4": 1.0} and told["questions_at"] == {"1": 2, "2": 1, "4": 1}


def test_a_cluster_of_null_is_none() -> None:
    told = tally_of([("a", "1", 1.0), ("b", "2", 0.0)], cluster=None)
    assert "worst_case" not in told and told["standard_error"] == pytest.approx(0.5)


def test_what_rules_could_not_read_stays_unreadable_under_a_judge() -> None:
    fields = {"verdict": "wrong", "rules_verdict": "no_answer", "judge_verdict": "wrong"}
    told = tally_of([("a", None, 0.0)], **fields)
    assert told["unreadable"] == 1.0 and told["rules_and_judge"]["either"] == 0.0


def judged(rules: str, judge: str | None, final: str, reward: float | None, **more: object) -> Record:
    fields = {"id": f"{rules}{judge}", "response": "so", "response_tokens": 3, "verdict": final, "reward": reward}
    said = {} if judge is None else {"rules_verdict": rules, "judge_verdict": judge, "judge_model": "j"}
    return Record({**fields, **said, **more})


def test_a_judge_that_gives_no_verdict_is_not_one_that_says_wrong() -> None:
    """The verdict of the rules then counts, in the accuracy and in the agreement of rules and judge; the summary counts
    such cases.
    """
    counted = BenchmarkMetrics()
    counted.add_record(judged("correct", "ungradable", "correct", 1.0))
    counted.add_record(judged("wrong", "correct", "correct", 1.0))
    counted.add_record(judged("wrong", None, "wrong", 0.0))
    counted.add_record(judged("ungradable", "ungradable", "ungradable", None))
    found = counted.to_figures()
    assert found["rules_and_judge"] == {
        "n": 3, "judged": 1, "rules": 1 / 3, "judge": 2 / 3, "both": 1 / 3, "either": 2 / 3,
    }  # fmt: skip
    assert found["accuracy"] == 2 / 3 and found["unsure"] == 2 and found["ungraded"] == 1


def test_an_extracted_answer_is_unreadable_to_the_rules() -> None:
    counted = BenchmarkMetrics()
    counted.add_record(judged("no_answer", None, "correct", 1.0, rules_verdict="no_answer", extracted_by="j"))
    found = counted.to_figures()
    assert found["unreadable"] == found["extracted"] == found["accuracy"] == 1.0 and "rules_and_judge" not in found


def test_columns_of_ones_own_or_of_an_earlier_run_are_no_figures(lab: Path, tmp_path: Path) -> None:
    items = [{**row, "image": str(lab / row["image"]), "parts": 3} for row in records_of(lab / "caps.jsonl")[::4]]
    stale = {
        "rules_verdict": "correct",
        "judge_verdict": "correct",
        "judge_parts": 2,
        "judge_parts_right": 1,
        "extracted_by": "x",
    }
    write_lines(tmp_path / "items.jsonl", [{**item, **stale} for item in items])
    done = sophia("eval", "--data", "items.jsonl", "--max-tokens", "9", "--summary", "s.json", cwd=tmp_path)
    figures = json.loads((tmp_path / "s.json").read_text())
    assert not {"rules_and_judge", "parts", "extracted", "unsure"} & set(figures)
    assert all(row["parts"] == 3 and not set(stale) & set(row) for row in records_of(done.stdout))


def test_an_answer_that_says_nothing_is_wrong_on_servers_too(lab: Path) -> None:
    with ChatServer(says=lambda body: "") as server:
        done = sophia("eval", "--data", "imgs", "--limit", "2", "-m", "m", "--base-url", server.url, cwd=lab)
    rows = records_of(done.stdout)
    assert [(row["verdict"], row["reward"], row["response"]) for row in rows] == [("no_answer", 0.0, "")] * 2


def test_files_that_cannot_be_written_or_are_read_are_refused_before_anything_is_asked(lab: Path, tmp_path: Path) -> None:
    items = [{**row, "image": str(lab / row["image"])} for row in records_of(lab / "caps.jsonl")[::4]]
    write_lines(tmp_path / "items.jsonl", items)
    before = (tmp_path / "items.jsonl").read_bytes()
    (tmp_path / "file").write_text("")
    for options in (
        ["--summary", "items.jsonl"],
        ["--model-card", "items.jsonl"],
        ["--audit", "tiny-vlm", "--labels-csv", "items.jsonl"],
        ["-o", "items.jsonl", "--force"],
        ["-o", "o.jsonl", "--summary", "o.jsonl.manifest.json"],
        ["--model-card", "file/card.md"],
        ["--summary", "/proc/nowhere/s.json"],
    ):
        done = sophia("eval", "--data", "items.jsonl", *options, cwd=tmp_path, code=2)
        assert not done.stdout and any(mend in done.stderr.decode() for mend in ("choose another", "to another file"))
    assert (tmp_path / "items.jsonl").read_bytes() == before
