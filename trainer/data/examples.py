"""A few captions as the trainer uses them."""

from itertools import accumulate
from typing import TypedDict

from trainer.data.captions import process
from trainer.data.chance import Choice, generator
from trainer.data.dataset import Dataset, Picture
from trainer.settings import Settings

MOST = 3


class Example(TypedDict):
    """A picture's file name and its caption in the first epoch."""

    picture: str
    caption: str


def examples(settings: Settings, dataset: Dataset, steps: int) -> list[Example]:
    """The captions that some training pictures have when they are shown first in a run of so many steps.

    With a seed they are the very ones (but for token warm-up, which is taken at its beginning); else others as likely.
    """
    repeated = dataset.repeated()
    places = accumulate((count for _, count in repeated), initial=0)  # of each picture's first use in the epoch
    shown = [(place, picture) for place, (picture, _) in zip(places, repeated, strict=False) if not picture.is_reg]
    return [
        Example(picture=picture.path.name, caption=_first(picture, place, settings, steps))
        for place, picture in shown[:: max(1, -(-len(shown) // MOST))]
    ]


def _first(picture: Picture, place: int, settings: Settings, steps: int) -> str:
    rng = generator(Choice.CAPTION, settings.seed or 0, 1, place)
    return process(picture.caption, picture.under(settings), rng, epoch=1, step=0, steps=steps)
