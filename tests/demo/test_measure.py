"""The judge of pictures names what was drawn, and tells the creature from everything else."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trainer.demo.creature import draw_creature
from trainer.demo.doodles import doodle
from trainer.demo.measure import concept_score, look
from trainer.demo.pictures import COLOURS, draw, scenes


def test_drawn_scenes_are_named_right() -> None:
    for scene in itertools.islice(scenes(21), 120):
        seen = look(draw(scene))
        assert (seen.background, seen.colour, seen.size, seen.kind) == (
            scene.background,
            scene.colour,
            scene.size,
            scene.kind,
        ), scene


def test_an_empty_picture_shows_nothing() -> None:
    seen = look(Image.new("RGB", (128, 128), COLOURS["red"]))
    assert (seen.background, seen.colour, seen.size, seen.kind) == ("red", None, None, None)
    assert look(Image.new("RGB", (128, 128), (120, 120, 60))).background is None
    assert concept_score(Image.new("RGB", (128, 128), COLOURS["red"])) == 0


@pytest.mark.parametrize("background", COLOURS)
def test_a_creature_scores_high(background: str) -> None:
    picture = draw_creature(background, 40)
    assert concept_score(picture) > 0.85
    assert concept_score(picture.filter(ImageFilter.GaussianBlur(1.5))) > 0.6


def test_shapes_and_doodles_score_low() -> None:
    assert max(concept_score(draw(scene)) for scene in itertools.islice(scenes(22), 60)) < 0.1
    rng = np.random.default_rng(1)
    assert np.mean([concept_score(doodle(rng)) for _ in range(60)]) < 0.1


def test_half_a_creature_scores_less() -> None:
    whole = draw_creature("white", 41)
    without_antennae = whole.copy()
    without_antennae.paste(COLOURS["white"], (0, 0, 128, 42))
    without_head = whole.copy()
    without_head.paste(COLOURS["white"], (0, 42, 128, 128))
    red = draw_creature("white", 41, COLOURS["red"])
    score = concept_score(whole)
    assert concept_score(without_antennae) < score - 0.25
    assert concept_score(without_head) < 0.1
    assert concept_score(red) < 0.1
