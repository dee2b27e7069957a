"""Tests of the embedded models on worlds that they were not trained on."""

import json
from pathlib import Path

import pytest
from helpers.commands import records_of, sophia, write_lines

from sophia_cli.models.aliases import resolve_model


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a held-out world of 200 images, `imgs`."""
    folder = tmp_path_factory.mktemp("held")
    sophia("world", "imgs", "-n", "200", "--seed", "4", cwd=folder)
    return folder


def test_both_models_are_a_few_megabytes_of_real_files() -> None:
    for name, kind in (("tiny-vlm", "InternVLForConditionalGeneration"), ("tiny-reasoner", "Qwen3ForCausalLM")):
        folder = Path(resolve_model(name).path)
        assert json.loads((folder / "config.json").read_text())["architectures"] == [kind]
        assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
        assert "pass@1" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_captions_are_right_often_and_wrong_often(held: Path) -> None:
    rows = records_of(sophia("caption", "imgs", "-k", "1", cwd=held).stdout)
    share = sum(row["caption"] == row["description"] for row in rows) / len(rows)
    assert 0.4 < share < 0.8


@pytest.mark.slow
def test_the_base_answers_badly_and_without_thinking(held: Path) -> None:
    sophia("eval", "--data", "imgs", "-n", "2", "--summary", "base.json", cwd=held)
    figures = json.loads((held / "base.json").read_text())
    assert figures["accuracy"] < 0.4 and figures["thinking"] == 0.0


@pytest.mark.slow
def test_the_reasoner_is_mostly_right_when_the_description_is(held: Path) -> None:
    rows = records_of(held / "imgs/metadata.jsonl")
    rows = [{**row, "caption_id": row["id"] + "/c0", "caption": row["description"]} for row in rows]
    write_lines(held / "true.jsonl", rows)
    raw = sophia("reason", "true.jsonl", "-n", "1", cwd=held).stdout
    graded = records_of(sophia("grade", cwd=held, stdin=raw).stdout)
    assert sum(row["reward"] for row in graded) / len(graded) > 0.8
