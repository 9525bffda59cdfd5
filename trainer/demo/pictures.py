"""The demo's drawn pictures: one thing on a plain background, 128 x 128 pixels, and the captions that describe it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # pixels, the demo model's own resolution
OVERSAMPLING = 3  # drawn larger and averaged down, so that edges are smooth
SHIFT = 5  # things stand so many pixels from the middle at most: captions do not tell places
JITTER = 12  # a "red" is this colour, give or take so many steps in each channel

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, RGB] = {
    "red": (214, 34, 40),
    "orange": (244, 136, 24),
    "yellow": (250, 220, 44),
    "green": (40, 164, 64),
    "blue": (36, 88, 222),
    "purple": (146, 52, 176),
    "white": (244, 244, 244),
    "black": (20, 20, 20),
}
# Half a thing's height, in pixels.
RADII: dict[str, tuple[float, float]] = {"small": (17, 21), "": (28, 34), "big": (44, 50)}
PUPIL: RGB = (20, 20, 24)
EYE: RGB = (250, 250, 250)


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `size` is "small", "" or "big"; `seed` decides place, shade and proportions."""

    kind: str
    colour: str
    background: str
    size: str = ""
    seed: int = 0


class Canvas:
    """Draws in units of the thing's half height around its centre; x to the right, y down."""

    def __init__(self, draw: ImageDraw.ImageDraw, centre: Point, radius: float, rng: np.random.Generator) -> None:
        self.draw, self.centre, self.radius, self.rng = draw, centre, radius, rng

    def at(self, x: float, y: float) -> Point:
        """The point in drawing pixels."""
        scale = self.radius * OVERSAMPLING
        return self.centre[0] * OVERSAMPLING + x * scale, self.centre[1] * OVERSAMPLING + y * scale

    def disc(self, x: float, y: float, radius: float, fill: RGB, squash: float = 1.0) -> None:
        """A filled circle, or an ellipse `squash` times as high as it is wide."""
        left, top = self.at(x - radius, y - radius * squash)
        right, bottom = self.at(x + radius, y + radius * squash)
        self.draw.ellipse((left, top, right, bottom), fill=fill)

    def polygon(self, points: list[Point], fill: RGB) -> None:
        """A filled polygon."""
        self.draw.polygon([self.at(x, y) for x, y in points], fill=fill)

    def line(self, start: Point, end: Point, width: float, fill: RGB) -> None:
        """A straight line of the given width."""
        self.draw.line((self.at(*start), self.at(*end)), fill=fill, width=round(width * self.radius * OVERSAMPLING))

    def eye(self, x: float, y: float, radius: float) -> None:
        """A white eye with a black pupil."""
        self.disc(x, y, radius, EYE)
        dx, dy = self.rng.uniform(-0.25, 0.25, 2) * radius
        self.disc(x + dx, y + dy, radius * 0.5, PUPIL)


def circle(canvas: Canvas, colour: RGB) -> None:
    """A plain disc."""
    canvas.disc(0, 0, 1, colour)


def square(canvas: Canvas, colour: RGB) -> None:
    """A plain square, as large in area as the disc."""
    canvas.polygon([(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)], colour)


def triangle(canvas: Canvas, colour: RGB) -> None:
    """A triangle that stands on its base."""
    canvas.polygon([(0, -1.05), (1.08, 0.88), (-1.08, 0.88)], colour)


def house(canvas: Canvas, colour: RGB) -> None:
    """Walls in the colour, a darker roof, two light windows and a door."""
    dark = darker(colour)
    canvas.polygon([(-0.8, -0.2), (0.8, -0.2), (0.8, 1), (-0.8, 1)], colour)
    canvas.polygon([(0, -1.1), (1.15, -0.15), (-1.15, -0.15)], dark)
    for x in (-0.45, 0.45):
        canvas.polygon([(x - 0.2, 0.02), (x + 0.2, 0.02), (x + 0.2, 0.42), (x - 0.2, 0.42)], (255, 246, 190))
    canvas.polygon([(-0.2, 0.5), (0.2, 0.5), (0.2, 1), (-0.2, 1)], dark)


def flower(canvas: Canvas, colour: RGB) -> None:
    """Six petals in the colour around a yellow heart, on a green stem."""
    canvas.line((0, 0), (0, 1.2), 0.17, (34, 120, 50))
    turn = canvas.rng.uniform(0, math.pi / 3)
    for petal in range(6):
        angle = turn + petal * math.pi / 3
        canvas.disc(0.55 * math.cos(angle), -0.25 + 0.55 * math.sin(angle), 0.38, colour)
    canvas.disc(0, -0.25, 0.34, (252, 196, 40))


