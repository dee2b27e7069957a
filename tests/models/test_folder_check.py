"""Tests that a damaged model folder ends a step in one line that names the file and the remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import sophia, write_lines

from sophia_cli.models.aliases import resolve_model

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4200000\n"


def remove_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def cut_weights(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no template": (lambda folder: (folder / "chat_template.jinja").unlink(), "m: has no chat template; add"),
    "broken template": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] "),
        "the chat template is broken in line 1",
    ),
    "no tokenizer": (remove_tokenizer, "m: has no tokenizer; copy tokenizer.json"),
    "cut weights": (cut_weights, "m/model.safetensors: damaged or cut off"),
    "pointer": (lambda folder: (folder / "model.safetensors").write_text(LFS_POINTER), "run `git lfs pull` in m"),
    "tokenizer pointer": (
        lambda folder: (folder / "tokenizer.json").write_text(LFS_POINTER),
        "m/tokenizer.json: a git-lfs pointer",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "m: cannot be loaded"),
    "config without a type": (lambda folder: (folder / "config.json").write_text("{}"), "m: cannot be loaded"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_folder_is_named(fault: str, tmp_path: Path) -> None:
    change, said = FAULTS[fault]
    shutil.copytree(resolve_model("tiny-reasoner").path, tmp_path / "m")
    change(tmp_path / "m")
    row = {"id": "a", "caption_id": "a/c0", "caption_count": 1, "caption": "x", "question": "?", "answer": "1"}
    write_lines(tmp_path / "caps.jsonl", [row])
    done = sophia("reason", "caps.jsonl", "--llm", "./m", "--backend", "hf", "-n", "1", cwd=tmp_path, code=1)
    (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("sophia:")]
    assert said in line and done.stdout == b""


@pytest.mark.parametrize("fault", ["no template", "pointer", "no tokenizer"])
def test_training_names_it_before_it_reads_rows(fault: str, lab: Path, tmp_path: Path) -> None:
    change, said = FAULTS[fault]
    shutil.copytree(resolve_model("tiny-vlm").path, tmp_path / "m")
    change(tmp_path / "m")
    shutil.copy(lab / "traj.jsonl", tmp_path)
    done = sophia("train", "traj.jsonl", "--alpha", "0", "-m", "./m", "-o", "out", cwd=tmp_path, code=1)
    assert said in done.stderr.decode().splitlines()[-1]
