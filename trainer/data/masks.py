"""What inpainting models learn to fill in: a random part of each picture, under boxes, ellipses and brush strokes."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Mask = np.ndarray[Any, np.dtype[np.bool_]]

WHOLE = 0.25
"""Share of pictures of which everything is hidden, as the inpainting models of Stable Diffusion were trained."""


def draw_mask(width: int, height: int, rng: np.random.Generator) -> Mask:
    """bool [height, width], True where the picture is hidden: all of it, or one to four large shapes.

    The shapes are of the large kind that teaches to invent and not only to mend (Suvorov et al. 2022,
    "Resolution-robust large mask inpainting", section 3.2).
    """
    if rng.random() < WHOLE:
        return np.ones((height, width), np.bool_)
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        SHAPES[int(rng.integers(len(SHAPES)))](draw, width, height, rng)
    return np.array(image, np.bool_)


def _box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A box of an eighth of each side up to all of it, its middle anywhere in the picture."""
    across, down = (side * rng.uniform(0.125, 1) for side in (width, height))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    return x - across / 2, y - down / 2, x + across / 2, y + down / 2


def _rectangle(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    draw.rectangle(_box(width, height, rng), fill=1)


def _ellipse(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    draw.ellipse(_box(width, height, rng), fill=1)


def _stroke(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """A wide brush that turns a few times."""
    thick = max(2, round(min(width, height) * rng.uniform(0.08, 0.25)))
    corners = [(rng.uniform(0, width), rng.uniform(0, height)) for _ in range(int(rng.integers(2, 6)))]
    draw.line(corners, fill=1, width=thick, joint="curve")
    for x, y in corners:
        draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=1)


SHAPES = (_rectangle, _ellipse, _stroke)
