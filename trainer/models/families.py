"""The families of models: their names, and how each is known by its tensors, its configs or its name on the hub."""

from collections.abc import Mapping
from typing import Any

from trainer.models.headers import Shapes

SUPPORTED = {"sd15": "Stable Diffusion 1.5"}
OTHERS = {
    "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL", "sdxl-refiner": "Stable Diffusion XL (refiner)",
    "sd3": "Stable Diffusion 3", "flux": "Flux", "inpainting": "Stable Diffusion inpainting",
    "pix2pix": "InstructPix2Pix",
}  # fmt: skip
FAMILY_NAMES = SUPPORTED | OTHERS
"""What people call each family."""

CHANNELS = {9: "inpainting", 8: "pix2pix"}
"""Families that see more than the noisy latents, by the number of input channels."""

ON_THE_HUB = {
    "stabilityai/stable-diffusion-xl-refiner": "sdxl-refiner", "stabilityai/stable-diffusion-xl": "sdxl",
    "stabilityai/sdxl": "sdxl", "stabilityai/stable-diffusion-2-inpainting": "inpainting",
    "stabilityai/stable-diffusion-2": "sd2", "stabilityai/stable-diffusion-3": "sd3",
    "black-forest-labs/flux": "flux", "timbrooks/instruct-pix2pix": "pix2pix",
    "runwayml/stable-diffusion-inpainting": "inpainting", "compvis/stable-diffusion-v1": "sd15",
    "stable-diffusion-v1-5/stable-diffusion-inpainting": "inpainting",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
}  # fmt: skip
"""Beginnings of well-known names; other models tell their family when their configs are fetched."""


def of_hub_name(name: str) -> str | None:
    """The family of a well-known model on the hub."""
    return next((family for start, family in ON_THE_HUB.items() if name.lower().startswith(start)), None)


def of_folder(pipeline: str, unet: Mapping[str, Any]) -> str:
    """The family of a diffusers folder by its pipeline's class and its U-Net's config; a noun phrase if unknown."""
    for word, family in (("XL", "sdxl"), ("Diffusion3", "sd3"), ("Flux", "flux")):
        if word in pipeline:
            return family
    if not unet:
        return pipeline or "a model without a U-Net"
    if unet.get("addition_embed_type") == "text_time":
        return "sdxl"
    channels = unet.get("in_channels", 4)
    if channels != 4:
        return CHANNELS.get(channels, f"a model with {channels} input channels")
    return "sd2" if unet.get("use_linear_projection") or unet.get("cross_attention_dim") == 1024 else "sd15"


# Single files


UNET = "model.diffusion_model."
LORA = (
    ".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".hada_w1_a", ".lokr_w1", ".oft_blocks", "lora.up.",
    "lora.down.",
)  # fmt: skip
PARTS = (
    ("control_model.", "a ControlNet"), ("controlnet_", "a ControlNet"), ("input_hint_block", "a ControlNet"),
    ("string_to_param", "a textual inversion embedding"), ("emb_params", "a textual inversion embedding"),
    ("down_blocks.0.attentions.0.transformer_blocks", "one part of a diffusers model"),
    ("transformer_blocks.0.", "one part of a diffusers model"),
    ("decoder.conv_in.weight", "a VAE"), ("first_stage_model.", "a VAE"),
    ("text_model.encoder.layers.0.", "a text encoder"), ("conv_first.weight", "an upscaler"),
    ("model.0.weight", "an upscaler"),
)  # fmt: skip
"""Pieces of key names, and what a file with such a key is."""


def of_file(shapes: Shapes) -> tuple[str, str]:
    """(kind, family) of a single file from its tensors' names and shapes; family is a noun phrase if it is no model."""
    if not shapes:
        return "unknown", "a file without weights"
    if any(mark in key for key in shapes for mark in LORA):
        return "lora", "a LoRA"
    for word, family in (("double_blocks.0.", "flux"), ("joint_blocks.0.", "sd3")):
        if any(word in key for key in shapes):
            return "single", family
    if any(key.startswith(UNET) for key in shapes):
        return _with_unet(shapes)
    for word, what in PARTS:
        if any(word in key for key in shapes):
            return "part", what
    return "unknown", "a file of an unknown kind"


def _with_unet(shapes: Shapes) -> tuple[str, str]:
    first, projection = (
        shapes.get(UNET + key, ()) for key in ("input_blocks.0.0.weight", "input_blocks.1.1.proj_in.weight")
    )
    if len(first) == 4 and first[1] != 4:
        return "single", CHANNELS.get(first[1], f"a model with {first[1]} input channels")
    if any(key.startswith(UNET + "label_emb.") for key in shapes):
        return "single", "sdxl" if any(key.startswith("conditioner.embedders.1.") for key in shapes) else "sdxl-refiner"
    if len(projection) == 2:
        return "single", "sd2"
    if len(first) != 4 or len(projection) != 4:
        return "single", "a model of an unknown kind"
    for part, keys in (("VAE", "first_stage_model."), ("text encoder", "cond_stage_model.")):
        if not any(key.startswith(keys) for key in shapes):
            return "part", f"a U-Net without its {part}"
    return "single", "sd15"
