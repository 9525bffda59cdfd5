"""What a model asks of the settings, and what they must not ask of it. Looks at headers and configs only; no torch."""

from collections.abc import Iterator
from typing import Any

from trainer.declare import Problem, by_name
from trainer.models.families import FAMILY_NAMES
from trainer.models.headers import Broken, read_shapes
from trainer.models.identify import Identity, find, identify
from trainer.models.vae import identify_vae
from trainer.settings import Settings

KNOWN = by_name(Settings)
XL_STEP = 32
"""Pixels: SDXL's U-Net halves latents twice, and a latent is 8 pixels."""


def problem(key: str, message: str, fix: dict[str, Any] | None = None, fix_label: str = "") -> Problem:
    """A sentence about the setting `key`, under its label."""
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def label(key: str) -> str:
    """What the page calls a setting."""
    return KNOWN[key].label


def _usable(s: Settings) -> Identity | None:
    found = identify(s.pretrained_model_name_or_path)
    return found if found.base and found.family else None


# What stops a run.


def ticks(s: Settings) -> Iterator[Problem]:
    """A tick that contradicts the model, and inpainting without its masks."""
    found = _usable(s)
    if found is None:
        return
    for key, so in found.ticks.items():
        if so is False and getattr(s, key):
            yield problem(key, f"it is ticked, but {_says(found, key)}", {key: False}, f"Untick {label(key)}")
    if found.inpainting and not s.train_inpainting:
        message = f"tick it: {_says(found)} It learns from pictures of which a part is hidden."
        yield problem("train_inpainting", message, {"train_inpainting": True}, f"Tick {label('train_inpainting')}")


def _says(found: Identity, key: str = "sdxl") -> str:
    reason = found.reasons[key]
    return reason[0].lower() + reason[1:]


def vae(s: Settings) -> Iterator[Problem]:
    """Is the VAE one, and of this family as far as that can be told?"""
    if not s.vae.strip():
        return
    model = _usable(s)
    found = identify_vae(s.vae, model.family if model else None)
    if found.problem:
        yield problem("vae", found.problem, {"vae": ""}, "Use the model's own")


def cached_text(s: Settings) -> Iterator[Problem]:
    """Text encoders that are dropped after reading the captions cannot learn."""
    key, found = "sdxl_cache_text_encoder_outputs", _usable(s)
    if not s.sdxl_cache_text_encoder_outputs or found is None or found.family != "sdxl":
        return
    text = s.learning_rate if s.text_encoder_lr is None else s.text_encoder_lr
    if text and s.stop_text_encoder_training != -1:
        yield problem(
            key,
            f"the text encoders are dropped once they have read the captions, so they cannot be trained; "
            f"set {label('text_encoder_lr')} to 0.",
            {"text_encoder_lr": 0.0},
            f"Set {label('text_encoder_lr')} to 0",
        )
    if s.network_weights and _holds_text(s.network_weights):
        yield problem(
            "network_weights",
            f"it holds layers of the text encoders, which {label(key)} drops.",
            {key: False},
            f"Untick {label(key)}",
        )


def cached_captions(s: Settings) -> Iterator[Problem]:
    """Captions that are read once are the same each time."""
    key, found = "sdxl_cache_text_encoder_outputs", _usable(s)
    if not s.sdxl_cache_text_encoder_outputs or found is None or found.family != "sdxl":
        return
    for other, off in (
        ("shuffle_caption", False),
        ("caption_dropout_rate", 0.0),
        ("caption_dropout_every_n_epochs", 0),
        ("caption_tag_dropout_rate", 0.0),
        ("token_warmup_step", 0.0),
        ("enable_wildcard", False),
    ):
        if getattr(s, other):
            yield problem(
                key,
                f"captions are read once, so {label(other)} cannot change them each time.",
                {other: off},
                f"Switch {label(other)} off",
            )


