"""Which layers of a model an adapter goes on, and what the ecosystem's files call them.

Layers are found by the class of the block they stand in, as Kohya's scripts do, so that a file trained here has exactly
the modules of one trained there: 264 in Stable Diffusion 1.5, 350 with convolutions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from trainer.models import Model

ATTENTION = frozenset({"Transformer2DModel"})
CONVOLUTIONS = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})
TEXT = frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"})
"""Class names of the blocks whose linear and convolution layers are adapted."""


@dataclass(frozen=True)
class Target:
    """A layer to adapt: its Kohya name, the part of the model ("unet" or "text") and its path in that part's `root`."""

    name: str
    part: str
    path: str
    root: Any = field(compare=False, repr=False)
    layer: Any = field(compare=False, repr=False)

    @property
    def is_spatial(self) -> bool:
        """Whether it is a convolution larger than 1x1, which has a rank and alpha of its own."""
        return isinstance(self.layer, nn.Conv2d) and self.layer.kernel_size != (1, 1)


def targets(model: "Model", convolutions: bool) -> list[Target]:
    """Every layer to adapt, text encoders first; with `convolutions` also those of resnets and samplers."""
    found = []
    for encoder in model.text_encoders:
        # transformers flattened CLIPTextModel; the ecosystem's names keep the text_model part.
        prefix = "lora_te_" if hasattr(encoder, "text_model") else "lora_te_text_model_"
        found += list(_layers(encoder, "text", prefix, TEXT))
    return found + list(
        _layers(model.unet, "unet", "lora_unet_", ATTENTION | (CONVOLUTIONS if convolutions else frozenset()))
    )


def _layers(root: nn.Module, part: str, prefix: str, blocks: frozenset[str]) -> Iterator[Target]:
    for outer, block in root.named_modules():
        if type(block).__name__ not in blocks:
            continue
        for inner, layer in block.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                path = f"{outer}.{inner}"
                yield Target(prefix + path.replace(".", "_"), part, path, root, layer)
