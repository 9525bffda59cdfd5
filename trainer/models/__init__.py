"""The base model: which family a file is of, its parts loaded and frozen, its text encoded. Torch-free at import."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.models.families import INPAINTING
from trainer.models.identify import KEY, Identity, identify, identify_folder
from trainer.report import Failure

if TYPE_CHECKING:
    import torch

    from trainer.models.text import Told
    from trainer.report import Reporter
    from trainer.settings import Settings


@dataclass
class Model:
    """A latent diffusion model in its parts, all frozen and in eval mode.

    `latents` are [B, 4, h/8, w/8] times `vae.config.scaling_factor`; text is read by `trainer.models.text.encode`.
    SDXL has two text encoders, which share one tokenizer. `source` is the file or folder it was loaded from, `name`
    what the user called it, `vae_source` the file or folder of a VAE of its own.
    """

    family: str
    unet: Any
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    scheduler_config: Mapping[str, Any]
    prediction_type: str
    source: Path
    name: str
    device: "torch.device"
    dtype: "torch.dtype"
    vae_source: Path | None = None

    def predict(
        self, latents: "torch.Tensor", t: "torch.Tensor", told: "Told", sizes: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """What the U-Net says of noisy latents: [B, 4, h, w]. An inpainting model's latents have 9 channels.

        `sizes` [B, 6] are SDXL's (Podell et al. 2023, section 2.2): original height and width, top and left of the
        crop, height and width of the picture.
        """
        added = None if told.pooled is None else {"text_embeds": told.pooled, "time_ids": sizes}
        answer: torch.Tensor = self.unet(latents, t, told.states, added_cond_kwargs=added, return_dict=False)[0]
        return answer

    @property
    def inpainting(self) -> bool:
        """Whether the U-Net also sees a mask and the picture without what is masked."""
        return bool(self.unet.config.in_channels == INPAINTING)

    @property
    def size(self) -> int:
        """The side in pixels of the pictures it was made for, as far as it says so: 512, 768 or 1024."""
        side = self.unet.config.sample_size
        side = 96 if self.family == "sd2" and self.prediction_type == "v_prediction" else side
        return max(512, 8 * side) if isinstance(side, int) else 512

    @property
    def scaling_factor(self) -> float:
        """What the VAE's latents are multiplied with."""
        return float(self.vae.config.scaling_factor)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """`sd_model_hash` (8 hex digits) and `new_sd_model_hash` (sha256) of the file, as metadata names them."""
        return file_hashes(self.source)

    @cached_property
    def vae_hashes(self) -> dict[str, str]:
        """As `hashes`, of the VAE of its own."""
        return file_hashes(self.vae_source or self.source)


def file_hashes(path: Path) -> dict[str, str]:
    """The two hashes by which web UIs know a checkpoint; a folder has none and says so in the reference's word."""
    if path.is_dir():
        return {"sd_model_hash": "IsADirectory", "new_sd_model_hash": "IsADirectory"}
    if not path.is_file():
        return {"sd_model_hash": "NOFILE", "new_sd_model_hash": "NOFILE"}
    with path.open("rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0x100000)
        part = hashlib.sha256(file.read(0x10000)).hexdigest()
    return {"sd_model_hash": part[:8], "new_sd_model_hash": whole}


def load_model(settings: "Settings", report: "Reporter", device: "torch.device", dtype: "torch.dtype") -> Model:
    """The model that `settings` name, its weights in `dtype` on `device` (the VAE in float32 on the processor).

    Raises `Failure` with a sentence when the file is broken, is no model, or is of a family that cannot be trained.
    """
    name = settings.pretrained_model_name_or_path
    report.phase("loading model")
    identity = identify(name)
    if identity.note:
        report.note(identity.note, key=KEY)
    if identity.kind == "hub" and identity.problem is None:
        from trainer.models.hub import download

        identity = identify_folder(identity.name, download(identity.name, report))
    if identity.problem is not None:
        raise Failure(identity.problem, identity.advice, key=KEY)
    from trainer.models import sd

    for text in overruled(identity, settings):
        report.note(text, "warning", KEY)
    model = sd.load(identity, settings, report, device, dtype)
    model.name = name
    if model.inpainting != settings.train_inpainting:
        raise Failure(*UNMASKED[model.inpainting], key="train_inpainting")
    return model


UNMASKED = {
    True: (
        "This is an inpainting model, which learns from pictures with hidden parts.",
        "Tick Train inpainting model.",
    ),
    False: (
        "This is no inpainting model: it sees no masks.",
        "Untick Train inpainting model, or choose another model.",
    ),
}


def overruled(identity: Identity, settings: "Settings") -> Iterator[str]:
    """A sentence for each tick that the model itself contradicts; the model is believed."""
    labels = {"v2": "v2", "v_parameterization": "v_param", "sdxl": "SDXL"}
    for key, label in labels.items():
        if identity.ticks.get(key) is False and getattr(settings, key):
            reason = identity.reasons[key]
            yield f"{label} is ticked, but {reason[0].lower()}{reason[1:]} The model is believed."


__all__ = ["Identity", "Model", "file_hashes", "identify", "load_model"]
