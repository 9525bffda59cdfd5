"""What only Stable Diffusion XL has."""

from typing import ClassVar

from trainer.declare import Section, setting

SDXL = {"sdxl": True}


class Sdxl(Section):
    """Memory for Stable Diffusion XL: its two text encoders and its VAE."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "SDXL Specific Parameters"

    sdxl_cache_text_encoder_outputs: bool = setting(
        False, "Cache text encoder outputs",
        "Read every caption once before training and then drop both text encoders, 1.6 GB. They are not trained; captions stay as they are.",
        when=SDXL,
    )  # fmt: skip
    cache_text_encoder_outputs_to_disk: bool = setting(
        False, "Cache text encoder outputs to disk",
        "Keep what the text encoders made of the captions for the next run, 0.6 MB each. Changed captions and encoders are read anew.",
        when={"sdxl": True, "sdxl_cache_text_encoder_outputs": True}, advanced=True,
    )  # fmt: skip
    sdxl_no_half_vae: bool = setting(
        False, "No half VAE", "Keep the VAE in full precision: the original one overflows in fp16. Needs 0.2 GB more.",
        when=SDXL,
    )  # fmt: skip
