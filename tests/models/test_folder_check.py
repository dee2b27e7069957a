"""Tests that a damaged model folder ends a step in one line that names the file and the remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import sophia, write_lines
from safetensors.torch import load_file, save_file

from sophia_cli.models.aliases import resolve_model

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4200000\n"


def remove_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def cut_weights(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)


def drop_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(dict(list(weights.items())[::2]), folder / "model.safetensors", {"format": "pt"})


def rename_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({f"foo.{name}": values for name, values in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def spoil_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    nan = {name: values * float("nan") for name, values in weights.items()}
    save_file(nan, folder / "model.safetensors", {"format": "pt"})


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no template": (lambda folder: (folder / "chat_template.jinja").unlink(), "m: has no chat template; add"),
    "broken template": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] "),
        "the chat template is broken in line 1",
    ),
    "no tokenizer": (remove_tokenizer, "m: has no tokenizer; copy tokenizer.json"),
    "cut weights": (cut_weights, "m/model.safetensors: damaged or cut off"),
    "half of the weights": (drop_weights, "weights are missing in its files"),
    "weights of another model": (rename_weights, "weights are missing in its files"),
    "weights that are no numbers": (spoil_weights, "m: its weights are not finite"),
    "cut tokenizer": (lambda folder: (folder / "tokenizer.json").write_text('{"version": '), "m/tokenizer.json: damaged"),
    "template that adds a text to a list": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ 'a' + messages }}"),
        "the chat template is broken",
    ),
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


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["no template", "pointer", "no tokenizer"])
def test_training_names_it_before_it_reads_rows(fault: str, lab: Path, tmp_path: Path) -> None:
    change, said = FAULTS[fault]
    shutil.copytree(resolve_model("tiny-vlm").path, tmp_path / "m")
    change(tmp_path / "m")
    shutil.copy(lab / "traj.jsonl", tmp_path)
    done = sophia("train", "traj.jsonl", "--alpha", "0", "-m", "./m", "-o", "out", cwd=tmp_path, code=1)
    assert said in done.stderr.decode().splitlines()[-1]


@pytest.mark.slow
def test_training_does_not_start_from_random_weights(lab: Path, tmp_path: Path) -> None:
    shutil.copytree(resolve_model("tiny-vlm").path, tmp_path / "m")
    drop_weights(tmp_path / "m")
    options = ("-m", str(tmp_path / "m"), "-o", str(tmp_path / "out"), "--max-steps", "1")
    done = sophia("train", "traj.jsonl", "--alpha", "0", *options, cwd=lab, code=1)
    assert "weights are missing in its files" in done.stderr.decode()


def test_a_mistyped_folder_is_no_hub_id(lab: Path) -> None:
    (lab / "runs").mkdir(exist_ok=True)
    done = sophia("caption", "imgs", "-m", "runs/nope", cwd=lab, code=2)
    assert b"runs/nope: no such folder; runs is here and has no nope" in done.stderr
