"""An earlier LoRA file to go on from: read, and checked against the model and the settings before anything is built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from trainer.adapters.walk import Target

if TYPE_CHECKING:
    from trainer.settings import Settings

KEY = "network_weights"


@dataclass(frozen=True)
class Size:
    """Rank and alpha of one layer's update; it counts alpha / rank times."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class Start:
    """The file's tensors by key, and rank and alpha of each layer it holds."""

    path: Path
    state: Mapping[str, Tensor]
    sizes: Mapping[Target, Size]


def read_start(settings: "Settings", everything: Sequence[Target], suffixes: frozenset[str]) -> Start:
    """The file in `settings.network_weights`, checked to fit; raises `Failure` with a sentence when it does not."""
    raise NotImplementedError
