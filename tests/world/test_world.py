"""Tests of the embedded world: its images, its questions, and the separation of its splits."""

import json
import re
from pathlib import Path
from random import Random

import pytest
from helpers.commands import records_of, sophia
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sophia_cli.world.questions import CHINESE_NAMES, CHOICE_LETTERS, KINDS, ask_question
from sophia_cli.world.scenes import (
    COLORS,
    DIFFICULTIES,
    FOLDS,
    TRAINING_FOLD,
    Scene,
    Shape,
    describe_scene,
    draw_scene,
    scene_fold,
    world_fold,
)


def read_back(description: str) -> Scene:
    """Parses a description back into a scene, without the code that wrote it."""
    names = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
    cells = {name: cell for cell, name in enumerate(names)}
    found = re.findall(r"([A-Z][a-z]+(?: [a-z]+)?): (\w+) (\w+) (\d)\.", description)
    return tuple(Shape(cells[place.lower()], colour, form, int(digit)) for place, colour, form, digit in found)


def solve(kind: str, subject: list[str], scene: Scene) -> str:
    """Returns the answer to a question, computed from the scene in another way than the world does."""
    digits = [shape.digit for shape in scene]
    top = next(shape for shape in scene if shape.digit == max(digits))
    rows = {"top": range(0, 3), "middle": range(3, 6), "bottom": range(6, 9)}
    if kind.startswith("sum"):
        field = {"sum_colour": "color", "sum_form": "form"}.get(kind)
        return str(sum(s.digit for s in scene if (getattr(s, field) == subject[0] if field else s.cell in rows[subject[0]])))
    if kind == "count_larger":
        return str(len([digit for digit in digits if digit > int(subject[0])]))
    if kind == "range":
        return str(sorted(digits)[-1] - sorted(digits)[0])
    if kind == "compare":
        return max(subject, key=lambda name: sum(s.digit for s in scene if s.color == name))
    return top.color if kind == "largest_colour" else top.form


@given(st.integers(0, 10**9), st.sampled_from(sorted(DIFFICULTIES)))
def test_every_question_has_the_answer_that_the_scene_gives(seed: int, difficulty: str) -> None:
    rng = Random(seed)
    scene = draw_scene(rng, seed % FOLDS, DIFFICULTIES[difficulty])
    question = ask_question(scene, rng)
    value = solve(question.kind, list(question.subject), scene)
    said = CHINESE_NAMES.get(value, value) if question.language == "zh" else value
    if question.choices:
        assert question.choices[CHOICE_LETTERS.index(question.answer)] == said
        assert len(set(question.choices)) == len(question.choices)
    else:
        assert question.answer == said


@given(st.integers(0, 10**9))
def test_a_description_holds_the_whole_scene(seed: int) -> None:
    scene = draw_scene(Random(seed), seed % FOLDS, DIFFICULTIES["hard"])
    assert read_back(describe_scene(scene)) == scene


@given(st.integers(0, 10**9))
def test_no_world_draws_from_the_fold_that_the_models_were_trained_on(seed: int) -> None:
    assert world_fold(seed) != TRAINING_FOLD
    assert world_fold(seed) != world_fold(seed + 1)
    assert 0 <= world_fold(seed) < FOLDS


def test_worlds_are_disjoint_from_training_and_from_each_other(tmp_path: Path) -> None:
    for seed in (7, 8):
        sophia("world", f"w{seed}", "-n", "300", "--seed", str(seed), cwd=tmp_path)
    scenes = {
        seed: {read_back(row["description"]) for row in records_of(tmp_path / f"w{seed}" / "metadata.jsonl")}
        for seed in (7, 8)
    }
    assert len(scenes[7]) > 290 and len(scenes[8]) > 290
    for seed, found in scenes.items():
        assert {scene_fold(scene) for scene in found} == {world_fold(seed)}
    assert not scenes[7] & scenes[8]


def test_what_the_models_were_trained_on_is_of_the_training_fold() -> None:
    from recipes.tiny.examples import scenes as training_scenes

    drawn = training_scenes(1)
    assert {scene_fold(next(drawn)[1]) for _ in range(300)} == {TRAINING_FOLD}


def test_a_world_is_an_image_folder_with_all_kinds_of_questions(tmp_path: Path) -> None:
    sophia("world", "imgs", "-n", "200", "--seed", "3", cwd=tmp_path)
    rows = records_of(tmp_path / "imgs" / "metadata.jsonl")
    assert len(rows) == len({row["id"] for row in rows}) == 200
    assert {row["kind"] for row in rows} == set(KINDS)
    assert {row["language"] for row in rows} == {"en", "zh"}
    assert {row["answer_type"] for row in rows} == {"integer", "text", "choice"}
    assert any(row["answer"] in COLORS for row in rows)
    with Image.open(tmp_path / "imgs" / rows[0]["file_name"]) as image:
        assert image.size == (96, 96)
    from datasets import load_dataset

    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "imgs"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["question"] == rows[0]["question"] and loaded[0]["image"].size == (96, 96)


@pytest.mark.parametrize("difficulty", sorted(DIFFICULTIES))
def test_a_seed_gives_the_same_world_and_a_longer_one_begins_with_a_shorter(difficulty: str, tmp_path: Path) -> None:
    for name, count in (("a", 6), ("b", 4)):
        sophia("world", name, "-n", str(count), "--seed", "5", "--difficulty", difficulty, cwd=tmp_path)
    for number in range(4):
        name = f"{number:06d}.png"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert records_of(tmp_path / "a" / "metadata.jsonl")[:4] == records_of(tmp_path / "b" / "metadata.jsonl")
    level = DIFFICULTIES[difficulty]
    assert all(
        level.min_shapes <= json.loads(line)["shapes"] <= level.max_shapes for line in (tmp_path / "a/metadata.jsonl").open()
    )
