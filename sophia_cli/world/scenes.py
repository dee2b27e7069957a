"""Scenes: two to six colored shapes with digits on a grid of three by three cells.

Every scene belongs to one of `FOLDS` folds, by a hash of what it shows. The embedded models were trained on fold 0
only; `sophia world --seed S` draws from fold 1 + S mod 7. So no scene of any world was in their training data, and two
worlds whose seeds differ modulo 7 share no scene.
"""

import hashlib
from dataclasses import dataclass
from random import Random

COLORS = ("red", "green", "blue", "yellow")
FORMS = ("circle", "square", "triangle", "star")
POSITIONS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
ROWS = ("top", "middle", "bottom")

FOLDS = 8
TRAINING_FOLD = 0


@dataclass(frozen=True, order=True)
class Shape:
    """One shape: its cell (0 to 8, row by row), color, form, and the digit (1 to 9) on it."""

    cell: int
    color: str
    form: str
    digit: int

    @property
    def position(self) -> str:
        return POSITIONS[self.cell]

    @property
    def row(self) -> str:
        return ROWS[self.cell // 3]

    def __str__(self) -> str:
        return f"{self.color} {self.form} {self.digit}"


Scene = tuple[Shape, ...]


@dataclass(frozen=True)
class Difficulty:
    """The fewest and most shapes of a scene, and the grain of its image (standard deviation, 0-255)."""

    min_shapes: int
    max_shapes: int
    grain: float


DIFFICULTIES = {
    "easy": Difficulty(2, 3, 50.0),
    "medium": Difficulty(2, 5, 72.0),
    "hard": Difficulty(4, 6, 80.0),
}


def world_fold(seed: int) -> int:
    """Returns the fold that `sophia world --seed` draws from; never the training fold."""
    return 1 + seed % (FOLDS - 1)


def scene_fold(scene: Scene) -> int:
    """Returns the fold of a scene: SHA-256 of its canonical text modulo `FOLDS`."""
    canonical = ";".join(f"{shape.cell}{shape.color}{shape.form}{shape.digit}" for shape in sorted(scene))
    return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:8], "big") % FOLDS


def draw_scene(rng: Random, fold: int, difficulty: Difficulty) -> Scene:
    """Returns a random scene of the fold, its shapes in reading order. Expected tries: `FOLDS`."""
    while True:
        cells = sorted(rng.sample(range(9), rng.randint(difficulty.min_shapes, difficulty.max_shapes)))
        scene = tuple(Shape(cell, rng.choice(COLORS), rng.choice(FORMS), rng.randint(1, 9)) for cell in cells)
        if scene_fold(scene) == fold:
            return scene


def describe_scene(scene: Scene) -> str:
    """Returns the true description of a scene, in the words that `tiny-vlm` learned."""
    parts = [f"{shape.position.capitalize()}: {shape}." for shape in scene]
    return f"There are {len(scene)} shapes. " + " ".join(parts)
