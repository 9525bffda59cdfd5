"""The model that is trained on."""

from typing import ClassVar

from trainer.declare import Section, setting

QUICK_PICKS = (
    "demo",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/stable-diffusion-xl-refiner-1.0",
    "stabilityai/stable-diffusion-2-1-base/blob/main/v2-1_512-ema-pruned",
    "stabilityai/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1/blob/main/v2-1_768-ema-pruned",
    "stabilityai/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2",
    "CompVis/stable-diffusion-v1-4",
)
"""Names offered by Model Quick Pick: the demo that comes with the program, and models that a hub serves."""

MOVED = {"runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
"""Former names of models, and where they live now."""


class SourceModel(Section):
    """The model your LoRA is trained on; the finished file works with this model and its relatives."""

    tab: ClassVar[str] = "Source Model"
    title: ClassVar[str] = "Model"

    pretrained_model_name_or_path: str = setting(
        "demo",
        "Pretrained model name or path",
        "A quick pick, a model's name on the hub, a .safetensors or .ckpt file, or a diffusers folder.",
        kind="file",
    )
    save_model_as: str = setting(
        "safetensors",
        "Save trained model as",
        "safetensors loads everywhere and cannot run code; ckpt is for old programs.",
        choices=("safetensors", "ckpt"),
    )


class Family(Section):
    """Which kind of model it is. Read from the model, where it says so."""

    tab: ClassVar[str] = "Source Model"
    title: ClassVar[str] = "Family"

    v2: bool = setting(
        False, "v2", "The model is a Stable Diffusion 2. Ticked where the model says so.",
    )  # fmt: skip
    v_parameterization: bool = setting(
        False, "v_param", "v_parameterization: the model predicts velocity instead of noise. Read from diffusers folders; a single file seldom says it: then this tick decides.",
    )  # fmt: skip
    sdxl: bool = setting(
        False, "SDXL", "The model is a Stable Diffusion XL. Ticked where the model says so.",
    )  # fmt: skip


class OwnVae(Section):
    """The part of the model that turns pictures into latents and back."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "VAE"

    vae: str = setting(
        "",
        "VAE",
        "A VAE to train with instead of the model's own, usually empty: a .safetensors or .ckpt file or a diffusers folder.",
        kind="file",
        aside="(Optional: Path to checkpoint of vae for training)",
    )
