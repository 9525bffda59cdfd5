"""What a type cannot do with layers of certain widths, in sentences; plain arithmetic, so that checks can ask early."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.adapters.lycoris.factors import butterfly, smallest_butterfly

if TYPE_CHECKING:
    from trainer.settings import Settings

Layers = Iterable[tuple[int, int, bool]]
"""(outputs, inputs, whether it is a convolution larger than 1x1) of each layer."""


@dataclass(frozen=True)
class Complaint:
    """A setting that is impossible with these layers, why, and a value that is possible."""

    key: str
    message: str
    possible: int


def complaints(algo: str, s: "Settings", layers: Layers) -> Iterator[Complaint]:
    """Every setting that is impossible with these layers."""
    layers = list(layers)
    if algo == "lokr":
        yield from _factor(s, layers)
    if algo in ("boft", "diag-oft"):
        for key, rank, spatial in (("network_dim", s.network_dim, False), ("conv_dim", s.conv_dim, True)):
            outs = {out for out, _, big in layers if big == spatial}
            if outs and rank:
                yield from _block(algo, key, rank, outs)
    if algo == "dylora":
        for rank, spatial in ((s.network_dim, False), (s.conv_dim, True)):
            if rank % s.unit and any(big == spatial for _, _, big in layers):
                yield Complaint("unit", f"{s.unit} does not divide the rank {rank}.", 1)


def _factor(s: "Settings", layers: Layers) -> Iterator[Complaint]:
    widths = sorted({width for out, inner, _ in layers for width in (out, inner)})
    if s.factor > 0 and widths and not any(width % s.factor == 0 for width in widths):
        listed = ", ".join(map(str, widths[:6])) + (" …" if len(widths) > 6 else "")
        yield Complaint(
            "factor", f"{s.factor} divides none of the layers' widths ({listed}); -1 splits each evenly.", -1
        )


def _block(algo: str, key: str, rank: int, outs: set[int]) -> Iterator[Complaint]:
    if algo == "boft":
        short = [out for out in outs if out % 2 == 0 and not butterfly(out, rank)[1]]
        if short:
            worst = max(short, key=smallest_butterfly)
            least = smallest_butterfly(worst)
            message = f"BOFT needs at least {least} for layers with {worst} outputs; it is {rank}."
            yield Complaint(key, message, least)
    elif rank == 1:
        yield Complaint(key, "blocks of one output cannot turn; it must be at least 2.", 8)