def _holds_text(name: str) -> bool:
    path = find(name.strip().strip('"'))
    try:
        shapes = read_shapes(path)[1] if path is not None and path.is_file() else {}
    except (Broken, OSError):  # said where the file is looked at for itself
        return False
    return any(key.startswith("lora_te") for key in shapes)


def bucket_steps(s: Settings) -> Iterator[Problem]:
    """SDXL's pictures have sides in multiples of 32."""
    found = _usable(s)
    if found is None or found.family != "sdxl":
        return
    if s.enable_bucket and s.bucket_reso_steps % XL_STEP:
        step = max(XL_STEP, s.bucket_reso_steps // XL_STEP * XL_STEP)
        yield problem(
            "bucket_reso_steps",
            f"must be a multiple of {XL_STEP} for {FAMILY_NAMES['sdxl']}; {s.bucket_reso_steps} is not.",
            {"bucket_reso_steps": step},
            f"Use {step}",
        )
    width, height = s.resolution
    if not s.enable_bucket and (width % XL_STEP or height % XL_STEP):
        size = ",".join(str(max(64, side // XL_STEP * XL_STEP)) for side in (width, height))
        yield problem(
            "max_resolution",
            f"width and height must be multiples of {XL_STEP} for {FAMILY_NAMES['sdxl']}; {width},{height} are not.",
            {"max_resolution": size},
            f"Use {size}",
        )


def weights(s: Settings) -> Iterator[Problem]:
    """Does the way mistakes are weighed go with what the model predicts?"""
    found = _usable(s)
    if found is not None:
        yield from unfit_weights(s, _predicts_velocity(s, found))


def unfit_weights(s: Settings, velocity: bool) -> Iterator[Problem]:
    """The settings of the loss that are not for a model that predicts velocity, or for one that does not."""
    if s.scale_v_pred_loss_like_noise_pred and not velocity:
        message = "it is for models that predict velocity; this one predicts noise."
        fix = {"scale_v_pred_loss_like_noise_pred": False}
        yield problem("scale_v_pred_loss_like_noise_pred", message, fix, "Untick it")
    if s.v_pred_like_loss and velocity:
        message = "it is for models that predict noise; this one predicts velocity already."
        yield problem("v_pred_like_loss", message, {"v_pred_like_loss": 0.0}, "Set to 0")


def _predicts_velocity(s: Settings, found: Identity) -> bool:
    return found.prediction == "v_prediction" or (found.prediction is None and s.v_parameterization)


PROBLEMS = (ticks, vae, cached_text, weights)
OF_PICTURES = (cached_captions, bucket_steps)
"""Those about pictures and captions; each part of a dataset config has its own."""


# What may surprise.


def unticked(s: Settings) -> Iterator[Problem]:
    """The model says what it is; a tick that is missing changes nothing but what the page shows."""
    found = _usable(s)
    if found is None:
        return
    for key in ("v2", "v_parameterization", "sdxl"):
        if found.ticks[key] and not getattr(s, key):
            yield problem(key, f"{_says(found, key)} It is trained so, ticked or not.", {key: True}, "Tick it")


def pure_noise(s: Settings) -> Iterator[Problem]:
    """From pure noise nothing can be learnt by telling the noise (Lin et al. 2024, section 3.2)."""
    found = _usable(s)
    if found is not None and s.zero_terminal_snr and not _predicts_velocity(s, found):
        message = (
            "is for models that predict velocity (v_param); this one predicts noise and learns nothing from pure noise."
        )
        yield problem("zero_terminal_snr", message, {"zero_terminal_snr": False}, "Untick it")


HINTS = ("768", "vpred", "v-pred", "v_pred")


def velocity(s: Settings) -> Iterator[Problem]:
    """No single file of Stable Diffusion 1.5 or 2 says what it predicts, and few of XL: ask where it is likely."""
    found = _usable(s)
    if found is None or found.prediction is not None or s.v_parameterization:
        return
    name = found.path.name if found.path is not None else found.name
    hinted = any(word in name.lower() for word in HINTS)
    if found.family == "sd2" or hinted:
        why = f"{name} sounds as if it does" if hinted else "models for 768 pixels do, those for 512 (base) do not"
        yield problem(
            "v_parameterization",
            f"does this model predict velocity? Its file does not say; {why}. Tick it if so.",
            {"v_parameterization": True},
            "Tick it",
        )


def resolution(s: Settings) -> Iterator[Problem]:
    """Models for large pictures learn little from small ones."""
    found = _usable(s)
    if found is None:
        return
    is_768 = found.family == "sd2" and _predicts_velocity(s, found)
    side = 1024 if found.family == "sdxl" else 768 if is_768 else 512
    width, height = s.resolution
    if side > 512 and width * height <= 512 * 512:
        what = FAMILY_NAMES[found.family or ""]
        size = f"{side},{side}"
        message = f"{what} was made for pictures of {side} × {side}; at {width} × {height} it gives poor results."
        yield problem("max_resolution", message, {"max_resolution": size}, f"Use {size}")


def no_clip_skip(s: Settings) -> Iterator[Problem]:
    """SDXL always takes the last layer but one."""
    found = _usable(s)
    if found is not None and found.family == "sdxl" and s.clip_skip > 1:
        message = f"has no effect: {FAMILY_NAMES['sdxl']} always takes the last layer but one."
        yield problem("clip_skip", message, {"clip_skip": 1}, "Set to 1")


def half_vae(s: Settings) -> Iterator[Problem]:
    """The VAE that came with SDXL overflows in fp16."""
    from trainer.hardware import hardware

    found = _usable(s)
    half = s.mixed_precision == "fp16" and hardware().device != "cpu"
    if half and found is not None and found.family == "sdxl" and not s.sdxl_no_half_vae and not s.vae.strip():
        message = "SDXL's own VAE overflows in fp16. Where it does, it goes on in full precision; ticked, it starts so."
        yield problem("sdxl_no_half_vae", message, {"sdxl_no_half_vae": True}, "Tick it")


def masks(s: Settings) -> Iterator[Problem]:
    """Pictures with new masks each time cannot be cached."""
    if s.train_inpainting and (s.cache_latents or s.cache_latents_to_disk):
        key = "cache_latents" if s.cache_latents else "cache_latents_to_disk"
        message = f"is off in this run: with {label('train_inpainting')} other parts are hidden each time."
        yield problem(key, message, {"cache_latents": False, "cache_latents_to_disk": False}, "Untick it")


def only_xl(s: Settings) -> Iterator[Problem]:
    """Settings of SDXL beside another model."""
    found = _usable(s)
    if found is None or found.family == "sdxl":
        return
    for key in ("sdxl_cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "sdxl_no_half_vae"):
        if getattr(s, key):
            yield problem(key, f"has no effect: {_says(found)}", {key: False}, "Untick it")


def named_otherwise(s: Settings) -> Iterator[Problem]:
    """Nothing in a VAE's file says which family it is of; its name may."""
    found = _usable(s)
    name = s.vae.replace("\\", "/").rstrip("/").split("/")[-1].lower()
    if found is None or not name or identify_vae(s.vae).scale is not None:
        return
    is_xl = "sdxl" in name or "xl_vae" in name
    if is_xl != (found.family == "sdxl") and (is_xl or "ft-mse" in name or "ft-ema" in name or "840000" in name):
        other = "sd15" if found.family == "sdxl" else "sdxl"
        yield problem(
            "vae",
            f"by its name it is for {FAMILY_NAMES[other]}, and the model is {FAMILY_NAMES[found.family or '']}: "
            "pictures would come out wrong. The file itself does not say.",
            {"vae": ""},
            "Use the model's own",
        )


NOTES_OF_PICTURES = (resolution,)
NOTES = (unticked, velocity, pure_noise, no_clip_skip, half_vae, masks, only_xl, named_otherwise)
