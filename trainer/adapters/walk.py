"""Which layers of a model an adapter goes on, and what the ecosystem's files call them.

Layers are found by the class of the block they stand in, as Kohya's scripts do, so that a file trained here has exactly
the modules of one trained there: 264 in Stable Diffusion 1.5, 350 with convolutions, 722 in the U-Net of XL and 264 in
its two text encoders. Names are made of a layer's path in diffusers, but for the U-Net of XL, where they are made of
its path in the original code ("input_blocks_4_1_…").
"""

import re
from collections.abc import Callable, Iterator
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
    encoder: int = 0
    """Which of the text encoders, for the part "text"."""

    @property
    def is_spatial(self) -> bool:
        """Whether it is a convolution larger than 1x1, which has a rank and alpha of its own."""
        return isinstance(self.layer, nn.Conv2d) and self.layer.kernel_size != (1, 1)


def targets(model: "Model", convolutions: bool) -> list[Target]:
    """Every layer to adapt, text encoders first; with `convolutions` also those of resnets and samplers."""
    found = []
    for number, encoder in enumerate(model.text_encoders):
        found += list(_layers(encoder, "text", text_namer(model, number), TEXT, number))
    blocks = ATTENTION | (CONVOLUTIONS if convolutions else frozenset())
    return found + list(_layers(model.unet, "unet", unet_namer(model), blocks))


def _layers(
    root: nn.Module, part: str, name: Callable[[str], str], blocks: frozenset[str], encoder: int = 0
) -> Iterator[Target]:
    for outer, block in root.named_modules():
        if type(block).__name__ not in blocks:
            continue
        for inner, layer in block.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                path = f"{outer}.{inner}"
                yield Target(name(path), part, path, root, layer, encoder)


# Names


def text_namer(model: "Model", number: int) -> Callable[[str], str]:
    """What the ecosystem calls a module of a text encoder, by its path in it; XL's are te1 and te2."""
    start = f"lora_te{number + 1}" if model.family == "sdxl" else "lora_te"
    # transformers flattened CLIPTextModel; the ecosystem's names keep the text_model part.
    middle = "" if hasattr(model.text_encoders[number], "text_model") else "text_model_"
    return lambda path: f"{start}_{middle}{path.replace('.', '_')}"


def unet_namer(model: "Model") -> Callable[[str], str]:
    """What the ecosystem calls a module of the U-Net, by its path in diffusers."""
    if model.family != "sdxl":
        return lambda path: f"lora_unet_{path.replace('.', '_')}"
    each = int(model.unet.config.layers_per_block) + 1
    with_attention = ["Attn" in kind for kind in model.unet.config.up_block_types]
    return lambda path: f"lora_unet_{original_path(path, each, with_attention).replace('.', '_')}"


INSIDE = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTSIDE = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
"""Modules of a resnet, and those outside the blocks: their names in diffusers and in the original code."""


def original_path(path: str, each: int, with_attention: "list[bool]") -> str:
    """The path that the original code (generative-models) gives to a module of diffusers' U-Net.

    There all levels are in one list: `input_blocks` holds the first convolution, then the `each` - 1 resnets of the
    first level and what makes it smaller, those of the second level, and so on; `output_blocks` has `each` resnets on
    each level, and what makes them larger stands behind the last one and its attention (`with_attention` by level).
    """
    if path in OUTSIDE:
        return OUTSIDE[path]
    found = re.fullmatch(
        r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.?(.*)", path
    )
    if found is None:
        return path
    side, level, kind, number, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "resnets":
        first, _, more = rest.partition(".")
        rest = ".".join(filter(None, (INSIDE.get(first, first), more)))
    if side == "mid":
        block = f"middle_block.{1 if kind == 'attentions' else 2 * number}"
    elif kind == "downsamplers":
        block, rest = f"input_blocks.{(level + 1) * each}.0", re.sub("^conv", "op", rest)
    elif kind == "upsamplers":
        block = f"output_blocks.{level * each + each - 1}.{2 if with_attention[level] else 1}"
    else:
        start = (
            f"input_blocks.{1 + level * each + number}" if side == "down" else f"output_blocks.{level * each + number}"
        )
        block = f"{start}.{1 if kind == 'attentions' else 0}"
    return f"{block}.{rest}" if rest else block
