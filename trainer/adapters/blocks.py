"""The blocks of a U-Net: which one a layer is in, and the rank, alpha and rate that the settings give to each.

Blocks are counted as Kohya's scripts do: those on the way down, the middle, those on the way up. With XL there are two
more, at the beginning and at the end, in which no layer is adapted; lists of ranks and alphas name them all the same.
Nothing here loads torch, so that checks can ask early.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from trainer.adapters import ADAPTERS

if TYPE_CHECKING:
    from trainer.settings import Settings

RATES = {"down": "down_lr_weight", "mid": "mid_lr_weight", "up": "up_lr_weight"}
THRESHOLD = "block_lr_zero_threshold"
"""The settings that say what the rate of each block is multiplied by."""

DIMS, ALPHAS, CONV_DIMS, CONV_ALPHAS = "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"
SIZES = (DIMS, ALPHAS, CONV_DIMS, CONV_ALPHAS)
"""Those that say rank and alpha of each block; the latter two of convolutions larger than 1x1."""


@dataclass(frozen=True)
class Place:
    """A block: on which `side` ("down", "mid" or "up") it is, and its number there, from 0."""

    side: str
    number: int


@dataclass(frozen=True)
class Layout:
    """How many blocks a family has on each side, and at either end."""

    family: str
    down: int
    mid: int
    up: int
    ends: int = 0

    @property
    def count(self) -> int:
        """All of them: the length of a list of ranks or alphas."""
        return self.down + self.mid + self.up + 2 * self.ends

    def on(self, side: str) -> int:
        """The number of blocks on a side: the length of a list of rates."""
        return {"down": self.down, "mid": self.mid, "up": self.up}[side]

    def index(self, place: Place) -> int:
        """Where a block stands in a list of all."""
        before = {"down": 0, "mid": self.down, "up": self.down + self.mid}
        return self.ends + before[place.side] + place.number

    def called(self, index: int) -> str:
        """What the learning-rate curves call a block: "down 3", "mid"."""
        names = [f"{side} {number}" for side in RATES for number in range(self.on(side))]
        name = names[index - self.ends]
        return "mid" if name.startswith("mid") and self.mid == 1 else name


SD = Layout("Stable Diffusion 1.5 and 2", 12, 1, 12)
XL = Layout("Stable Diffusion XL", 9, 3, 9, ends=1)
LAYOUTS = {"sd15": SD, "sd2": SD, "sdxl": XL}
"""The layout of each family."""

DIFFUSERS = re.compile(r"lora_unet_(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_")
ORIGINAL = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_(\d+)_")
ORIGINAL_SIDES = {"input_blocks": "down", "middle_block": "mid", "output_blocks": "up"}


def place_of(name: str) -> Place | None:
    """The block that a layer is in, by its Kohya name; None for text encoders and for layers outside of all blocks."""
    if found := ORIGINAL.match(name):
        return Place(ORIGINAL_SIDES[found[1]], int(found[2]))
    if found := DIFFUSERS.match(name):
        side, outer, kind, inner = found[1], int(found[2]), found[3], int(found[4])
        number = 3 * outer + (2 if kind.endswith("samplers") else inner)
        return Place(side, number + 1 if side == "down" else number)  # the first on the way down is conv_in
    return Place("mid", 0) if name.startswith("lora_unet_mid_block_") else None


def layout_of(names: Iterable[str]) -> Layout:
    """The layout of the U-Net whose layers have these names."""
    return XL if any(ORIGINAL.match(name) for name in names) else SD


# What the settings say.

CURVES: dict[str, Callable[[float], float]] = {
    "sine": lambda x: math.sin(math.pi / 2 * x),
    "cosine": lambda x: math.sin(math.pi / 2 * (1 - x)),
    "linear": lambda x: x,
    "reverse_linear": lambda x: 1 - x,
    "zeros": lambda x: 0.0,
}
"""Rates by name, along a side: x is 0 at its first block and 1 at its last."""


def curve(name: str, count: int, base: float = 0.0) -> tuple[float, ...]:
    """The named curve at `count` blocks, with `base` added."""
    return tuple(CURVES[name](place / max(1, count - 1)) + base for place in range(count))


def rates_in(text: str, count: int) -> tuple[float, ...]:
    """Rates as people write them: `count` numbers, or the name of a curve with an optional number added: "sine+0.25".

    Raises `ValueError` with a sentence.
    """
    name, plus, base = (part.strip() for part in _bare(text).partition("+"))
    if not re.match(r"[A-Za-z_]", name):
        return numbers_in(text, count, least=-math.inf)
    if name not in CURVES:
        raise ValueError(f"there is no curve {name}; write {_wanted(count)}, or one of {', '.join(CURVES)}.")
    if not plus:
        return curve(name, count)
    try:
        return curve(name, count, float(base))
    except ValueError:
        raise ValueError(f"{base or 'nothing'} cannot be added to {name}; write it like {name}+0.25.") from None


def numbers_in(text: str, count: int, least: float = 0.0, whole: bool = False) -> tuple[float, ...]:
    """Exactly `count` numbers of at least `least`, separated by commas; raises `ValueError` with a sentence."""
    words = [word.strip() for word in _bare(text).split(",")]
    if len(words) != count:
        raise ValueError(f"write {_wanted(count)}; {'this is' if len(words) == 1 else 'these are'} {len(words)}.")
    return tuple(_number(word, place, least, whole) for place, word in enumerate(words, 1))


def _number(word: str, place: int, least: float, whole: bool) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{word or 'nothing'} in place {place} is not a number.") from None
    if not math.isfinite(value) or value < least:
        raise ValueError(f"{word} in place {place} is not possible; 0 is the least." if value < least else
                         f"{word} in place {place} is not a number.")  # fmt: skip
    if whole and value != int(value):
        raise ValueError(f"{word} in place {place} must be a whole number.")
    return value


def _bare(text: str) -> str:
    return text.strip(" \t\r\n\"'[]()")


def _wanted(count: int) -> str:
    return "one number" if count == 1 else f"{count} numbers separated by commas"


@dataclass(frozen=True)
class Blocks:
    """What the settings say of each block of a U-Net, by its place in the list of all; None where they say nothing."""

    layout: Layout
    rates: tuple[float, ...] | None = None
    dims: tuple[float, ...] | None = None
    alphas: tuple[float, ...] | None = None
    conv_dims: tuple[float, ...] | None = None
    conv_alphas: tuple[float, ...] | None = None

    def rate(self, name: str) -> float:
        """What the rate of a layer is multiplied by."""
        place = place_of(name)
        return 1.0 if self.rates is None or place is None else self.rates[self.layout.index(place)]

    def index(self, name: str) -> int:
        """Where the block of a layer stands in the list of all; -1 if it has no rate of its own."""
        place = place_of(name)
        return -1 if self.rates is None or place is None else self.layout.index(place)

    def size(self, name: str, is_spatial: bool, rank: int, alpha: float) -> tuple[int, float]:
        """Rank and alpha of a layer, which are `rank` and `alpha` where its block has none; a rank of 0 leaves it out.

        As in the reference, an alpha of 0 means the rank, and a block that does not learn is left out.
        """
        place = place_of(name)
        if place is None:
            return rank, alpha
        index = self.layout.index(place)
        if self.rates is not None and not self.rates[index]:
            return 0, alpha
        dims, alphas = (self.conv_dims, self.conv_alphas) if is_spatial else (self.dims, self.alphas)
        rank = rank if dims is None else int(dims[index])
        return rank, alpha if alphas is None else alphas[index] or float(rank)


def given(s: "Settings", key: str) -> str:
    """What is written in a setting, "" where it means nothing to the chosen LoRA type."""
    return str(getattr(s, key)).strip() if key in ADAPTERS[s.LoRA_type].options else ""


def blocks_of(s: "Settings", layout: Layout) -> Blocks:
    """What the settings say of the blocks; raises `ValueError` with (key, sentence) for the first that is wrong."""
    for key, message in complaints(s, layout):
        raise ValueError(key, message)
    sizes = (numbers_in(text, layout.count) if (text := given(s, key)) else None for key in SIZES)
    return Blocks(layout, _rates(s, layout), *sizes)


def _rates(s: "Settings", layout: Layout) -> tuple[float, ...] | None:
    texts = {side: given(s, key) for side, key in RATES.items()}
    if not any(texts.values()):
        return None
    (threshold,) = numbers_in(given(s, THRESHOLD) or "0", 1)
    listed = [1.0] * layout.ends
    for side, text in texts.items():
        count = layout.on(side)
        values = rates_in(text, count) if text else (1.0,) * count
        # Only what is written is held against the threshold.
        listed += [value if value > threshold or not text else 0.0 for value in values]
    return (*listed, *[1.0] * layout.ends)


def complaints(s: "Settings", layout: Layout) -> Iterator[tuple[str, str]]:
    """(key, sentence) for each of these settings that cannot be used with a U-Net of this layout."""
    readers: dict[str, Callable[[str], object]] = {
        **{key: partial(rates_in, count=layout.on(side)) for side, key in RATES.items()},
        THRESHOLD: partial(numbers_in, count=1),
        **{key: partial(numbers_in, count=layout.count, whole=key in (DIMS, CONV_DIMS)) for key in SIZES},
    }
    for key, read in readers.items():
        try:
            read(text) if (text := given(s, key)) else None
        except ValueError as error:
            of = "" if key == THRESHOLD else f"for {layout.family}, "
            yield key, f"{of}{error}"
