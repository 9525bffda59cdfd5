"""What a type cannot do with layers of certain widths, in sentences; plain arithmetic, so that checks can ask early."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from trainer.adapters.lycoris.factors import butterfly, smallest_butterfly

if TYPE_CHECKING:
    from trainer.settings import Settings

Layers = Iterable[tuple[int, int, bool]]
"""(outputs, inputs, whether it is a convolution larger than 1x1) of each layer."""


def complaints(algo: str, s: "Settings", layers: Layers) -> Iterator[tuple[str, str]]:
    """(key of a setting, sentence) for each setting that is impossible with these layers."""
    layers = list(layers)
    if algo == "lokr" and s.factor > 0:
        widths = sorted({width for out, inner, _ in layers for width in (out, inner)})
        if widths and not any(width % s.factor == 0 for width in widths):
            yield (
                "factor",
                f"{s.factor} divides none of the layers' widths ({_listed(widths)}); -1 splits each evenly.",
            )
    if algo == "boft":
        for key, spatial in (("network_dim", False), ("conv_dim", True)):
            limit = s.conv_dim if spatial else s.network_dim
            outs = {out for out, _, big in layers if big == spatial}
            short = [out for out in outs if out % 2 == 0 and not butterfly(out, limit)[1]]
            if limit and short:
                worst = max(short, key=smallest_butterfly)
                least = smallest_butterfly(worst)
                yield key, f"BOFT needs at least {least} for layers with {worst} outputs; it is {limit}."
    if algo == "dylora":
        for key, rank in (("network_dim", s.network_dim), ("conv_dim", s.conv_dim)):
            if rank % s.unit and any(big == (key == "conv_dim") for _, _, big in layers):
                yield "unit", f"{s.unit} does not divide {key.replace('_dim', '')} rank {rank}."


def _listed(widths: list[int]) -> str:
    return ", ".join(map(str, widths[:6])) + (" …" if len(widths) > 6 else "")
