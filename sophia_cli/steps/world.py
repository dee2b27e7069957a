"""Draws a data set of the embedded world as an ImageFolder: images and metadata.jsonl."""

from pathlib import Path
from random import Random
from typing import Any

from sophia_cli.errors import SophiaError, UsageError
from sophia_cli.io.jsonl import to_line
from sophia_cli.runtime.progress import log_line
from sophia_cli.world.drawing import draw_image
from sophia_cli.world.questions import WorldQuestion, ask_question
from sophia_cli.world.scenes import DIFFICULTIES, Scene, describe_scene, draw_scene, world_fold


def draw_world(folder: Path, n: int, seed: int, difficulty: str, force: bool, quiet: bool = False) -> None:
    """Draws `n` images with a question each. The same seed gives the same files; a longer world starts with the shorter
    one.

    metadata.jsonl is written last and atomically, so a folder that has one is complete.

    Raises:
        UsageError: the folder is not empty.
        SophiaError: the folder cannot be written.
    """
    if difficulty not in DIFFICULTIES:
        raise UsageError(f"--difficulty {difficulty}: choose from {', '.join(DIFFICULTIES)}")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose a folder")
    if folder.exists() and any(folder.iterdir()) and not force:
        raise UsageError(f"{folder} exists and is not empty; choose another folder, or --force to overwrite it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metadata.jsonl").unlink(missing_ok=True)
        rows = b"".join(to_line(_draw_item(folder, number, seed, difficulty)) for number in range(n))
        draft = folder / "metadata.jsonl.tmp"
        draft.write_bytes(rows)
        draft.replace(folder / "metadata.jsonl")
        log_line(f"world: {n} images and their questions in {folder}", quiet)
    except OSError as error:
        raise SophiaError(
            f"{folder}: cannot be written ({error.strerror}); free disk space or choose another folder"
        ) from None


def make_item(number: int, seed: int, difficulty: str) -> tuple[Scene, WorldQuestion]:
    """Returns the scene and the question of item `number`."""
    rng = Random(f"world/{seed}/{difficulty}/{number}")
    scene = draw_scene(rng, world_fold(seed), DIFFICULTIES[difficulty])
    return scene, ask_question(scene, rng)


def _draw_item(folder: Path, number: int, seed: int, difficulty: str) -> dict[str, Any]:
    scene, question = make_item(number, seed, difficulty)
    name = f"{number:06d}.png"
    draw_image(scene, DIFFICULTIES[difficulty].grain, f"world/{seed}/{difficulty}/{number}").save(folder / name)
    return {
        "file_name": name,
        "id": f"w{seed}-{number:06d}" if difficulty == "medium" else f"w{seed}-{difficulty}-{number:06d}",
        "question": question.text,
        "answer": question.answer,
        **({"choices": list(question.choices)} if question.choices else {}),
        "answer_type": question.answer_type,
        "language": question.language,
        "kind": question.kind,
        **_scene_truth(scene),
    }


def _scene_truth(scene: Scene) -> dict[str, Any]:
    """Returns what the world knows about the scene, to measure captions. No step shows it to a model."""
    return {"shapes": len(scene), "description": describe_scene(scene)}
