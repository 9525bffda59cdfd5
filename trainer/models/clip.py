"""The text encoders of single files: their tensors under the names that transformers gives them."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

States = dict[str, "Tensor"]


def of_clip(tensors: Mapping[str, "Tensor"], prefix: str, layers: int) -> States:
    """OpenAI's CLIP, in whose keys `text_model.` may or may not stand."""
    return {
        key.removeprefix(prefix).removeprefix("text_model."): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix) and not key.endswith("position_ids")
    }


OUTER = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
INNER = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
"""OpenCLIP's names, and those of transformers."""


def of_open_clip(tensors: Mapping[str, "Tensor"], prefix: str, layers: int) -> States:
    """OpenCLIP's text tower up to its layer number `layers`: query, key and value are one matrix there.

    Stable Diffusion 2 uses the last layer but one; its files hold the last one too, which is left out.
    """
    states: States = {}
    for key, tensor in tensors.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        if name in OUTER:
            states[OUTER[name]] = tensor
        found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)", name)
        packed = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
        if packed and int(packed[1]) < layers:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                states[f"encoder.layers.{packed[1]}.self_attn.{part}_proj.{packed[2]}"] = third.contiguous()
        elif found and int(found[1]) < layers:
            states[f"encoder.layers.{found[1]}.{INNER[found[2]]}.{found[3]}"] = tensor
    return states


def of_open_clip_projected(tensors: Mapping[str, "Tensor"], prefix: str, layers: int) -> States:
    """As `of_open_clip`, with the projection of the pooled text, which is turned round there."""
    states = {f"text_model.{key}": tensor for key, tensor in of_open_clip(tensors, prefix, layers).items()}
    for key in (f"{prefix}text_projection", f"{prefix}text_projection.weight"):
        if key in tensors:
            turned = key.endswith("text_projection")
            states["text_projection.weight"] = tensors[key].T.contiguous() if turned else tensors[key]
    return states


LAYOUTS: Mapping[str, Callable[[Mapping[str, "Tensor"], str, int], States]] = {
    "clip": of_clip, "open_clip": of_open_clip, "open_clip_projected": of_open_clip_projected,
}  # fmt: skip
"""How a text encoder may be laid out in a single file."""
