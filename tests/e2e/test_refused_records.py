"""Tests that a record which a processor, a tokenizer or a chat template refuses fails alone, in every step."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.chat_server import ChatServer
from helpers.commands import records_of, sophia, write_lines
from helpers.small_models import make_model
from PIL import Image

from sophia_cli.models.aliases import resolve_model

HALF = "Q \ud83d?"


def item(name: str, question: str = "?") -> dict[str, object]:
    return {"id": name, "image": f"{name}.png", "question": question, "answer": "1"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5-VL, `m`, and six images, two of which its processor refuses: they are too narrow."""
    folder = tmp_path_factory.mktemp("shapes")
    make_model("qwen2_5_vl", folder / "m")
    for name, size in {"a": (56, 56), "thin": (1, 500), "b": (80, 40), "wide": (3000, 10), "c": (28, 28)}.items():
        Image.new("RGB", size, "red").save(folder / f"{name}.png")
    write_lines(folder / "items.jsonl", [item(name) for name in ("a", "thin", "b", "wide", "c")])
    return folder


@pytest.mark.parametrize("command", [["caption", "items.jsonl", "-k", "2"], ["eval", "--data", "items.jsonl", "-n", "2"]])
def test_images_that_the_processor_refuses_fail_alone(command: list[str], shapes: Path) -> None:
    for rows in ("1", "8"):
        options = ["-m", "./m", "--backend", "hf", "--max-tokens", "3", "--concurrency", rows]
        found = records_of(sophia(*command, *options, cwd=shapes, code=3).stdout)
        failed = {row["id"]: row["error"] for row in found if "error" in row}
        assert len(found) == 10 and set(failed) == {"thin", "wide"}
        assert all("processor refuses it: absolute aspect ratio" in error for error in failed.values())


def captions(folder: Path) -> Path:
    """Three captions; the question of the second has half of a surrogate pair."""
    rows = [
        {**item(n, HALF if n == "b" else "?"), "caption_id": f"{n}/c0", "caption_count": 1, "caption": "x"} for n in "abc"
    ]
    folder.joinpath("caps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_half_of_a_surrogate_pair_fails_alone(tmp_path: Path) -> None:
    done = sophia("reason", "caps.jsonl", "-n", "2", "--max-tokens", "4", cwd=captions(tmp_path), code=3)
    failed = [row["trajectory_id"] for row in records_of(done.stdout) if "error" in row]
    assert sorted(failed) == ["b/c0/t0", "b/c0/t1"] and len(done.stdout.splitlines()) == 6
    assert b"half of a surrogate pair (\\ud83d)" in done.stderr


def test_a_prompt_beyond_the_context_fails_alone_and_no_library_speaks(tmp_path: Path) -> None:
    caption = {"id": "1", "question": "How many?", "answer": "1", "caption": "a red disc"}
    rows = [{**caption, "caption_id": f"1/c{number}", "caption": "red " * (2000 * number) or "a"} for number in range(2)]
    write_lines(tmp_path / "caps.jsonl", rows)
    done = sophia("reason", "caps.jsonl", "-n", "1", cwd=tmp_path, code=3)
    errors = [row.get("error", "") for row in records_of(done.stdout)]
    assert sorted(map(bool, errors)) == [False, True] and "tokens, the model takes 1024; shorten" in max(errors)
    assert all(line.startswith("reason: ") for line in done.stderr.decode().splitlines())


def test_a_server_is_not_sent_half_of_a_surrogate_pair(tmp_path: Path) -> None:
    with ChatServer() as server:
        options = ["--llm", "m", "--base-url", server.url, "-n", "1"]
        done = sophia("reason", "caps.jsonl", *options, cwd=captions(tmp_path), code=3)
    assert [row["id"] for row in records_of(done.stdout) if "error" in row] == ["b"]
    assert len(server.served) == 2


def test_training_skips_and_names_it(lab: Path, tmp_path: Path) -> None:
    rows = records_of(lab / "traj.jsonl")[:3]
    kept = [{**row, "weight": 1.0, "selected": True, "trajectory": "<think>a</think>b"} for row in rows]
    kept[1]["question"] = HALF
    (tmp_path / "kept.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (tmp_path / "imgs").symlink_to(lab / "imgs")
    said = sophia("train", "kept.jsonl", "--dry-run", cwd=tmp_path).stderr.decode()
    assert f"{kept[1]['trajectory_id']} skipped: half of a surrogate pair" in said
    assert "2 rows to train on; skipped: 1 half of a surrogate pair" in said


def test_a_template_that_refuses_a_chat_names_itself(lab: Path, tmp_path: Path) -> None:
    shutil.copytree(resolve_model("tiny-vlm").path, tmp_path / "m")
    template = tmp_path / "m/chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    (tmp_path / "imgs").symlink_to(lab / "imgs")
    found = records_of(sophia("eval", "-m", "./m", "--data", "imgs", "--limit", "2", cwd=tmp_path, code=3).stdout)
    assert all("chat template refuses it: System role not supported" in row["error"] for row in found)
    sophia("caption", "imgs", "-m", "./m", "--limit", "2", "-k", "1", cwd=tmp_path)
