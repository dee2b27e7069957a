"""Tests that no step writes to a file that it reads, however the file is named."""

import subprocess
from pathlib import Path

import pytest
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines

COMMANDS = {
    "caption": ["caption", "{}"],
    "reason": ["reason", "{}"],
    "grade": ["grade", "{}"],
    "propagate": ["propagate", "{}"],
    "decontaminate": ["decontaminate", "{}", "--against", "other.jsonl"],
    "eval": ["eval", "--data", "{}"],
    "export": ["export", "{}", "--to", "trl"],
}


@pytest.fixture
def folder(lab: Path, tmp_path: Path) -> Path:
    """A folder with `in.jsonl`, two links to it, and the images that it names."""
    (tmp_path / "in.jsonl").write_bytes((lab / "traj.jsonl").read_bytes())
    (tmp_path / "other.jsonl").write_text('{"id": "x", "question": "?", "answer": "1"}\n')
    (tmp_path / "imgs").symlink_to(lab / "imgs")
    (tmp_path / "symbolic.jsonl").symlink_to("in.jsonl")
    (tmp_path / "hard.jsonl").hardlink_to(tmp_path / "in.jsonl")
    return tmp_path


def refused(folder: Path, *typed: str, shell: str = "") -> None:
    before = (folder / "in.jsonl").read_bytes()
    line = " ".join([*SOPHIA, *typed, shell])
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=ENVIRONMENT, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2, done.stderr
    assert b"is both an input" in done.stderr and b"write to another file" in done.stderr
    assert (folder / "in.jsonl").read_bytes() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_to_its_input(command: str, folder: Path) -> None:
    typed = [word.format("in.jsonl") for word in COMMANDS[command]]
    refused(folder, *typed, "-o", "hard.jsonl", "--force")
    refused(folder, *typed, shell=">> in.jsonl")


@pytest.mark.parametrize("option", ["-o", "--tee"])
@pytest.mark.parametrize("name", ["./in.jsonl", "symbolic.jsonl", "hard.jsonl"])
def test_an_input_is_found_by_any_name(option: str, name: str, folder: Path) -> None:
    refused(folder, "reason", "in.jsonl", option, name, "--force", shell="> /dev/null")
    refused(folder, "grade", "-", option, name, "--force", shell="< in.jsonl > /dev/null")


@pytest.mark.parametrize(
    ("typed", "shell"),
    [
        (["stats", "in.jsonl"], ">> hard.jsonl"),
        (["train", "in.jsonl", "-o", "out"], ">> in.jsonl"),
        (["train", "other.jsonl", "--mix", "in.jsonl", "-o", "out"], ">> in.jsonl"),
        (["compare", "other.jsonl", "in.jsonl"], ">> in.jsonl"),
        (["compare", "in.jsonl", "other.jsonl", "--summary", "hard.jsonl"], ""),
        (["eval", "--data", "other.jsonl", "--prompt", "in.jsonl", "-o", "in.jsonl", "--force"], ""),
        (["decontaminate", "other.jsonl", "--against", "in.jsonl", "-o", "in.jsonl", "--force"], ""),
        (["decontaminate", "in.jsonl", "--against", "other.jsonl", "--report", "hard.jsonl"], ""),
        (["eval", "--data", "in.jsonl", "--summary", "hard.jsonl"], ""),
        (["eval", "--data", "in.jsonl", "--model-card", "hard.jsonl"], ""),
        (["eval", "--data", "in.jsonl", "--labels-csv", "hard.jsonl"], ""),
        (["agreement", "in.jsonl", "--summary", "hard.jsonl"], ""),
    ],
)
def test_every_file_that_is_read_counts(typed: list[str], shell: str, folder: Path) -> None:
    refused(folder, *typed, shell=shell)


def test_the_metadata_of_a_folder_is_an_input(folder: Path) -> None:
    images = folder / "own"
    images.mkdir()
    (images / "metadata.jsonl").hardlink_to(folder / "in.jsonl")
    refused(folder, "caption", "own", "-o", "own/metadata.jsonl", "--force")


def test_drafts_are_not_written_over_inputs(folder: Path) -> None:
    for name in ("out.jsonl.tmp", "out.jsonl.manifest.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).hardlink_to(folder / "in.jsonl")
        refused(folder, "grade", name, "-o", "out.jsonl")
        (folder / name).unlink()


def test_files_anywhere_in_a_folder_are_inputs(folder: Path, tmp_path: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "train-00000-of-00001.parquet").hardlink_to(folder / "in.jsonl")
    (folder / "clone").mkdir()
    (folder / "clone" / "data").symlink_to(folder / "elsewhere")
    refused(folder, "caption", "clone", "-o", "elsewhere/train-00000-of-00001.parquet", "--force")
    refused(folder, "caption", "hf:./clone@train", "-o", "elsewhere/train-00000-of-00001.parquet", "--force")


@pytest.mark.parametrize(
    "typed",
    [
        ["caption", "imgs", "-o", "imgs/000000.png"],
        ["caption", "in.jsonl", "-o", "a.png"],
        ["eval", "--data", "in.jsonl", "--summary", "a.png"],
        ["decontaminate", "in.jsonl", "--against", "other.jsonl", "--report", "a.png"],
        ["export", "in.jsonl", "--to", "parquet", "-o", "a.png"],
    ],
)
def test_an_image_is_never_overwritten(typed: list[str], folder: Path) -> None:
    (folder / "a.png").write_bytes((folder / "imgs" / "000000.png").read_bytes())
    before = (folder / "imgs" / "000000.png").read_bytes()
    done = sophia(*typed, "--force", cwd=folder, code=2)
    assert b"write to another file" in done.stderr
    assert (folder / "imgs" / "000000.png").read_bytes() == (folder / "a.png").read_bytes() == before


def test_an_export_does_not_replace_the_folder_of_its_input(folder: Path) -> None:
    sophia("export", "in.jsonl", "--to", "llamafactory", "-o", "set", "--images", "embed", cwd=folder)
    (folder / "set" / "more.jsonl").write_bytes((folder / "in.jsonl").read_bytes())
    done = sophia("export", "set/more.jsonl", "--to", "llamafactory", "-o", "set", "--force", cwd=folder, code=2)
    assert b"set: contains an input (set/more.jsonl)" in done.stderr
    rows = records_of(folder / "in.jsonl")
    image = next(path for path in (folder / "set" / "images").iterdir())
    write_lines(folder / "again.jsonl", [{**row, "image": f"set/images/{image.name}"} for row in rows])
    done = sophia("export", "again.jsonl", "--to", "llamafactory", "-o", "set", "--force", cwd=folder, code=2)
    assert b"set: contains an image of the records" in done.stderr and image.exists()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/null"])
def test_records_are_written_to_files_or_stdout(name: str, folder: Path) -> None:
    done = sophia("grade", "in.jsonl", "-o", name, cwd=folder, code=2)
    assert b"is a device or a pipe" in done.stderr
