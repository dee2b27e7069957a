"""Tests of grading: correct, wrong, cannot tell; and the stream of records that carries the verdicts."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines

from sophia_cli.steps.grade import mentions_caption
from sophia_cli.verifier import verify
from sophia_cli.verifier.types import REWARDS

BOX = "<think>\nso\n</think>\nThe answer is \\boxed{%s}."


@pytest.mark.parametrize(
    ("answer", "gold", "item", "verdict"),
    [
        ("7", "7", {}, "correct"),
        ("7.0", "7", {}, "correct"),
        ("1,234", "1234", {}, "correct"),
        ("8", "7", {}, "wrong"),
        ("1.6e-19", "3.2e-19", {}, "wrong"),
        ("\\frac{1}{2}", "0.5", {}, "correct"),
        ("\\frac{2}{4}", "\\frac{1}{2}", {}, "correct"),
        ("x+1", "1+x", {}, "correct"),
        ("x+2", "1+x", {}, "wrong"),
        ("Red", "red", {}, "correct"),
        ("红色", "红色", {}, "correct"),
        ("是", "否", {}, "wrong"),
        ("B", "B", {"choices": ["3", "7"]}, "correct"),
        ("(B)", "B", {"choices": ["3", "7"]}, "correct"),
        ("B. 7", "B", {"choices": ["3", "7"]}, "correct"),
        ("7", "B", {"choices": ["3", "7"]}, "correct"),
        ("B", "7", {"choices": ["3", "7"]}, "correct"),
        ("A", "B", {"choices": ["3", "7"]}, "wrong"),
        ("3", "B", {"choices": ["3", "7"]}, "wrong"),
        ("3.14", "3.14159", {"tolerance": 0.01}, "correct"),
        ("3.14", "3.14159", {"tolerance": 0.001}, "wrong"),
        ("7", "", {}, "ungradable"),
    ],
)
def test_an_answer_gets_its_verdict(answer: str, gold: str, item: dict[str, Any], verdict: str) -> None:
    found = verify(BOX % answer, {"answer": gold, **item})
    assert (found.verdict, found.reward) == (verdict, REWARDS[verdict])


@pytest.mark.parametrize(
    ("response", "verdict", "extracted"),
    [
        ("<think>\\boxed{7}</think> I do not know.", "no_answer", None),
        ("<think>\\boxed{7}</think> so \\boxed{3} or \\boxed{8}", "wrong", "8"),
        ("<think>\\boxed{7}", "truncated", None),
        ("The answer is 7.", "correct", "7"),
        ("答案是 7。", "correct", "7"),
        ("no box, 7", "no_answer", None),
        ("\\boxed{\\text{7}}", "correct", "\\text{7}"),
        ("\\boxed{7", "no_answer", None),
        ("", "no_answer", None),
    ],
)
def test_the_final_answer_is_what_comes_after_the_thinking(response: str, verdict: str, extracted: str | None) -> None:
    found = verify(response, {"answer": "7"})
    assert (found.verdict, found.extracted) == (verdict, extracted)


def test_a_trajectory_cut_off_by_the_token_limit_has_no_answer() -> None:
    assert verify(BOX % "7", {"answer": "7"}, truncated=True).verdict == "truncated"


@pytest.mark.parametrize("answer", ["9^{9^{9^9}}", "10000000!", "((9!)!)!"])
def test_an_answer_that_hangs_algebra_is_a_timeout_and_the_next_is_judged(answer: str) -> None:
    assert verify(BOX % answer, {"answer": "\\frac{7}{3}"}, seconds=2.0).reward is None
    assert verify(BOX % "\\frac{14}{6}", {"answer": "\\frac{7}{3}"}).verdict == "correct"


@pytest.mark.parametrize(
    "answer", ['__import__("os").system("touch pwned")', '\\text{__import__("os").system("touch pwned")}']
)
def test_an_answer_is_never_run_as_code(answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verify(BOX % answer, {"answer": "7"})
    assert not (tmp_path / "pwned").exists()


def row(number: int, answer: str = "7", **more: Any) -> dict[str, Any]:
    fields = {"id": "q", "question": "?", "answer": "7", "caption_id": "q/c0", "trajectory_id": f"q/c0/t{number}"}
    return {**fields, "trajectory": BOX % answer, "trajectory_tokens": 9, "finish_reason": "stop", **more}


def test_a_failed_record_gets_verdict_error_and_reward_null(tmp_path: Path) -> None:
    rows = [row(0), {"id": "q", "caption_id": "q/c0", "trajectory_id": "q/c0/t1", "error": "server gone"}, row(2)]
    write_lines(tmp_path / "raw.jsonl", rows)
    done = sophia("grade", "raw.jsonl", cwd=tmp_path, code=3)
    out = records_of(done.stdout)
    assert [(record["verdict"], record["reward"]) for record in out] == [("correct", 1.0), ("error", None), ("correct", 1.0)]
    assert out[1]["error"] == "server gone"


@pytest.mark.parametrize(("field", "value"), [("answer", None), ("trajectory", 3), ("trajectory_id", None)])
def test_a_record_that_cannot_be_graded_goes_out_with_an_error_that_names_line_and_field(
    field: str, value: Any, tmp_path: Path
) -> None:
    write_lines(tmp_path / "raw.jsonl", [row(0), {**row(1), field: value}, row(2)])
    done = sophia("grade", "raw.jsonl", cwd=tmp_path, code=3)
    out = records_of(done.stdout)
    assert [record["verdict"] for record in out] == ["correct", "error", "correct"]
    assert "raw.jsonl:2" in out[1]["error"] and f"`{field}`" in out[1]["error"]
    assert "raw.jsonl:2" in done.stderr.decode()


def test_a_verdict_is_no_failure(tmp_path: Path) -> None:
    write_lines(tmp_path / "raw.jsonl", [row(0, answer=""), {**row(1), "answer": " "}])
    out = records_of(sophia("grade", "raw.jsonl", cwd=tmp_path, code=0).stdout)
    assert [record["verdict"] for record in out] == ["no_answer", "ungradable"]


@pytest.mark.parametrize("workers", ["1", "4"])
def test_workers_keep_the_order(workers: str, tmp_path: Path) -> None:
    rows = [row(number, answer="\\frac{14}{2}" if number % 5 == 0 else str(number)) for number in range(60)]
    write_lines(tmp_path / "raw.jsonl", rows)
    out = records_of(sophia("grade", "raw.jsonl", "--workers", workers, cwd=tmp_path).stdout)
    assert [record["trajectory_id"] for record in out] == [f"q/c0/t{number}" for number in range(60)]
    assert [number for number, record in enumerate(out) if record["reward"] == 1.0] == sorted({7, *range(0, 60, 5)})


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_record_leaves_before_the_next_one_comes(workers: str, tmp_path: Path) -> None:
    step = subprocess.Popen(
        [*SOPHIA, "grade", "--workers", workers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    assert step.stdin and step.stdout
    for number in range(3):
        step.stdin.write(json.dumps(row(number)).encode() + b"\n")
        step.stdin.flush()
        assert json.loads(step.stdout.readline())["trajectory_id"] == f"q/c0/t{number}"
    step.stdin.close()
    assert step.stdout.read() == b""
    assert step.wait() == 0


def test_a_killed_algebra_worker_costs_one_error_at_most() -> None:
    from sophia_cli.verifier import sympy_worker

    assert sympy_worker.algebraically_equal("1/3", "2/6", 10.0) == "correct"
    os.kill(sympy_worker._local.child.process.pid, 9)
    assert sympy_worker.algebraically_equal("1/3", "2/6", 10.0) == "correct"


@pytest.mark.parametrize(
    "text",
    [
        "The description says that there are two shapes.",
        "According to the caption, the triangle is red.",
        "Based on the given description, AB is 6.",
        "From the visual information, the axis ends at 10.",
        "根据描述,图中有三个圆。",
    ],
)
def test_a_trajectory_that_read_a_description_is_found_out(text: str) -> None:
    assert mentions_caption(text)


@pytest.mark.parametrize(
    "text",
    [
        "The image shows two shapes.",
        "The caption of the figure in the image reads 'Sales'.",
        "A description length of 5 bits is minimal.",
        "图中有三个圆。",
    ],
)
def test_a_trajectory_that_speaks_of_the_image_is_innocent(text: str) -> None:
    assert not mentions_caption(text)
