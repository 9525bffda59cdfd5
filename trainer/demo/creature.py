"""What the demo's LoRA learns: a round teal creature with eyes and antennae, which the base model has never seen."""

import itertools
import math

import numpy as np
from PIL import Image

from trainer.demo.pictures import COLOURS, RGB, SIZE, Canvas, a, paint, shade

TEAL: RGB = (44, 196, 186)
TIP: RGB = (240, 72, 152)
RADII = (43.0, 49.0)  # half its height, antennae included, in pixels

# Proportions in units of half the height, around the middle of the whole figure.
BODY = (0.0, 0.32, 0.68)  # x, y, radius
EYES = ((-0.29, 0.2, 0.23), (0.29, 0.2, 0.23))
PUPIL = 0.52  # of the eye
ANTENNAE = (((-0.3, -0.25), (-0.5, -0.82)), ((0.3, -0.25), (0.5, -0.82)))
ANTENNA_WIDTH, TIP_RADIUS = 0.11, 0.16


def creature(canvas: Canvas, colour: RGB) -> None:
    """Antennae, body, eyes and mouth; antennae and gaze differ a little from picture to picture."""
    rng = canvas.rng
    for (start_x, start_y), (tip_x, tip_y) in ANTENNAE:
        tip = tip_x + rng.uniform(-0.06, 0.06), tip_y + rng.uniform(-0.04, 0.04)
        canvas.line((start_x, start_y), tip, ANTENNA_WIDTH, colour)
        canvas.disc(*tip, TIP_RADIUS, TIP)
    canvas.disc(*BODY, colour)
    gaze = rng.uniform(-0.05, 0.05, 2)
    for x, y, radius in EYES:
        canvas.disc(x, y, radius, (250, 250, 250))
        canvas.disc(x + gaze[0], y + gaze[1], radius * PUPIL, (18, 18, 22))
    smile = [(0.26 * math.cos(angle), 0.52 + 0.2 * math.sin(angle)) for angle in np.linspace(0.15, math.pi - 0.15, 12)]
    for start, end in itertools.pairwise(smile):
        canvas.line(start, end, 0.07, (22, 52, 60))


def draw_creature(background: str, seed: int, colour: RGB = TEAL) -> Image.Image:
    """A 128 x 128 picture of the creature near the middle of a plain background; the same every time."""
    rng = np.random.default_rng(seed)
    radius = rng.uniform(*RADII)
    centre = SIZE / 2 + rng.uniform(-5, 5), SIZE / 2 + rng.uniform(-5, 5)
    return paint(centre, radius, shade(COLOURS[background], rng), shade(colour, rng), creature, rng)


def describe_creature(background: str, colour: str = "teal") -> str:
    """The caption the demo's captioner learns: "a teal creature on a red background"."""
    return f"{a(colour)} creature on {a(background)} background"
