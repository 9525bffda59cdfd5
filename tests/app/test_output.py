"""What a run measures, in words: the learning rates of its groups."""

from types import SimpleNamespace
from typing import Any

import pytest

from app import output


def shown(rates: dict[str, float]) -> str:
    """The panel's rates of a run that learns at these."""
    last = SimpleNamespace(lr=rates, average=0.1)
    story = SimpleNamespace(points=[(1, 0.1), (2, 0.1)], last=last, epochs=[])
    view: Any = SimpleNamespace(story=story, steps=10)
    return output.loss(view)


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"unet": 1e-4, "textencoder": 5e-5}, ["U-Net <b>1e-4</b>", "text encoder <b>5e-5</b>"]),
        ({"unet": 1e-4, "unet plus": 1.6e-3}, ["U-Net <b>1e-4</b>", "U-Net plus <b>1.6e-3</b>"]),
        ({"unet": 1e-4, "textencoder": 1e-4}, ["> <b>1e-4</b>"]),
    ],
)
def test_rates_by_group(rates: dict[str, float], words: list[str]) -> None:
    assert all(word in shown(rates) for word in words)


def test_many_groups_are_a_range() -> None:
    """Blocks with rates of their own: one line for each part, not one for each block."""
    found = shown({**{f"unet up {n}": (n + 1) * 1e-5 for n in range(12)}, "textencoder": 2e-5})
    assert "U-Net <b>1e-5 to " in found
    assert "text encoder <b>2e-5</b>" in found
    assert "up 3" not in found
