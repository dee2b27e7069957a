"""Tests of what is said of a checkpoint that cannot be written or read, and of a damaged run."""

import json
from pathlib import Path

import pytest

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.training.checkpoints import COMPLETE_MARK, last_checkpoint, write_error
from sophia_cli.training.run_state import read_plan_file

LOST = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Read error [127.0.0.1]:34: Connection reset by peer"


def test_a_process_that_is_gone_is_not_a_full_disk() -> None:
    lost = RuntimeError(LOST)
    assert write_error(Path("step-2"), lost) is lost
    full = write_error(Path("step-2"), OSError(28, "No space left on device"))
    assert isinstance(full, SophiaError) and "step-2: cannot be written (No space left on device)" in str(full)
    torch_writer = write_error(Path("step-2"), RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos"))
    assert "the disk seems to be full" in str(torch_writer)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"step": "two", "processes": 1}', '{"step": 2}'])
def test_a_damaged_mark_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2" / COMPLETE_MARK).write_text(text)
    with pytest.raises(UsageError, match=f"{COMPLETE_MARK}: is damaged; delete .*step-2"):
        last_checkpoint(tmp_path, 1)


def test_the_last_complete_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (2, 10):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}" / COMPLETE_MARK).write_text(json.dumps({"step": step, "processes": 1}))
    assert last_checkpoint(tmp_path, 1) == (10, tmp_path / "step-10")
    assert last_checkpoint(tmp_path / "none", 1) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_plan_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UsageError, match="plan.json: is damaged, so the run cannot be resumed; start over with --force"):
        read_plan_file(tmp_path)
