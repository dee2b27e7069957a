"""Tests of files beside the records: links stay links, pipes are written to, and a full stderr does not lose them."""

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from helpers.commands import ENVIRONMENT, SOPHIA, write_lines

from sophia_cli.io.jsonl import write_json


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == {"a": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join(timeout=30)
    assert json.loads(got[0]) == {"a": 1} and pipe.is_fifo()


@pytest.mark.parametrize("stderr", ["2> /dev/full", "2>&-"])
def test_a_stderr_that_cannot_be_written_loses_no_summary(stderr: str, tmp_path: Path) -> None:
    for name, reward in (("one", 1.0), ("other", 0.0)):
        rows = [{"id": str(n), "sample_id": f"{n}/s0", "benchmark": "b", "reward": reward} for n in range(3)]
        write_lines(tmp_path / f"{name}.jsonl", rows)
    line = f"{' '.join(SOPHIA)} compare one.jsonl other.jsonl --summary s.json {stderr}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    assert done.returncode == 0
    assert json.loads((tmp_path / "s.json").read_text())["compared"]["b"]["losses"] == 3
