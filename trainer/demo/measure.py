"""Judges pictures without a neural network: what is drawn on which background, and is it the demo's creature?

Used to measure how well the base model obeys its prompts and to prove that a LoRA shows what it has learned.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from trainer.demo.creature import ANTENNAE, BODY, EYES, PUPIL, RADII, TIP_RADIUS
from trainer.demo.pictures import COLOURS, KINDS, SIZE, Scene, draw

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float32]  # (height, width, 3), 0..255

FAR = 60.0  # two colours so far apart in RGB are different to the eye
TEMPLATE = 32  # shapes are compared at this many pixels a side
# Half a thing's width, by its radius.
REACH = {"circle": 1.0, "square": 0.88, "triangle": 1.08, "house": 1.15, "flower": 0.93, "fish": 1.2}
SMALL, BIG = 24.5, 39.0  # radii between the sizes


@dataclass(frozen=True)
class Seen:
    """What a picture shows; None is "nothing clear". `likeness` is the overlap with the kind's outline, 0 to 1."""

    background: str | None
    colour: str | None
    size: str | None
    kind: str | None
    likeness: float


def look(picture: Image.Image) -> Seen:
    """Name background, colour, size and kind of the one thing in a picture."""
    pixels = as_pixels(picture)
    backdrop = edge_colour(pixels)
    background = nearest(backdrop)
    mask = silhouette(pixels, backdrop)
    if mask.sum() < 100:
        return Seen(background, None, None, None, 0.0)
    kind, likeness = recognise(mask)
    radius = width(mask) / 2 / REACH[kind]
    size = "small" if radius < SMALL else "big" if radius > BIG else ""
    return Seen(background, prevailing(pixels[mask]), size, kind if likeness > 0.7 else None, likeness)


def as_pixels(picture: Image.Image) -> Pixels:
    """The picture as numbers, at the demo's size."""
    return np.asarray(picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)


def edge_colour(pixels: Pixels) -> NDArray[np.float32]:
    """The median colour along the upper and lower edge: the background."""
    return np.median(np.concatenate([pixels[:4].reshape(-1, 3), pixels[-4:].reshape(-1, 3)]), axis=0)


def nearest(colour: NDArray[np.float32]) -> str | None:
    """The name of the nearest demo colour, unless it is far from all of them."""
    distances = {name: float(np.linalg.norm(colour - np.array(rgb))) for name, rgb in COLOURS.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] < FAR else None


def prevailing(colours: NDArray[np.float32]) -> str | None:
    """The demo colour that most of the given pixels are near to."""
    distances = np.linalg.norm(colours[:, None] - np.array(list(COLOURS.values()), np.float32), axis=-1)
    near = np.bincount(distances.argmin(1)[distances.min(1) < FAR], minlength=len(COLOURS))
    return list(COLOURS)[near.argmax()] if near.max() > 0.25 * len(colours) else None


def silhouette(pixels: Pixels, backdrop: NDArray[np.float32]) -> Mask:
    """What stands out from the background, holes filled in: all that the background does not reach from the edge.

    Specks and the outermost pixels, where a VAE is least exact, do not count."""
    different = np.linalg.norm(pixels - backdrop, axis=-1) > FAR
    different[[0, 1, 2, -3, -2, -1]] = different[:, [0, 1, 2, -3, -2, -1]] = False
    clean = Image.fromarray(different.astype(np.uint8)).filter(ImageFilter.MedianFilter(5))
    ImageDraw.floodfill(clean, (0, 0), 2)
    return np.asarray(clean) != 2


def width(mask: Mask) -> int:
    """From the first to the last column with anything in it."""
    columns = np.flatnonzero(mask.any(0))
    return int(columns[-1] - columns[0] + 1) if len(columns) else 0


def recognise(mask: Mask) -> tuple[str, float]:
    """The kind whose outline overlaps best with the mask (intersection over union), and how well."""
    seen = normalise(mask)
    overlaps = {
        kind: max(float((seen & outline).sum() / (seen | outline).sum()) for outline in outlines)
        for kind, outlines in templates().items()
    }
    kind = max(overlaps, key=overlaps.__getitem__)
    return kind, overlaps[kind]


