"""Takes two steps of each recipe of the embedded models, so that a broken recipe is noticed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ENVIRONMENT, sophia

from sophia_cli.models.aliases import resolve_model

ROOT = Path(__file__).parent.parent.parent
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def run_recipe(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, "PATH": PATH}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_both_models_are_built_packed_and_answer(tmp_path: Path) -> None:
    models = tmp_path / "models"
    run_recipe("bash", "recipes/tiny/build.sh", str(tmp_path / "work"), str(models), "--steps", "2")
    sophia("world", "imgs", "-n", "2", "--seed", "9", cwd=tmp_path)
    captions = sophia("caption", "imgs", "-m", str(models / "tiny-vlm"), "-k", "1", cwd=tmp_path, code=None)
    assert captions.returncode in (0, 3), captions.stderr.decode()  # two steps teach nobody to say something
    assert {path.name for path in (models / "tiny-vlm").iterdir()} == {
        path.name for path in (ROOT / "sophia_cli/world/models/tiny-vlm").iterdir()
    }


@pytest.mark.slow
def test_the_embedded_models_are_measured(tmp_path: Path) -> None:
    sizes = ("--questions", "3", "--training", "4", "--samples", "2")
    figures = json.loads(run_recipe(sys.executable, "-m", "recipes.tiny.measure", str(tmp_path / "measured"), *sizes))
    assert figures["questions"] == 3 and 0 <= figures["base_pass_at_2"] <= 1 and 0 <= figures["ceiling_pass_at_1"] <= 1


@pytest.mark.slow
def test_a_packed_model_has_the_defaults_of_the_shipped_one() -> None:
    said = run_recipe(
        sys.executable, "-c", "import json; from recipes.tiny.pack import DEFAULTS; print(json.dumps(DEFAULTS))"
    )
    for kind, alias in (("policy", "tiny-vlm"), ("reasoner", "tiny-reasoner")):
        shipped = json.loads((Path(resolve_model(alias).path) / "sophia.json").read_text())
        assert json.loads(said)[kind] == shipped
