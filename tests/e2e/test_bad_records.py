"""Tests that a bad record never ends a run, is never lost, and never replaces another."""

import fcntl
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines

BOX = "<think>\nso\n</think>\nThe answer is \\boxed{7}."


def row(number: int, **more: Any) -> dict[str, Any]:
    fields = {
        "id": "q",
        "question": "?",
        "answer": "7",
        "caption_id": "q/c0",
        "caption": "c",
        "trajectory_id": f"q/c0/t{number}",
    }
    made = {
        "trajectory_count": 2,
        "trajectory": BOX,
        "trajectory_tokens": 9 + number,
        "finish_reason": "stop",
        "reward": 1.0,
    }
    return {**fields, **made, **more}


ODD = [{"choices": 5}, {"choices": True}, {"tolerance": "x"}, {"answer": ["7"]}, {"choices": {"a": 1}}]


@pytest.mark.parametrize("more", ODD)
def test_an_odd_field_costs_its_own_record_at_most(more: dict[str, Any], tmp_path: Path) -> None:
    write_lines(tmp_path / "raw.jsonl", [row(0), row(1, **more), row(2)])
    done = sophia("grade", "raw.jsonl", cwd=tmp_path, code=None)
    out = records_of(done.stdout)
    assert [record["trajectory_id"] for record in out] == ["q/c0/t0", "q/c0/t1", "q/c0/t2"]
    assert out[0]["reward"] == out[2]["reward"] == 1.0
    assert done.returncode == (3 if "error" in out[1] else 0)


@pytest.mark.parametrize("more", [{"choices": 5}, {"hint": 5}, {"question": 5}])
def test_an_odd_question_costs_its_own_record_at_most(more: dict[str, Any], lab: Path, tmp_path: Path) -> None:
    captions = records_of(lab / "caps.jsonl")[:3]
    write_lines(tmp_path / "caps.jsonl", [captions[0], {**captions[1], **more}, captions[2]])
    out = records_of(sophia("reason", "caps.jsonl", "-n", "2", "--max-tokens", "3", cwd=tmp_path, code=3).stdout)
    bad = [record for record in out if "error" in record]
    assert len(out) == 6 and len(bad) == 2
    assert all(
        record["trajectory_id"].startswith(captions[1]["caption_id"]) and record["trajectory_count"] == 2 for record in bad
    )


def test_an_image_placeholder_in_a_question_fails_alone(lab: Path, tmp_path: Path) -> None:
    items = [{k: row[k] for k in ("id", "image", "question", "answer")} for row in records_of(lab / "caps.jsonl")[::2]]
    items = [{**item, "image": str(lab / item["image"])} for item in items]
    items[2]["question"] += " <IMG_CONTEXT>"
    write_lines(tmp_path / "items.jsonl", items)
    out = records_of(sophia("eval", "--data", "items.jsonl", "--max-tokens", "3", cwd=tmp_path, code=3).stdout)
    assert [record["id"] for record in out if "error" in record] == [items[2]["id"]] and len(out) == 8


def test_a_null_error_is_no_error_and_a_null_weight_no_weight(tmp_path: Path) -> None:
    write_lines(tmp_path / "raw.jsonl", [row(0, error=None, weight=None), row(1, error=None, weight=None)])
    graded = sophia("grade", "raw.jsonl", cwd=tmp_path).stdout
    out = records_of(sophia("propagate", cwd=tmp_path, stdin=graded).stdout)
    assert [record["selected"] for record in out] == [True, False]


def test_a_bad_record_is_named_even_where_only_the_kept_ones_go_out(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [row(0), row(1, trajectory_tokens="9")])
    for option in ("--selected", "--unsolved"):
        done = sophia("propagate", "a.jsonl", option, cwd=tmp_path, code=3)
        assert "a.jsonl:2" in done.stderr.decode()


def test_a_file_given_twice_counts_once(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [row(0), row(1, trajectory_count=2, reward=0.0)])
    assert sophia("propagate", "a.jsonl", "a.jsonl", "--selected", cwd=tmp_path).stdout == b""


def test_a_failed_record_takes_no_others_place(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [row(0, reward="1"), row(0, trajectory_count=1)])
    out = records_of(sophia("propagate", "a.jsonl", cwd=tmp_path, code=3).stdout)
    assert "error" in out[0] and "weight" not in out[0] and out[1]["weight"] == 1.0


