"""Pictures are the same every time and show what their captions say."""

import itertools

import numpy as np
import pytest

from trainer.demo.creature import draw_creature
from trainer.demo.doodles import doodle
from trainer.demo.pictures import COLOURS, HELD_OUT, KINDS, RADII, SIZE, Scene, caption, describe, draw, scenes


def test_the_same_scene_gives_the_same_pixels() -> None:
    scene = Scene("fish", "orange", "blue", "big", 7)
    assert draw(scene).tobytes() == draw(scene).tobytes()
    assert draw(scene).tobytes() != draw(Scene("fish", "orange", "blue", "big", 8)).tobytes()
    assert draw_creature("red", 3).tobytes() == draw_creature("red", 3).tobytes()
    first, again = (doodle(np.random.default_rng(5)) for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_the_same_seed_gives_the_same_scenes() -> None:
    assert list(itertools.islice(scenes(3), 20)) == list(itertools.islice(scenes(3), 20))
    assert list(itertools.islice(scenes(3), 20)) != list(itertools.islice(scenes(4), 20))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", RADII)
def test_corners_have_the_background_and_the_middle_the_colour(kind: str, size: str) -> None:
    pixels = np.asarray(draw(Scene(kind, "purple", "yellow", size, 11)), float)
    assert pixels.shape == (SIZE, SIZE, 3)
    for corner in (pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]):
        assert abs(corner - COLOURS["yellow"]).max() <= 12
    near = np.linalg.norm(pixels - COLOURS["purple"], axis=-1) < 40
    assert near.sum() > 0.3 * np.pi * RADII[size][0] ** 2


def test_big_is_bigger_than_small() -> None:
    def area(size: str) -> int:
        pixels = np.asarray(draw(Scene("circle", "black", "white", size, 2)), float)
        return int((pixels.mean(-1) < 128).sum())

    assert area("small") < area("") < area("big")


def test_captions_read_well() -> None:
    assert describe(Scene("circle", "red", "orange", "big")) == "a big red circle on an orange background"
    assert describe(Scene("house", "orange", "blue")) == "an orange house on a blue background"
    rng = np.random.default_rng(0)
    forms = {caption(Scene("fish", "green", "red", "small"), rng) for _ in range(200)}
    assert "a small green fish on a red background" in forms
    assert "small green fish, red background" in forms
    assert all("fish" in form for form in forms)
    assert len(forms) == 5


def test_held_out_combinations_are_held_out() -> None:
    seen = {(scene.kind, scene.colour, scene.background) for scene in itertools.islice(scenes(0), 3000)}
    assert not seen & HELD_OUT
    assert len(seen) == len(KINDS) * len(COLOURS) * (len(COLOURS) - 1) - len(HELD_OUT)
    others = {(scene.kind, scene.colour, scene.background) for scene in itertools.islice(scenes(0, held_out=True), 300)}
    assert others == HELD_OUT