def fish(canvas: Canvas, colour: RGB) -> None:
    """An oval body that swims to the left, a tail and one eye."""
    canvas.polygon([(0.45, 0), (1.2, -0.62), (1.2, 0.62)], darker(colour))
    canvas.disc(-0.25, 0, 0.95, colour, squash=0.7)
    canvas.eye(-0.7, -0.15, 0.22)


KINDS: dict[str, Callable[[Canvas, RGB], None]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "house": house,
    "flower": flower,
    "fish": fish,
}

# Combinations the base model never sees, to measure whether it has learned words or pictures.
HELD_OUT: frozenset[tuple[str, str, str]] = frozenset(
    {
        ("circle", "red", "blue"),
        ("circle", "green", "white"),
        ("square", "yellow", "purple"),
        ("square", "blue", "orange"),
        ("triangle", "purple", "yellow"),
        ("triangle", "white", "green"),
        ("house", "blue", "yellow"),
        ("house", "red", "white"),
        ("flower", "white", "blue"),
        ("flower", "purple", "green"),
        ("fish", "orange", "blue"),
        ("fish", "yellow", "black"),
    }
)


def darker(colour: RGB) -> RGB:
    """The same hue at 55 % of the brightness, but never quite black."""
    red, green, blue = (18 + round(0.55 * channel) for channel in colour)
    return red, green, blue


def shade(colour: RGB, rng: np.random.Generator) -> RGB:
    """The colour, moved by up to `JITTER` steps in each channel."""
    red, green, blue = np.clip(np.array(colour) + rng.integers(-JITTER, JITTER + 1, 3), 0, 255).tolist()
    return red, green, blue


def draw(scene: Scene) -> Image.Image:
    """The RGB picture of a scene, 128 x 128; the same scene always gives the same pixels."""
    rng = np.random.default_rng(scene.seed)
    radius = rng.uniform(*RADII[scene.size])
    centre = SIZE / 2 + rng.uniform(-SHIFT, SHIFT), SIZE / 2 + rng.uniform(-SHIFT, SHIFT)
    return paint(
        centre, radius, shade(COLOURS[scene.background], rng), shade(COLOURS[scene.colour], rng), KINDS[scene.kind], rng
    )


def paint(
    centre: Point,
    radius: float,
    background: RGB,
    colour: RGB,
    thing: Callable[[Canvas, RGB], None],
    rng: np.random.Generator,
) -> Image.Image:
    """One thing on a plain background; centre and radius in pixels of the finished picture."""
    image = Image.new("RGB", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), background)
    thing(Canvas(ImageDraw.Draw(image), centre, radius, rng), colour)
    return image.reduce(OVERSAMPLING)


def describe(scene: Scene) -> str:
    """The full caption: "a big red circle on a blue background"."""
    return f"{a(words(scene.size, scene.colour, scene.kind))} on {a(scene.background)} background"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the ways to describe the scene, most often the full one; the shorter ones leave something open."""
    thing = words(scene.size, scene.colour, scene.kind)
    forms = (
        describe(scene),
        f"{thing}, {scene.background} background",
        f"{a(words(scene.colour, scene.kind))} on {a(scene.background)} background",
        a(thing),
        f"{a(scene.kind)} on {a(scene.background)} background",
    )
    return str(rng.choice(forms, p=(0.6, 0.14, 0.1, 0.08, 0.08)))


def words(*parts: str) -> str:
    """The parts that are not empty, with spaces between them."""
    return " ".join(part for part in parts if part)


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def scenes(seed: int, held_out: bool = False) -> Iterator[Scene]:
    """Endless random scenes: those the base model may see, or only the held-out combinations."""
    rng = np.random.default_rng(seed)
    kinds, colours, sizes = list(KINDS), list(COLOURS), list(RADII)
    reserved = sorted(HELD_OUT)
    while True:
        if held_out:
            kind, colour, background = reserved[rng.integers(len(reserved))]
        else:
            kind, (colour, background) = str(rng.choice(kinds)), rng.choice(colours, 2, replace=False).tolist()
            if (kind, colour, background) in HELD_OUT:
                continue
        yield Scene(kind, colour, background, str(rng.choice(sizes)), int(rng.integers(2**31)))