@pytest.mark.parametrize("list_field", ["id", "caption_id", "trajectory_id"])
def test_a_list_where_an_id_should_be_is_an_error_of_its_record(list_field: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [row(0), row(1, **{list_field: [1]})])
    for option in ([], ["--selected"], ["--unsolved"]):
        sophia("propagate", "a.jsonl", *option, cwd=tmp_path, code=3)


def test_what_failed_before_goes_out_although_the_next_line_is_broken(tmp_path: Path) -> None:
    (tmp_path / "caps.jsonl").write_text('{"id": "a", "caption_id": "a/c0", "error": "boom"}\n{"id": \n')
    done = sophia("reason", "caps.jsonl", cwd=tmp_path, code=2)
    assert [record["error"] for record in records_of(done.stdout)] == ["boom"]


def test_what_failed_before_leaves_at_once(tmp_path: Path) -> None:
    step = subprocess.Popen([*SOPHIA, "reason"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert step.stdin and step.stdout
    step.stdin.write(b'{"id": "a", "caption_id": "a/c0", "error": "boom"}\n')
    step.stdin.flush()
    assert json.loads(step.stdout.readline())["error"] == "boom"
    step.stdin.close()
    assert step.wait() == 3


@pytest.mark.parametrize("how", ["-o", "--tee"])
def test_a_file_that_is_read_is_never_written(how: str, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [row(0)])
    before = file.read_bytes()
    sophia("propagate", "a.jsonl", how, "./a.jsonl", "--force", cwd=tmp_path, code=2)
    assert file.read_bytes() == before


def test_propagate_resumed_on_more_records_selects_again(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [row(0), row(1)])
    sophia("propagate", "a.jsonl", "--selected", "-o", "kept.jsonl", cwd=tmp_path)
    shorter = [row(n, caption_id="q/c1", trajectory_id=f"q/c1/t{n}", trajectory_tokens=2 + n) for n in range(2)]
    write_lines(tmp_path / "a.jsonl", [row(0), row(1), *shorter])
    sophia("propagate", "a.jsonl", "--selected", "-o", "kept.jsonl", cwd=tmp_path)
    assert [record["trajectory_id"] for record in records_of(tmp_path / "kept.jsonl")] == ["q/c1/t0"]


def test_a_file_begun_with_another_model_of_the_same_name_is_refused(lab: Path, tmp_path: Path) -> None:
    import shutil

    from sophia_cli.models.aliases import resolve_model

    shutil.copytree(resolve_model("tiny-vlm").path, tmp_path / "own")
    arguments = ["eval", "--model", "own", "--data", str(lab / "imgs"), "--limit", "2", "-o", "e.jsonl"]
    sophia(*arguments, cwd=tmp_path)
    sophia(*arguments, cwd=tmp_path)
    weights = tmp_path / "own/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\x01\x02")
    assert "fingerprint" in sophia(*arguments, cwd=tmp_path, code=2).stderr.decode()


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "raw.jsonl", [row(0)])
    sophia("grade", "raw.jsonl", "-o", "t.jsonl", cwd=tmp_path)
    with (tmp_path / "t.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another run" in sophia("grade", "raw.jsonl", "-o", "t.jsonl", cwd=tmp_path, code=2).stderr.decode()


def wait_for_children(pid: int) -> list[str]:
    """Returns the child processes of a process, as soon as there are any."""
    for _ in range(200):
        if children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return children
        time.sleep(0.1)
    raise AssertionError("no child was started")


def test_a_killed_grade_leaves_no_algebra_behind(tmp_path: Path) -> None:
    hard = BOX.replace("7", "9^{9^{9^9}}")
    write_lines(tmp_path / "raw.jsonl", [row(0, trajectory=hard, answer="\\frac{7}{3}")])
    step = subprocess.Popen([*SOPHIA, "grade", "raw.jsonl", "--limit-seconds", "4"], cwd=tmp_path, env=ENVIRONMENT)
    children = wait_for_children(step.pid)
    step.kill()
    step.wait()
    for _ in range(200):
        if not any(Path(f"/proc/{child}/exe").exists() for child in children):
            return
        time.sleep(0.1)
    raise AssertionError("an algebra worker outlived its parent")


@pytest.mark.parametrize("closed", ["<&-", "2>&-", ">&-"])
def test_a_closed_descriptor_ends_in_no_traceback(closed: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "raw.jsonl", [row(0)])
    for output in ("", "-o t.jsonl"):
        command = f"{' '.join(SOPHIA)} grade raw.jsonl {output} {closed}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, env=ENVIRONMENT)
        assert b"Traceback" not in done.stderr
        assert done.returncode == (1 if closed == ">&-" and not output else 0), done.stderr


def test_usage_errors_are_one_line(tmp_path: Path) -> None:
    for arguments in (["grade", "--nope"], ["grade", "--workers", "0"], ["nope"], ["caption", "-k", "x"]):
        done = sophia(*arguments, cwd=tmp_path, code=2)
        assert len(done.stderr.decode().splitlines()) == 1 and done.stdout == b""


@pytest.mark.slow
def test_the_warm_up_trains_on_plain_rows(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]}
    bad = [
        {"messages": [1]},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": chat["messages"], "images": 3},
    ]
    write_lines(tmp_path / "chat.jsonl", [chat, {"question": "2 + 2?", "answer": "4"}, *bad])
    done = sophia("train", "chat.jsonl", "--objective", "sft", "--max-steps", "1", cwd=tmp_path)
    assert records_of(done.stdout)[-1]["rows"] == 2
    assert records_of(done.stdout)[-1]["left_out"] == {"unreadable record": 3}


