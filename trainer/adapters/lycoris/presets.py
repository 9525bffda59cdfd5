"""LyCORIS presets: which layers of a model are trained. Six have a name, others are TOML files; torch is not needed.

A file has any of these keys; what it leaves out is as in "full":

    enable_conv = true                                  # convolutions larger than 1x1 too
    unet_target_module = ["Transformer2DModel"]         # blocks by their class: all layers in them
    unet_target_name = ["conv_in", "conv_out"]          # single layers by their path, as regular expressions
    text_encoder_target_module = ["CLIPAttention"]
    text_encoder_target_name = []
    use_fnmatch = false                                 # paths with * and ? instead of regular expressions
    exclude_name = ["down_blocks.0.*"]
    [module_algo_map.CLIPMLP]                           # other settings for the blocks of a class
    algo = "lokr"
    factor = 4
    [name_algo_map."conv_in"]                           # and for single layers
    dim = 4
"""

import fnmatch
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.adapters.lycoris import ALGORITHMS, ALIASES

if TYPE_CHECKING:
    from trainer.settings import Settings

TRANSFORMER = ("Transformer2DModel",)
CONVOLUTIONS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
ENDS = ("conv_in", "conv_out")
TIME = ("time_embedding.linear_1", "time_embedding.linear_2")
TEXT = ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP")


@dataclass(frozen=True)
class Preset:
    """Layers by the class of their block and by their path, and settings of their own for some of them."""

    enable_conv: bool = True
    unet_target_module: tuple[str, ...] = TRANSFORMER + CONVOLUTIONS
    unet_target_name: tuple[str, ...] = ENDS + TIME
    text_encoder_target_module: tuple[str, ...] = TEXT
    text_encoder_target_name: tuple[str, ...] = ()
    module_algo_map: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    name_algo_map: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    use_fnmatch: bool = False
    exclude_name: tuple[str, ...] = ()

    def matches(self, pattern: str, path: str) -> bool:
        """Whether a pattern means that path; a regular expression means all paths that begin so."""
        return fnmatch.fnmatchcase(path, pattern) if self.use_fnmatch else bool(re.match(pattern, path))

    def leaves_out(self, path: str) -> bool:
        """Whether `exclude_name` means that path."""
        return bool(path) and any(path == name or self.matches(name, path) for name in self.exclude_name)

    def own_settings(self, path: str) -> Mapping[str, Any] | None:
        """What `name_algo_map` says about a path."""
        if path in self.name_algo_map:
            return self.name_algo_map[path]
        return next((own for pattern, own in self.name_algo_map.items() if self.matches(pattern, path)), None)


PRESETS: dict[str, Preset] = {
    "attn-mlp": Preset(False, TRANSFORMER, ()),
    "attn-only": Preset(False, ("CrossAttention",), (), TEXT[:2]),
    "full": Preset(),
    "full-lin": Preset(False, ("Transformer2DModel", "ResnetBlock2D"), TIME),
    "unet-transformer-only": Preset(False, TRANSFORMER, (), ()),
    "unet-convblock-only": Preset(True, CONVOLUTIONS, ENDS, ()),
}

CLASSES = {"CrossAttention": "Attention"}
"""Classes that are called differently in diffusers."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "dim": ("network_dim", "conv_dim"), "alpha": ("network_alpha", "conv_alpha"), "factor": ("factor",),
    "use_tucker": ("use_tucker",), "use_cp": ("use_tucker",), "use_scalar": ("use_scalar",),
    "decompose_both": ("decompose_both",), "dora_wd": ("dora_wd",), "weight_decompose": ("dora_wd",),
    "bypass_mode": ("bypass_mode",), "constraint": ("constrain",), "rescaled": ("rescaled",),
    "train_on_input": ("train_on_input",), "block_size": ("unit",), "dropout": ("network_dropout",),
    "rank_dropout": ("rank_dropout",), "module_dropout": ("module_dropout",),
    "rank_dropout_scale": ("rank_dropout_scale",),
}  # fmt: skip
"""What a file calls the settings that layers may have of their own, and what they are called here."""


def find_preset(name: str) -> Preset:
    """The preset of that name, or of that file; raises `ValueError` with a sentence when there is none."""
    word = name.strip().strip('"')
    if word in PRESETS:
        return PRESETS[word]
    path = Path(word).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no preset and no file {word}; the presets are {', '.join(PRESETS)}.")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not a text file; a preset is a .toml file.") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name} is not valid TOML: {error}.") from None
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror or error}.") from None
    return parse_preset(raw, path.name)


def parse_preset(raw: Mapping[str, Any], name: str) -> Preset:
    """A preset from what a file holds; raises `ValueError` with a sentence that names the file and the key."""
    known = {item.name: item for item in fields(Preset)}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise ValueError(f"{name} holds {key}, which is no key of a preset; it may have {', '.join(known)}.")
        default = getattr(FULL, key)
        if isinstance(default, bool):
            values[key] = _checked(value, bool, f"{name}: {key} must be true or false.")
        elif isinstance(default, tuple):
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"{name}: {key} must be a list of texts.")
            values[key] = tuple(value)
        else:
            values[key] = _overrides(value, f"{name}: {key}")
    preset = Preset(**values)
    if not preset.use_fnmatch:
        for pattern in _patterns(preset):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name}: {pattern!r} is not a regular expression ({error}).") from None
    return preset


FULL = PRESETS["full"]


def _patterns(preset: Preset) -> tuple[str, ...]:
    names = preset.unet_target_name + preset.text_encoder_target_name + preset.exclude_name
    return (*names, *preset.name_algo_map)


def _checked(value: Any, kind: type, message: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(message)
    return value


def _overrides(value: Any, where: str) -> dict[str, dict[str, Any]]:
    _checked(value, dict, f"{where} must be a table.")
    for name, own in value.items():
        _checked(own, dict, f"{where}.{name} must be a table.")
        for key, word in own.items():
            if key == "algo":
                if not isinstance(word, str) or algorithm(word) is None:
                    raise ValueError(f"{where}.{name}: there is no algo {word!r}; there are {', '.join(ALGORITHMS)}.")
            elif key not in OPTIONS:
                raise ValueError(
                    f"{where}.{name}: {key} is no option of a layer; options are algo, {', '.join(OPTIONS)}."
                )
    return dict(value)


def algorithm(word: str) -> str | None:
    """The algorithm that a word means, None when there is none of that name."""
    word = ALIASES.get(word.lower(), word.lower())
    return word if word in ALGORITHMS else None


def settings_for(own: Mapping[str, Any], s: "Settings", where: str) -> "Settings":
    """The settings with a layer's own in their place; raises `ValueError` with a sentence when one is impossible."""
    from trainer.declare import validate

    values = {name: value for key, value in own.items() if key != "algo" for name in OPTIONS[key]}
    if not values:
        return s
    _, problems = validate(type(s), values)
    if problems:
        raise ValueError(f"{where}: {problems[0]}")
    return s.changed(**values)
