"""The test of the quickstart from end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ENVIRONMENT

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_quickstart_teaches_the_model_to_think(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", str(ROOT / "recipes/quickstart.sh"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**ENVIRONMENT, "PATH": path})
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (json.loads((tmp_path / "quickstart" / f"{name}.json").read_text()) for name in ("before", "after"))
    assert before["accuracy"] < 0.38
    assert after["accuracy"] > before["accuracy"] + 0.3
    assert after["thinking"] > 0.95
