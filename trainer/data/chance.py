"""Chance that can be repeated: every random choice about data has a generator of its own, made of what it is about.

Nothing is carried from one choice to the next, so a run can be taken up at any batch without remembering any state, and
switching one kind of choice on does not change the others.
"""

from enum import IntEnum

import numpy as np


class Choice(IntEnum):
    """What a random choice is about. Never zero: numpy's seeds do not tell a zero at the end from nothing."""

    ORDER = 1
    FLIP = 2
    CAPTION = 3
    COLOR = 4
    LATENT = 5
    MASK = 6
    MASKED_LATENT = 7
    CROP = 8


def generator(choice: Choice, seed: int, epoch: int, entry: int = 0) -> np.random.Generator:
    """The generator for this choice on the `entry`-th picture shown in this epoch, or on the epoch as a whole."""
    return np.random.default_rng([seed, epoch, entry, choice])
