"""Random drawings for the demo's VAE: it should render what LoRAs will learn too, not only the base model's shapes."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trainer.demo.pictures import OVERSAMPLING, RGB, SIZE, Point

EXTENT = SIZE * OVERSAMPLING


def doodle(rng: np.random.Generator) -> Image.Image:
    """A 128 x 128 picture of blobs, lines, polygons, faces and dots in random colours, now and then blurred."""
    image = gradient(rng) if rng.random() < 0.3 else Image.new("RGB", (EXTENT, EXTENT), any_colour(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 5)):
        (blob, lines, polygon, face, dots)[rng.integers(5)](pen, rng)
    if rng.random() < 0.1:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(2, 12))))
    return image.reduce(OVERSAMPLING)


def any_colour(rng: np.random.Generator) -> RGB:
    """A random colour; the extremes are as likely as the middle."""
    red, green, blue = np.clip(rng.uniform(-40, 296, 3), 0, 255).astype(int).tolist()
    return red, green, blue


def anywhere(rng: np.random.Generator, margin: float = 0.1) -> Point:
    """A random point in drawing pixels, at least `margin` of the picture from its edge."""
    x, y = rng.uniform(margin * EXTENT, (1 - margin) * EXTENT, 2)
    return float(x), float(y)


def gradient(rng: np.random.Generator) -> Image.Image:
    """A smooth transition between four corner colours."""
    corners = Image.fromarray(np.array([[any_colour(rng), any_colour(rng)] for _ in range(2)], np.uint8))
    return corners.resize((EXTENT, EXTENT), Image.Resampling.BILINEAR)


def disc(pen: ImageDraw.ImageDraw, centre: Point, radius: float, fill: RGB, squash: float = 1.0) -> None:
    """A filled ellipse, `squash` times as high as it is wide."""
    (x, y), height = centre, radius * squash
    pen.ellipse((x - radius, y - height, x + radius, y + height), fill=fill)


def blob(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """A large ellipse."""
    disc(pen, anywhere(rng), rng.uniform(0.08, 0.35) * EXTENT, any_colour(rng), rng.uniform(0.6, 1.5))


def lines(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """A few lines of one colour, some with a dot at the end."""
    colour, tip = any_colour(rng), any_colour(rng)
    for _ in range(rng.integers(1, 5)):
        start, angle, length = anywhere(rng), rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.5) * EXTENT
        end = start[0] + length * math.cos(angle), start[1] + length * math.sin(angle)
        width = rng.uniform(0.015, 0.06) * EXTENT
        pen.line((start, end), fill=colour, width=round(width))
        if rng.random() < 0.6:
            disc(pen, end, width * rng.uniform(0.8, 1.8), tip)


def polygon(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """A random polygon of three to six corners."""
    (x, y), corners = anywhere(rng), rng.integers(3, 7)
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
    reach = rng.uniform(0.08, 0.4, corners) * EXTENT
    pen.polygon(
        [(x + r * math.cos(t), y + r * math.sin(t)) for r, t in zip(reach, angles, strict=True)], fill=any_colour(rng)
    )


def face(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """A round head with two eyes and a mouth."""
    (x, y), radius = anywhere(rng, 0.25), rng.uniform(0.12, 0.3) * EXTENT
    disc(pen, (x, y), radius, any_colour(rng), rng.uniform(0.8, 1.2))
    spread, height, size = rng.uniform(0.3, 0.5), rng.uniform(-0.35, 0), rng.uniform(0.15, 0.35)
    white = any_colour(rng) if rng.random() < 0.3 else (250, 250, 250)
    pupil = any_colour(rng) if rng.random() < 0.3 else (20, 20, 24)
    for side in (-1, 1):
        eye = x + side * spread * radius, y + height * radius
        disc(pen, eye, size * radius, white)
        disc(pen, eye, size * radius * rng.uniform(0.35, 0.65), pupil)
    mouth = (x - 0.4 * radius, y + 0.05 * radius, x + 0.4 * radius, y + 0.65 * radius)
    pen.arc(mouth, 20, 160, fill=pupil, width=max(4, round(0.1 * radius)))


def dots(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """A handful of dots of one colour."""
    colour, radius = any_colour(rng), rng.uniform(0.015, 0.06) * EXTENT
    for _ in range(rng.integers(3, 12)):
        disc(pen, anywhere(rng, 0.02), radius, colour)
