"""What a preset holds, so that the Kohya GUI reads it as it is meant here, and what that GUI could not show."""

from collections.abc import Mapping
from typing import Any

from trainer.settings import Settings
from trainer.settings.loaded import KNOWN

UNSET = "not_set"
"""The key of a preset that lists settings which are not set; the Kohya GUI does not know it and leaves it out."""


def _as_rate(values: Mapping[str, Any]) -> Any:
    return values["learning_rate"]


STANDS_FOR_NONE: Mapping[str, Any] = {"seed": 0, "text_encoder_lr": _as_rate, "unet_lr": _as_rate}
"""What the Kohya GUI reads as "not set": seed 0 is a new one each time; a rate of a part has no such word there, so it is
the rate it stands for. (A null would leave what stood on its page before.)"""


def to_kohya(s: Settings) -> dict[str, Any]:
    """The settings as a preset: names and types of values are the Kohya GUI's; no secrets."""
    values = s.public()
    unset = [key for key, value in values.items() if value is None]
    for key in unset:
        stand_in = STANDS_FOR_NONE[key]
        values[key] = stand_in(values) if callable(stand_in) else stand_in
    return {**values, UNSET: unset} if unset else values


def take_back(raw: dict[str, Any]) -> None:
    """Undo `to_kohya` in the raw values of a file: what stands for "not set" and was not changed since is not set."""
    unset = raw.pop(UNSET, None)
    for key in unset if isinstance(unset, list) else ():
        if isinstance(key, str) and key in STANDS_FOR_NONE and key in raw:
            stand_in = STANDS_FOR_NONE[key]
            if raw[key] == (raw.get("learning_rate") if callable(stand_in) else stand_in):
                raw[key] = None


LIMITS: Mapping[str, tuple[float, float]] = {
    "train_batch_size": (1, 64), "learning_rate": (-1, 1), "text_encoder_lr": (0, 1), "unet_lr": (0, 1),
    "loraplus_lr_ratio": (0, 128), "loraplus_unet_lr_ratio": (0, 128), "loraplus_text_encoder_lr_ratio": (0, 128),
    "factor": (-1, 64), "network_dim": (1, 512), "network_alpha": (1e-5, 1024), "conv_dim": (0, 512), "conv_alpha": (0, 512),
    "scale_weight_norms": (0, 10), "unit": (1, 64), "gradient_accumulation_steps": (1, 120), "huber_scale": (0, 10),
    "keep_tokens": (0, 32), "min_snr_gamma": (0, 20), "min_bucket_reso": (64, 4096), "max_bucket_reso": (64, 4096),
    "bucket_reso_steps": (1, 128), "multires_noise_iterations": (0, 64), "lr_scheduler_num_cycles": (1, 1e9),
}  # fmt: skip
"""Ranges of the Kohya GUI's fields where they are narrower than here."""

LARGE = ("LyCORIS/BOFT", "LyCORIS/Diag-OFT", "LyCORIS/LoHa", "LyCORIS/LoKr")
"""LoRA types with which its rank fields go up to 100000."""

LISTS: Mapping[str, tuple[str, ...]] = {
    "caption_extension": ("", ".cap", ".caption", ".txt"),
}
"""Lists of the Kohya GUI that take no value of one's own, where ours do."""


WHOLE = ("lr_warmup", "lr_scheduler_num_cycles")
"""Numbers of which the Kohya GUI drops what stands behind the point when it loads them."""


def not_shown(s: Settings) -> list[str]:
    """A sentence for each value that the fields of the Kohya GUI cannot show; it refuses to go on with such a preset."""
    found = []
    for key, (low, high) in LIMITS.items():
        value = getattr(s, key)
        high = 100000 if key in ("network_dim", "conv_dim") and s.LoRA_type in LARGE else high
        if value is not None and not low <= value <= high:
            found.append(f"{KNOWN[key].label} {value:g} is outside of its field there, {low:g} to {high:g}.")
    for key in WHOLE:
        if getattr(s, key) != int(getattr(s, key)):
            found.append(f"{KNOWN[key].label} {getattr(s, key):g} becomes {int(getattr(s, key))} there.")
    for key, choices in LISTS.items():
        if getattr(s, key) not in choices:
            found.append(f"{KNOWN[key].label} {getattr(s, key)} is not in its list there.")
    return found
