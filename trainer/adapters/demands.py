"""What a LoRA type asks of the settings and of the model's layers. Looks at headers only; no torch."""

from collections.abc import Iterator
from typing import Any

from trainer.adapters import ADAPTERS
from trainer.adapters import blocks as of_blocks
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
    ranks = {key: getattr(s, key) for key in ("network_dim", "conv_dim")}
    wrong = [key for key, rank in ranks.items() if rank % s.unit]
    if wrong:
        best = max(unit for unit in range(1, s.unit) if not any(rank % unit for rank in ranks.values()))
        message = f"{s.unit} does not divide {KNOWN[wrong[0]].label} {ranks[wrong[0]]}."
        yield problem("unit", message, {"unit": best}, f"Use {best}")


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


def blocks(s: Settings) -> Iterator[Problem]:
    """Values for blocks: as many as the model has, of a kind that can be meant, and something left to train."""
    layouts = _layouts(s)
    wrong = [dict(of_blocks.complaints(s, layout)) for layout in layouts]
    for key, message in wrong[0].items():
        if all(key in others for others in wrong):
            yield problem(key, message, {key: ""}, "Empty it")
    if any(wrong) or s.dim_from_weights:
        return
    found = of_blocks.blocks_of(s, layouts[0])
    for key, ranks in ((of_blocks.DIMS, found.dims), (of_blocks.CONV_DIMS, found.conv_dims)):
        if _has(s, "unit") and any(rank % s.unit for rank in ranks or ()):
            yield problem("unit", f"{s.unit} does not divide every rank in {KNOWN[key].label}.", {"unit": 1}, "Use 1")
    text = s.learning_rate if s.text_encoder_lr is None else s.text_encoder_lr
    ends, rates = found.layout.ends, found.rates or ()
    if rates and not any(rates[ends : len(rates) - ends]) and (not text or s.stop_text_encoder_training == -1):
        key = next(key for key in of_blocks.RATES.values() if of_blocks.given(s, key))
        yield problem(key, "no block learns, and the text encoder does not either.", {key: ""}, "Empty it")


def _layouts(s: Settings) -> list[of_blocks.Layout]:
    """The blocks of the model's U-Net; every possible layout while the family is not known."""
    family = identify(s.pretrained_model_name_or_path).family
    known = of_blocks.LAYOUTS.get(family or "")
    return [known] if known else list(dict.fromkeys(of_blocks.LAYOUTS.values()))


def one_rate(s: Settings) -> Iterator[Problem]:
    """An optimizer that finds the rate knows one for everything."""
    from trainer.arguments import parse_arguments
    from trainer.optimizers import knows_one_rate

    try:
        if not knows_one_rate(s.optimizer, parse_arguments(s.optimizer_args)):
            return
    except ValueError:
        return
    for key in PLUS:
        if _has(s, key) and getattr(s, key) not in (0, 1):
            message = f"{s.optimizer} finds one rate for everything and cannot keep a ratio; 0 leaves it to that."
            yield problem(key, message, {key: 0.0}, "Set to 0")
    layouts = _layouts(s)
    if len(layouts) > 1 or any(of_blocks.complaints(s, layouts[0])):
        return
    if {*(of_blocks.blocks_of(s, layouts[0]).rates or ())} - {0, 1}:
        key = next(key for key in of_blocks.RATES.values() if of_blocks.given(s, key))
        message = f"{s.optimizer} finds one rate for everything; it can leave blocks out (0), no more."
        yield problem(key, message, {key: ""}, "Empty it")


PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")

PROBLEMS = (preset, dora, unit, widths, blocks, one_rate)


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


def blocks_without_effect(s: Settings) -> Iterator[Problem]:
    """What is said of blocks for nothing."""
    weights = [key for key in of_blocks.RATES.values() if of_blocks.given(s, key)]
    if of_blocks.given(s, of_blocks.THRESHOLD) and not weights:
        labels = ", ".join(KNOWN[key].label for key in of_blocks.RATES.values())
        yield problem(of_blocks.THRESHOLD, f"has an effect only with one of {labels}.")
    if weights and not (s.learning_rate if s.unet_lr is None else s.unet_lr):
        yield problem(weights[0], f"has no effect: {KNOWN['unet_lr'].label} is 0.")
    convolutions = of_blocks.given(s, of_blocks.CONV_DIMS) or (_has(s, "conv_dim") and s.conv_dim)
    if of_blocks.given(s, of_blocks.CONV_ALPHAS) and not convolutions:
        yield problem(of_blocks.CONV_ALPHAS, f"has an effect only with {KNOWN[of_blocks.CONV_DIMS].label}.")
    for key, rate in (("loraplus_unet_lr_ratio", "unet_lr"), ("loraplus_text_encoder_lr_ratio", "text_encoder_lr")):
        own = getattr(s, rate)
        if _has(s, key) and getattr(s, key) and not (s.learning_rate if own is None else own):
            yield problem(key, f"has no effect: {KNOWN[rate].label} is 0.")


NOTES = (text_rate, without_effect, blocks_without_effect)