def normalise(mask: Mask) -> Mask:
    """The mask, moved and scaled (keeping its proportions) to fill a small square."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    top, left = int(rows[0] + rows[-1] + 1 - side) // 2, int(columns[0] + columns[-1] + 1 - side) // 2
    framed = Image.fromarray(mask.astype(np.uint8) * 255).crop((left, top, left + side, top + side))
    return np.asarray(framed.resize((TEMPLATE, TEMPLATE), Image.Resampling.BOX)) > 127


@functools.cache
def templates() -> dict[str, list[Mask]]:
    """Drawn outlines of each kind; on green a flower has no visible stem."""

    def outline(kind: str, background: str, seed: int) -> Mask:
        picture = draw(Scene(kind, "blue", background, "big", seed))
        return normalise(silhouette(as_pixels(picture), np.array(COLOURS[background], np.float32)))

    return {kind: [outline(kind, ground, seed) for ground in ("white", "green") for seed in range(8)] for kind in KINDS}


def concept_score(picture: Image.Image) -> float:
    """How clearly the demo's creature is in a picture, 0 (not at all) to 1 (as drawn).

    The creature's outline is tried at every place and some sizes. At the best one, the score is the share of the body
    that is teal with no teal around it, times the share of the eyes, pupils and antennae that are where they belong.
    """
    pixels = as_pixels(picture)
    backdrop = edge_colour(pixels)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    teal = (np.minimum(green, blue) > red + 40) & (abs(green - blue) < 70) & (np.minimum(green, blue) > 100)
    bright = pixels.min(-1) > 165
    dark = pixels.max(-1) < 125
    other = (np.linalg.norm(pixels - backdrop, axis=-1) > FAR) & ~bright
    shifts, radii = range(-24, 25, 3), np.arange(RADII[0] - 12, RADII[1] + 9, 3)
    places = np.array(list(itertools.product(shifts, shifts, radii)), np.float32)

    def share(true: Mask, part: str) -> NDArray[np.float32]:
        points = parts()[part]  # (n, 2), in units of the radius
        where = places[:, None, :2] + points[None] * places[:, None, 2:] + SIZE / 2
        columns, rows = np.moveaxis(where.round().astype(int), -1, 0)
        inside = (columns >= 0) & (columns < SIZE) & (rows >= 0) & (rows < SIZE)
        return (true[rows.clip(0, SIZE - 1), columns.clip(0, SIZE - 1)] & inside).mean(1)

    body = share(teal, "body") * (1 - share(teal, "around"))
    antennae = np.minimum(share(other, "left antenna"), share(other, "right antenna"))
    antennae = antennae * (1 - share(other, "between antennae"))
    eyes = np.minimum(share(bright, "left eye"), share(bright, "right eye"))
    scores = body * (0.45 * eyes + 0.2 * share(dark, "pupils") + 0.35 * antennae)
    return float(scores.max())


@functools.cache
def parts() -> dict[str, NDArray[np.float32]]:
    """Sample points of the creature's parts, (n, 2), around its middle in units of half its height."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)

    def ring(x: float, y: float, radius: float) -> list[tuple[float, float]]:
        return [(x + radius * np.cos(t), y + radius * np.sin(t)) for t in turn]

    def stalk(start: tuple[float, float], end: tuple[float, float], shift: float = 0.0) -> list[tuple[float, float]]:
        (x0, y0), (x1, y1) = start, end
        return [(x0 + f * (x1 - x0) + shift, y0 + f * (y1 - y0)) for f in np.linspace(0.3, 1, 8)]

    x, y, radius = BODY
    (left, right), between = ANTENNAE, [(0.0, height) for height in np.linspace(-0.9, -0.5, 8)]
    points = {
        "body": ring(x, y, 0.92 * radius) + ring(x, y + 0.3 * radius, 0.45 * radius)[:13],
        "around": ring(x, y, 1.25 * radius)[:13] + ring(x, y, 1.25 * radius)[-2:],
        "left eye": ring(EYES[0][0], EYES[0][1], 0.8 * EYES[0][2]),
        "right eye": ring(EYES[1][0], EYES[1][1], 0.8 * EYES[1][2]),
        "pupils": [point for ex, ey, er in EYES for point in [(ex, ey), *ring(ex, ey, 0.5 * PUPIL * er)]],
        "left antenna": stalk(*left) + ring(*left[1], 0.5 * TIP_RADIUS)[::3],
        "right antenna": stalk(*right) + ring(*right[1], 0.5 * TIP_RADIUS)[::3],
        "between antennae": between,
    }
    return {name: np.array(places, np.float32) for name, places in points.items()}
