"""Fixtures of all tests: the command as a user types it, and small files that are created once."""

import signal
import sys
from pathlib import Path

import pytest
from helpers.commands import ENVIRONMENT, sophia, write_lines
from helpers.records import captions
from helpers.vllm_stand_in import stand_in

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, whatever is started here would ignore it


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a world of eight images (`imgs`), their captions and their graded trajectories, K = N = 2."""
    folder = tmp_path_factory.mktemp("lab")
    sophia("world", "imgs", "-n", "8", "--seed", "11", cwd=folder)
    captions = sophia("caption", "imgs", "-k", "2", cwd=folder).stdout
    (folder / "caps.jsonl").write_bytes(captions)
    raw = sophia("reason", "caps.jsonl", "-n", "2", cwd=folder).stdout
    (folder / "raw.jsonl").write_bytes(raw)
    (folder / "traj.jsonl").write_bytes(sophia("grade", "raw.jsonl", cwd=folder).stdout)
    return folder


@pytest.fixture
def caption_dir(tmp_path: Path) -> Path:
    write_lines(tmp_path / "caps.jsonl", captions(12))
    return tmp_path


@pytest.fixture
def vllm_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with captions, a fake model folder `m`, and the fake `vllm` on PATH."""
    write_lines(tmp_path / "caps.jsonl", captions(12))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "pids").mkdir()
    stand_in(tmp_path, "vllm", "exit 1")
    stand_in(tmp_path, "python", f'shift 2; exec {sys.executable} {Path(__file__).parent / "helpers" / "fake_vllm.py"} "$@"')
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setitem(ENVIRONMENT, "FAKE_VLLM_PIDS", str(tmp_path / "pids"))
    monkeypatch.setitem(ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path
