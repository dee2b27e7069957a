"""Draws images of scenes: 96 x 96 pixels, cells of 32 x 32, with Pillow and our own digit bitmaps.

Position, size and color vary a little, and the image is grainy. The grain makes `tiny-vlm` misread some shapes. The
digits are our own bitmaps, so that an image does not depend on the fonts of a machine.
"""

import math
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from sophia_cli.world.scenes import Scene, Shape

# Three cells a side give 96 pixels, the image size of `tiny-vlm`.
CELL_PIXELS = 32
IMAGE_SIZE = 3 * CELL_PIXELS
# Light gray, so that both bright and dark shapes stand out.
BACKGROUND = 226
COLOR_VALUES = {"red": (208, 44, 44), "green": (36, 146, 62), "blue": (44, 84, 208), "yellow": (198, 152, 12)}

DIGITS = {
    1: ("..#..", ".##..", "..#..", "..#..", "..#..", "..#..", ".###."),
    2: (".###.", "#...#", "....#", "...#.", "..#..", ".#...", "#####"),
    3: (".###.", "#...#", "....#", "..##.", "....#", "#...#", ".###."),
    4: ("...#.", "..##.", ".#.#.", "#..#.", "#####", "...#.", "...#."),
    5: ("#####", "#....", "####.", "....#", "....#", "#...#", ".###."),
    6: ("..##.", ".#...", "#....", "####.", "#...#", "#...#", ".###."),
    7: ("#####", "....#", "...#.", "..#..", "..#..", ".#...", ".#..."),
    8: (".###.", "#...#", "#...#", ".###.", "#...#", "#...#", ".###."),
    9: (".###.", "#...#", "#...#", ".####", "....#", "...#.", ".##.."),
}


def draw_image(scene: Scene, grain: float, seed: str) -> Image.Image:
    """Draws a scene; the same seed gives the same pixels. grain: standard deviation of the noise, 0-255."""
    rng = Random(seed)
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (BACKGROUND,) * 3)
    canvas = ImageDraw.Draw(image)
    for shape in scene:
        _draw_shape(canvas, shape, rng)
    return _add_grain(image, grain, rng.getrandbits(32))


def _draw_shape(canvas: ImageDraw.ImageDraw, shape: Shape, rng: Random) -> None:
    x = (shape.cell % 3) * CELL_PIXELS + CELL_PIXELS / 2 + rng.uniform(-2, 2)
    y = (shape.cell // 3) * CELL_PIXELS + CELL_PIXELS / 2 + rng.uniform(-2, 2)
    radius = rng.uniform(12.5, 14.0)
    red, green, blue = (max(0, min(255, value + rng.randint(-18, 18))) for value in COLOR_VALUES[shape.color])
    fill = (red, green, blue)
    if shape.form == "circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape.form == "square":
        half = radius * 0.88
        canvas.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    else:
        canvas.polygon(_shape_outline(shape.form, x, y + (3 if shape.form == "triangle" else 0), radius), fill=fill)
    _draw_digit(canvas, shape.digit, x, y + (2 if shape.form == "triangle" else 0))


def _shape_outline(form: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Returns the corners of a triangle or of a five-pointed star around (x, y)."""
    radii = [radius * 1.3] * 3 if form == "triangle" else [radius * 1.15, radius * 0.62] * 5
    step = 2 * math.pi / len(radii)
    return [(x + r * math.sin(i * step), y - r * math.cos(i * step)) for i, r in enumerate(radii)]


def _draw_digit(canvas: ImageDraw.ImageDraw, digit: int, x: float, y: float) -> None:
    """Draws a white digit of 10 x 14 pixels, centered at (x, y)."""
    left, top = round(x) - 5, round(y) - 7
    for row, line in enumerate(DIGITS[digit]):
        for column, mark in enumerate(line):
            if mark == "#":
                px, py = left + 2 * column, top + 2 * row
                canvas.rectangle((px, py, px + 1, py + 1), fill=(255, 255, 255))


def _add_grain(image: Image.Image, grain: float, seed: int) -> Image.Image:
    """Adds Gaussian noise in grains of 2 x 2 pixels."""
    noise = (
        np.random.default_rng(seed)
        .normal(0.0, grain, (IMAGE_SIZE // 2, IMAGE_SIZE // 2, 3))
        .repeat(2, axis=0)
        .repeat(2, axis=1)
    )
    pixels = np.asarray(image, dtype=np.float64) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
