"""Masks: what inpainting models learn to fill in, and what of a picture counts with "Masked loss"."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from trainer.data.images import Unreadable, fit, has_alpha, open_alpha
from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.data.buckets import Placement

Mask = np.ndarray[Any, np.dtype[np.bool_]]

WHOLE = 0.25
"""Share of pictures of which everything is hidden, as the inpainting models of Stable Diffusion were trained."""


Shares = np.ndarray[Any, np.dtype[np.float32]]


def loss_mask(path: Path, placement: "Placement", cell: int, size: tuple[int, int] | None = None) -> Shares | None:
    """How much each latent of a picture counts: float32 [bucket height / cell, bucket width / cell], 0 to 1.

    That is how opaque the picture is there, the mean over the `cell` × `cell` pixels of a latent; `None` where all
    is opaque. `size` is that of the picture when it was looked at first. Raises `Failure` if it changed since.
    """
    try:
        if not has_alpha(path):
            return None
        alpha = open_alpha(path)
    except Unreadable as error:
        raise Failure(f"{path} {error}.", "It was readable before. Mend or remove it, and start again.") from error
    if size is not None and alpha.size != size:
        raise Failure(f"{path} was changed while the run was on.", "Start again to train on it as it is now.")
    opaque = fit(alpha, placement)[..., 0].astype(np.float32) / 255
    height, width = opaque.shape
    mask: Shares = opaque.reshape(height // cell, cell, width // cell, cell).mean((1, 3))
    return mask


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
