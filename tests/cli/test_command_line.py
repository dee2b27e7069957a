"""Tests of what all commands share: help, exit codes, one-line errors, and stdout for records only."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.commands import ENVIRONMENT, SOPHIA, records_of, sophia, write_lines

from sophia_cli.cli.run import EXTRAS

ROOT = Path(__file__).parent.parent.parent

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "sympy",
    "vllm",
    "deepspeed",
    "math_verify",
    "pyarrow",
    "numpy",
    "PIL",
    "orjson",
)
STEPS = ("caption", "reason", "grade", "propagate", "train", "eval", "world", "models", "stats", "export", "decontaminate")


@pytest.mark.parametrize("arguments", [["--help"], *([step, "--help"] for step in STEPS)])
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys\nfrom sophia_cli.cli.app import main\nmain({arguments!r})\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert "Usage" in done.stdout


def test_help_shows_the_papers_defaults(tmp_path: Path) -> None:
    text = sophia("train", "--help", cwd=tmp_path).stdout.decode()
    for default in ("512", "2e-5", "0.05", "0.25", "0.75", "tokens", "32768", "runs/out"):
        assert default in text


@pytest.mark.parametrize("step", ["caption", "reason", "grade", "propagate", "train", "eval", "stats"])
def test_a_step_on_a_terminal_without_input_shows_its_help(step: str, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    done = subprocess.run([*SOPHIA, step], stdin=terminal, capture_output=True, env=ENVIRONMENT, cwd=tmp_path)
    os.close(controller)
    os.close(terminal)
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"Usage: sophia " + step.encode() in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["caption", "imgs", "--model", "internvl3-9b"], ["internvl3-9b", "internvl3-8b", "sophia models"]),
        (["caption", "nowhere"], ["nowhere", "no such file"]),
        (["caption", "empty"], ["empty", "metadata.jsonl"]),
        (["caption", "imgs", "--shard", "3/3"], ["--shard", "0/4"]),
        (["caption", "imgs", "--backend", "abacus"], ["abacus", "hf"]),
        (["grade", "nowhere.jsonl"], ["nowhere.jsonl", "cannot be opened"]),
        (["propagate", "nowhere.jsonl", "--dry-run"], ["nowhere.jsonl", "cannot be opened"]),
        (["caption", "fake"], ["fake", "not a folder that `datasets` saved"]),
        (["grade", "broken.jsonl"], ["broken.jsonl:2", "not a JSON object"]),
        (["propagate", "nan.jsonl"], ["nan.jsonl:1", "not a JSON object"]),
        (["propagate", "list.jsonl"], ["list.jsonl:1", "not a JSON object"]),
        (["grade", "latin.jsonl"], ["latin.jsonl:1", "not a JSON object"]),
        (["world", "imgs"], ["imgs", "--force"]),
        (["grade", "good.jsonl", "-o", "taken.jsonl"], ["taken.jsonl", "--force"]),
        (["train", "good.jsonl", "-o", "imgs"], ["imgs", "--force"]),
        (["propagate", "good.jsonl", "--select", "longest"], ["longest", "shortest, random, all"]),
        (["train", "good.jsonl", "--objective", "magic"], ["magic", "sophia"]),
        (["train", "good.jsonl", "--normalize-by", "words"], ["words", "tokens"]),
    ],
)
def test_bad_usage_is_one_line_that_names_the_remedy(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "dataset_info.json").write_text("{}")
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / "metadata.jsonl").write_text("{}\n")
    (tmp_path / "broken.jsonl").write_text('{"id": "a", "error": "x"}\n{"id": \n')
    (tmp_path / "nan.jsonl").write_text('{"id": "a", "reward": NaN}\n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    (tmp_path / "taken.jsonl").write_text("mine\n")
    write_lines(tmp_path / "good.jsonl", [{"id": "a"}])
    done = sophia(*arguments, cwd=tmp_path, code=2)
    message = done.stderr.decode().strip().splitlines()[-1]
    assert message.startswith("sophia: ")
    for word in words:
        assert word in message
    assert (tmp_path / "taken.jsonl").read_text() == "mine\n"


def test_a_cut_last_line_is_named_and_what_came_before_goes_out(lab: Path, tmp_path: Path) -> None:
    whole = (lab / "raw.jsonl").read_bytes()
    done = sophia("grade", cwd=tmp_path, stdin=whole[:-20], code=2)
    assert len(records_of(done.stdout)) == whole.count(b"\n") - 1
    assert f"stdin:{whole.count(bytes([10]))}" in done.stderr.decode()


def test_a_closed_pipe_ends_quietly(lab: Path) -> None:
    step = subprocess.Popen([*SOPHIA, "propagate"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    reader = subprocess.Popen(["head", "-n", "1"], stdin=step.stdout, stdout=subprocess.PIPE)
    assert step.stdin and step.stdout and step.stderr
    step.stdout.close()
    graded = records_of(lab / "traj.jsonl")
    many = [{**row, "trajectory_id": f"{row['trajectory_id']}/{copy}"} for row in graded for copy in range(100)]
    with contextlib.suppress(BrokenPipeError):  # the step may have ended by now
        step.stdin.write("".join(json.dumps(row) + "\n" for row in many).encode())
        step.stdin.close()
    out, _ = reader.communicate()
    errors = step.stderr.read()
    assert step.wait() == 0
    assert out.count(b"\n") == 1
    assert b"Traceback" not in errors and b"BrokenPipe" not in errors


def test_progress_counts_on_stderr_and_quiet_is_quiet(lab: Path) -> None:
    assert "grade: 32 records, " in sophia("grade", "raw.jsonl", cwd=lab).stderr.decode()
    assert sophia("grade", "raw.jsonl", "--quiet", cwd=lab).stderr == b""


def test_a_full_disk_is_one_line_and_exit_code_1(lab: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*SOPHIA, "grade", "raw.jsonl"], cwd=lab, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in done.stderr


def test_a_file_that_may_not_grow_is_one_line_and_can_be_continued(lab: Path, tmp_path: Path) -> None:
    out = tmp_path / "traj.jsonl"
    limited = f"ulimit -f 8; trap '' XFSZ; exec {' '.join(SOPHIA)} grade raw.jsonl -o {out}"
    done = subprocess.run(["bash", "-c", limited], cwd=lab, capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert "cannot" in done.stderr.decode().splitlines()[-1]
    sophia("grade", "raw.jsonl", "-o", str(out), cwd=lab)
    assert out.read_bytes() == (lab / "traj.jsonl").read_bytes()


def test_stdout_carries_records_only_even_when_a_library_prints(lab: Path) -> None:
    code = (
        "import os, sys\nfrom sophia_cli.steps import grade\nfrom sophia_cli.steps._common import StepOptions\n"
        "from sophia_cli.inference.backend_options import BackendOptions\nreal = grade.grade_fields\n"
        "def noisy(*a, **k):\n    print('chatter')\n    os.write(1, b'more chatter\\n')\n    return real(*a, **k)\n"
        "grade.grade_fields = noisy\n"
        "sys.exit(grade.run(StepOptions(), ['raw.jsonl'], 1, 5.0, None, False, BackendOptions()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=lab, capture_output=True, env=ENVIRONMENT)
    assert done.stdout == (lab / "traj.jsonl").read_bytes()
    assert b"more chatter" in done.stderr


def test_models_lists_every_alias_and_a_users_file_overrides(tmp_path: Path) -> None:
    aliases = tmp_path / "aliases.toml"
    aliases.write_text('[qwq]\ntarget = "/models/own-qwq"\nsees = false\n')
    done = subprocess.run(
        [*SOPHIA, "models"], capture_output=True, text=True, env={**ENVIRONMENT, "SOPHIA_ALIASES": str(aliases)}
    )
    names = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    wanted = "tiny-vlm tiny-reasoner internvl2.5-8b internvl2.5-38b internvl3-8b internvl3-38b qwen2.5-vl-7b qwen2.5-vl-72b"
    assert set(wanted.split()) | {"qwen3-vl-8b", "qwq", "deepseek-r1", "qwen3-32b"} <= names
    assert "/models/own-qwq" in done.stdout


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_what_is_no_number_to_reckon_with_is_refused(number: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("")
    assert b"--alpha" in sophia("propagate", "t.jsonl", "--alpha", number, cwd=tmp_path, code=2).stderr


def test_each_package_that_a_message_names_is_in_that_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(line.startswith(package.replace("liger_kernel", "liger-kernel")) for line in extras[extra]), package