@pytest.mark.slow
def test_records_that_failed_do_not_stop_training(lab: Path, tmp_path: Path) -> None:
    rows = [{**record, "image": str(lab / record["image"])} for record in records_of(lab / "traj.jsonl")]
    rows[3] = {**rows[3], "error": "x", "reward": None}
    write_lines(tmp_path / "traj.jsonl", rows)
    done = sophia("train", "traj.jsonl", "--alpha", "0.4", "--lr", "0", "--max-steps", "1", cwd=tmp_path)
    final = records_of(done.stdout)
    assert final[-1]["left_out"]["failed before"] == 1 and final[0]["learning_rate"] == 0


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_cost_the_training(lab: Path, tmp_path: Path) -> None:
    rows = [{**record, "image": str(lab / record["image"]), "weight": 1.0} for record in records_of(lab / "traj.jsonl")[:4]]
    write_lines(tmp_path / "kept.jsonl", rows)
    command = f"{' '.join(SOPHIA)} train kept.jsonl -o out --epochs 3 | head -c 1"
    subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, env=ENVIRONMENT, check=True)
    assert (tmp_path / "out/model.safetensors").exists() and not (tmp_path / "out.tmp").exists()


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_deep_and_giant_values_cost_their_own_record_at_most(tmp_path: Path) -> None:
    write_lines(tmp_path / "raw.jsonl", [row(0), row(1, meta=deep(500)), row(2, n=10**400)])
    out = records_of(sophia("grade", "raw.jsonl", cwd=tmp_path).stdout)
    assert [record["reward"] for record in out] == [1.0] * 3 and out[1]["meta"] == deep(500) and out[2]["n"] == 10**400
    write_lines(tmp_path / "bad.jsonl", [row(0), row(1, reward=10**400), row(2, stop_alpha=10**400)])
    for command in (["propagate", "bad.jsonl"], ["stats", "bad.jsonl"]):
        done = sophia(*command, cwd=tmp_path, code=3)
        assert b"is a number, not a number" not in done.stderr and b"OverflowError" not in done.stderr
    (tmp_path / "digits.jsonl").write_text('{"n": ' + "9" * 5000 + "}\n")
    done = sophia("grade", "digits.jsonl", cwd=tmp_path, code=2)
    assert b"digits.jsonl:1: not a JSON object (line contains invalid json: a number has 5,000 digits)" in done.stderr


def test_stored_thinking_in_the_users_own_marks_is_rewritten(tmp_path: Path) -> None:
    trajectory = "((try \\boxed{3}))The answer is \\boxed{7}."
    write_lines(tmp_path / "raw.jsonl", [row(0, trajectory=trajectory)])
    (out,) = records_of(sophia("grade", "raw.jsonl", "--think-tags", "((", "))", cwd=tmp_path).stdout)
    assert out["reward"] == 1.0 and out["trajectory"] == "<think>try \\boxed{3}</think>The answer is \\boxed{7}."


def test_a_file_of_the_wrong_step_is_named_before_anything_is_sampled(lab: Path) -> None:
    done = sophia("reason", "traj.jsonl", "-n", "1", cwd=lab, code=2)
    assert b"give the captions, not trajectories" in done.stderr and done.stdout == b""
    done = sophia("caption", "caps.jsonl", "-k", "1", cwd=lab, code=2)
    assert b"these are captions already" in done.stderr and done.stdout == b""
