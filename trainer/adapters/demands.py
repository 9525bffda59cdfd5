"""What a LoRA type asks of the settings and of the model's layers. Looks at headers only; no torch."""

from collections.abc import Iterator
from typing import Any

from trainer.adapters import ADAPTERS
from trainer.adapters.lycoris.limits import complaints
from trainer.adapters.lycoris.presets import Preset, find_preset
from trainer.declare import Problem, by_name
from trainer.models.headers import Broken, read_shapes
from trainer.models.identify import identify
from trainer.settings import Settings

KNOWN = by_name(Settings)
PRESET = "LyCORIS_preset"


def problem(key: str, message: str, fix: dict[str, Any] | None = None, fix_label: str = "") -> Problem:
    """A sentence about the setting `key`, under its label."""
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def _has(s: Settings, *options: str) -> bool:
    """Whether all of these mean something to the LoRA type."""
    return set(options) <= ADAPTERS[s.LoRA_type].options


def _preset(s: Settings) -> Preset | None:
    """The preset, if the type has one and it can be read."""
    if not _has(s, PRESET):
        return None
    try:
        return find_preset(s.LyCORIS_preset)
    except ValueError:
        return None


# What stops a run.


def preset(s: Settings) -> Iterator[Problem]:
    """Can the preset be read, and is there something in it to train?"""
    if not _has(s, PRESET):
        return
    try:
        found = find_preset(s.LyCORIS_preset)
    except ValueError as error:
        yield problem(PRESET, str(error), {PRESET: "full"}, "Use full")
        return
    unet = s.learning_rate if s.unet_lr is None else s.unet_lr
    if not _trains_text(found) and not unet:
        yield problem(
            PRESET, f"{s.LyCORIS_preset} trains the U-Net alone, whose rate is 0.", {"unet_lr": None}, "Train the U-Net"
        )


def _trains_text(found: Preset) -> bool:
    return bool(found.text_encoder_target_module or found.text_encoder_target_name)


def dora(s: Settings) -> Iterator[Problem]:
    """DoRA needs the whole weight, which bypass mode never forms."""
    if _has(s, "dora_wd", "bypass_mode") and s.dora_wd and s.bypass_mode:
        message = f"does not go together with {KNOWN['dora_wd'].label}, which needs the layer's whole weight."
        yield problem("bypass_mode", message, {"bypass_mode": False}, "Untick it")


def unit(s: Settings) -> Iterator[Problem]:
    """DyLoRA's blocks fill the rank."""
    if not _has(s, "unit") or s.dim_from_weights:
        return
    for key in ("network_dim", "conv_dim"):
        rank = getattr(s, key)
        if rank % s.unit:
            divisors = [number for number in range(1, s.unit) if rank % number == 0]
            yield problem(
                "unit",
                f"{s.unit} does not divide {KNOWN[key].label} {rank}.",
                {"unit": divisors[-1]},
                f"Use {divisors[-1]}",
            )
            return


def widths(s: Settings) -> Iterator[Problem]:
    """Factors and block sizes that do not fit the model's layers."""
    row = ADAPTERS[s.LoRA_type]
    if s.dim_from_weights or not (row.algo in ("boft", "diag-oft") or (row.algo == "lokr" and s.factor > 0)):
        return
    for found in complaints(row.algo, s, _layers(s)):
        yield problem(found.key, found.message, {found.key: found.possible}, f"Use {found.possible}")


def _layers(s: Settings) -> list[tuple[int, int, bool]]:
    """Outputs and inputs of the U-Net's layers, and whether they are large convolutions; none where that is unknown."""
    chosen, found = _preset(s), identify(s.pretrained_model_name_or_path)
    spatial = chosen is None or chosen.enable_conv
    if not found.base or found.path is None:
        return []
    start = "model.diffusion_model." if found.kind == "single" else ""
    files = [found.path] if found.kind == "single" else sorted((found.path / "unet").glob("*.safetensors"))[:1]
    try:
        shapes = [
            shape
            for file in files
            for key, shape in read_shapes(file)[1].items()
            if key.startswith(start) and key.endswith(".weight") and len(shape) in (2, 4)
        ]
    except (Broken, OSError, ValueError):
        return []
    layers = [(shape[0], shape[1], any(side != 1 for side in shape[2:])) for shape in shapes]
    return [layer for layer in layers if spatial or not layer[2]]


PROBLEMS = (preset, dora, unit, widths)


# Notes.


def text_rate(s: Settings) -> Iterator[Problem]:
    """A rate for text encoders that the preset leaves alone."""
    found = _preset(s)
    if found is not None and not _trains_text(found) and s.text_encoder_lr:
        message = f"has no effect: {KNOWN[PRESET].label} {s.LyCORIS_preset} trains the U-Net alone."
        yield problem("text_encoder_lr", message, {"text_encoder_lr": 0.0}, "Set to 0")


def without_effect(s: Settings) -> Iterator[Problem]:
    """Ticks that do nothing together with others."""
    if _has(s, "rank_dropout_scale") and s.rank_dropout_scale and not s.rank_dropout:
        yield problem("rank_dropout_scale", f"has an effect only with {KNOWN['rank_dropout'].label}.")
    found = _preset(s)
    convolutions = (found is None or found.enable_conv) and s.conv_dim > 0
    for key in ("use_tucker", "use_cp"):
        if _has(s, key) and getattr(s, key) and not convolutions:
            yield problem(key, "has no effect: no 3x3 convolution is trained.")


NOTES = (text_rate, without_effect)
