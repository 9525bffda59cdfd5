"""The families of models: their names, and how each is known by its tensors, its configs or its name on the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.models.headers import Shapes

SUPPORTED = {"sd15": "Stable Diffusion 1.5", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
OTHERS = {
    "sdxl-refiner": "Stable Diffusion XL (refiner)", "sd3": "Stable Diffusion 3", "flux": "Flux",
    "pix2pix": "InstructPix2Pix", "depth": "Stable Diffusion with a depth map",
    "upscaler": "an upscaler of Stable Diffusion", "cascade": "Stable Cascade", "pixart": "PixArt",
    "lumina": "Lumina Image 2", "auraflow": "AuraFlow", "hunyuan": "Hunyuan-DiT",
}  # fmt: skip
FAMILY_NAMES = SUPPORTED | OTHERS
"""What people call each family."""

TRAINABLE = f"{', '.join(list(SUPPORTED.values())[:-1])} and {list(SUPPORTED.values())[-1]}"

INPAINTING = 9
"""Input channels of an inpainting model: noisy latents (4), the mask (1), latents of what it leaves visible (4)."""

CHANNELS = {8: "pix2pix", 7: "upscaler", 5: "depth"}
"""Families that see more than the noisy latents, by the number of input channels."""

TEXT_ENCODERS = {
    "sd15": (("text_encoder", "cond_stage_model.transformer.", "clip"),),
    "sd2": (("text_encoder", "cond_stage_model.model.", "open_clip"),),
    "sdxl": (
        ("text_encoder", "conditioner.embedders.0.transformer.", "clip"),
        ("text_encoder_2", "conditioner.embedders.1.model.", "open_clip_projected"),
    ),
}  # fmt: skip
"""The text encoders of each family: folder, beginning of the keys in a single file, and how these keys are laid out."""

GIGABYTES = {"sd15": 2.1, "sd2": 2.6, "sdxl": 6.9}
"""What the weights of a family come to in half precision: two bytes for each of 1.07, 1.29 and 3.47 billion."""


def parts_of(family: str) -> tuple[str, ...]:
    """The parts of a model, by the names of their folders."""
    return ("unet", "vae", *(name for name, *_ in TEXT_ENCODERS[family]))


@dataclass(frozen=True)
class Known:
    """What is known of a model by its name on the hub: its family, what it predicts, whether it is for inpainting."""

    start: str
    family: str
    prediction: str = "epsilon"
    inpainting: bool = False


ON_THE_HUB = (
    Known("stabilityai/stable-diffusion-xl-refiner", "sdxl-refiner"),
    Known("stabilityai/stable-diffusion-xl", "sdxl"),
    Known("stabilityai/sdxl-turbo", "sdxl"),
    Known("diffusers/stable-diffusion-xl-1.0-inpainting", "sdxl", inpainting=True),
    Known("stabilityai/stable-diffusion-2-inpainting", "sd2", inpainting=True),
    Known("stabilityai/stable-diffusion-2-depth", "depth"),
    Known("stabilityai/stable-diffusion-2-base", "sd2"),
    Known("stabilityai/stable-diffusion-2-1-base", "sd2"),
    Known("stabilityai/stable-diffusion-2", "sd2", "v_prediction"),
    Known("stabilityai/stable-diffusion-3", "sd3"),
    Known("stabilityai/stable-cascade", "cascade"),
    Known("black-forest-labs/flux", "flux"),
    Known("timbrooks/instruct-pix2pix", "pix2pix"),
    Known("runwayml/stable-diffusion-inpainting", "sd15", inpainting=True),
    Known("stable-diffusion-v1-5/stable-diffusion-inpainting", "sd15", inpainting=True),
    Known("compvis/stable-diffusion-v1", "sd15"),
    Known("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
)
"""Beginnings of well-known names, the first that fits counts; other models tell what they are by their configs."""


def of_hub_name(name: str) -> Known | None:
    """What is known of a well-known model on the hub."""
    return next((known for known in ON_THE_HUB if name.lower().startswith(known.start)), None)


PIPELINES = (
    ("XLPipeline", "sdxl"), ("XLInpaint", "sdxl"), ("XLImg2Img", "sdxl-refiner"), ("XLInstructPix2Pix", "pix2pix"),
    ("Diffusion3", "sd3"), ("Flux", "flux"), ("Cascade", "cascade"), ("PixArt", "pixart"), ("Lumina", "lumina"),
    ("AuraFlow", "auraflow"), ("HunyuanDiT", "hunyuan"),
)  # fmt: skip
"""Pieces of pipelines' class names, and the families they are of."""


def of_folder(pipeline: str, unet: Mapping[str, Any]) -> str:
    """The family of a diffusers folder by its pipeline's class and its U-Net's config; a noun phrase if unknown."""
    for word, family in PIPELINES:
        if word in pipeline and family not in SUPPORTED:
            return family
    if not unet:
        return next((family for word, family in PIPELINES if word in pipeline), pipeline or "a model without a U-Net")
    channels = unet.get("in_channels", 4)
    if channels not in (4, INPAINTING):
        return CHANNELS.get(channels, f"a model with {channels} input channels")
    if unet.get("addition_embed_type") == "text_time" or "XL" in pipeline:
        return "sdxl"
    return "sd2" if unet.get("use_linear_projection") or unet.get("cross_attention_dim") == 1024 else "sd15"


# Single files


UNET = "model.diffusion_model."
LORA = (
    ".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".hada_w1_a", ".lokr_w1", ".oft_blocks", "lora.up.",
    "lora.down.", "lora_unet_", "lora_te",
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
    for word, family in TRANSFORMERS:
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
    if len(first) == 4 and first[1] not in (4, INPAINTING):
        return "single", CHANNELS.get(first[1], f"a model with {first[1]} input channels")
    if any(key.startswith(UNET + "label_emb.") for key in shapes):
        refiner = any(key.startswith("conditioner.embedders.0.model.") for key in shapes)
        family = "sdxl-refiner" if refiner else "sdxl"
    elif len(projection) == 2:
        family = "sd2"
    elif len(first) == 4 and len(projection) == 4:
        family = "sd15"
    else:
        return "single", "a model of an unknown kind"
    if family not in SUPPORTED or len(first) != 4:
        return "single", family if family not in SUPPORTED else "a model of an unknown kind"
    parts = [("VAE", "first_stage_model.")]
    parts += [(NAMES[name], prefix.split(".")[0] + ".") for name, prefix, _ in TEXT_ENCODERS[family][:1]]
    parts += [(NAMES[name], ".".join(prefix.split(".")[:3]) + ".") for name, prefix, _ in TEXT_ENCODERS[family][1:]]
    for part, keys in parts:
        if not any(key.startswith(keys) for key in shapes):
            return "part", f"a U-Net without its {part}"
    return "single", family


NAMES = {"text_encoder": "text encoder", "text_encoder_2": "second text encoder"}


def is_inpainting(shapes: Shapes) -> bool:
    """Whether the U-Net of a single file also sees a mask and what it leaves."""
    first = shapes.get(UNET + "input_blocks.0.0.weight", ())
    return len(first) == 4 and first[1] == INPAINTING


TRANSFORMERS = (
    ("double_blocks.0.", "flux"), ("joint_blocks.0.", "sd3"), ("double_layers.0.", "auraflow"),
    ("noise_refiner.0.", "lumina"), ("adaln_single.", "pixart"), ("clip_txt_pooled_mapper.", "cascade"),
    ("mlp_t5.", "hunyuan"),
)  # fmt: skip
"""Pieces of key names of families that are not trained here."""
