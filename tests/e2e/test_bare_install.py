"""Tests that `pip install sophia-cli` alone, without torch, samples from servers, grades, selects and exports."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.chat_server import ChatServer
from helpers.commands import ENVIRONMENT, records_of, write_lines
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
MAX_MEGABYTES = 300


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the package and its dependencies, without an extra."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("torch==")]
    (folder / "constraints.txt").write_text("\n".join(pins))
    install = [folder / "bin" / "pip", "install", "--quiet", "-c", folder / "constraints.txt", ROOT]
    subprocess.run(install, check=True, capture_output=True)
    return folder


def run(bare: Path, line: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {**ENVIRONMENT, "PATH": f"{bare / 'bin'}:/usr/bin:/bin"}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True)


@pytest.mark.slow
def test_the_bare_package_runs_the_pipe_against_a_server(bare: Path, tmp_path: Path) -> None:
    megabytes = sum(file.stat().st_size for file in (bare / "lib").rglob("*") if file.is_file()) / 1e6
    assert megabytes < MAX_MEGABYTES
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    write_lines(tmp_path / "items.jsonl", [{"id": "a", "image": "a.png", "question": "How many?", "answer": "1"}])
    with ChatServer() as server:
        there = f"--backend openai --base-url {server.url}"
        pipe = (
            f"sophia caption items.jsonl -m m -k 2 {there} | sophia reason --llm m -n 4 {there} | sophia grade > traj.jsonl"
        )
        done = run(bare, f"set -o pipefail; {pipe}", tmp_path)
        assert done.returncode == 0, done.stderr.decode()
    assert len(records_of(tmp_path / "traj.jsonl")) == 8
    rest = (
        "sophia propagate traj.jsonl --alpha 0 > kept.jsonl && sophia stats kept.jsonl && sophia export traj.jsonl --alpha 0"
    )
    done = run(bare, f"{rest} --to openai-batch --model m > batch.jsonl; sophia --help > /dev/null", tmp_path)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("sophia caption items.jsonl -k 1", "hf"),
        ("sophia train traj.jsonl", "hf"),
        ("sophia caption x.parquet -m m --backend openai --base-url http://127.0.0.1:9/v1", "data"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(command: str, extra: str, bare: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    write_lines(tmp_path / "items.jsonl", [{"id": "a", "image": "a.png", "question": "How many?", "answer": "1"}])
    row = {"id": "a", "question": "?", "answer": "1", "trajectory_id": "a/c0/t0", "trajectory": "1", "weight": 1.0}
    write_lines(tmp_path / "traj.jsonl", [row])
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    done = run(bare, command, tmp_path)
    last = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 1 and f"pip install 'sophia-cli[{extra}]'" in last, done.stderr.decode()
