"""Reads settings files of the Kohya GUI and of sd-scripts, and our own, and reports what it did with every key.

Loading starts from the defaults, never from what was there before. Three things can happen to a key: it is *loaded*, it
is *changed* (its meaning is kept under another name or value, with the reason), or it is *ignored* (with the reason). A
value that cannot be used is a *problem* under the setting's label, and the default stands in its place.
"""

import json
import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.adapters.arguments import meant
from trainer.declare import Problem, Setting, by_name, nearest, parse, validate
from trainer.settings import Settings

KNOWN = by_name(Settings)


class Unreadable(Exception):
    """The file as a whole cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class Changed:
    """A key whose value stands under another name or in another form; `why` is a sentence."""

    key: str
    before: Any
    after: Any
    why: str


@dataclass(frozen=True)
class Ignored:
    """A key that has no effect here; `why` is a sentence."""

    key: str
    why: str


@dataclass
class Loaded:
    """What became of a file: `values` are valid settings by key, only those that the file names."""

    values: dict[str, Any] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    description: str = ""

    @property
    def settings(self) -> Settings:
        """The defaults with the file's values in their place."""
        return Settings(**self.values)


def load(path: str | Path) -> Loaded:
    """Settings from a .json or .toml file; raises `Unreadable` with a sentence when it is not a settings file at all."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Unreadable(f"There is no file {path}.") from None
    except IsADirectoryError:
        raise Unreadable(f"{path} is a folder; choose a .json file in it.") from None
    except UnicodeDecodeError:
        raise Unreadable(f"{path.name} is not a text file; settings are .json or .toml files.") from None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}.") from None
    return read(decode(text, path.name))


def decode(text: str, name: str) -> dict[str, Any]:
    """The object that a JSON or TOML text holds; raises `Unreadable` naming the place of the mistake."""
    if name.lower().endswith(".toml"):
        try:
            return _flat(tomllib.loads(text))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise Unreadable(f"{name} is not valid TOML: {error}.") from None
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(
            f"{name} is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}. Nothing was loaded."
        ) from None
    except (RecursionError, ValueError) as error:
        raise Unreadable(f"{name} is not a settings file: {error}.") from None
    if not isinstance(data, dict):
        raise Unreadable(f"{name} holds a {_kind(data)}, not a list of settings (a JSON object in braces).")
    return data


def _kind(data: Any) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "true/false"}.get(type(data), "null")


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat.update(_flat(value)) if isinstance(value, dict) else flat.__setitem__(key, value)
    return flat


def read(raw: Mapping[str, Any]) -> Loaded:
    """Settings from the keys and values of a file, whatever they are; never raises."""
    report = Loaded()
    raw = dict(raw)
    report.description = str(raw.pop("description", "") or "")
    for recognise in RECOGNISERS:
        report.problems += recognise(raw)
    for rewrite in REWRITES:
        rewrite(raw, report)
    for key in sorted(raw, key=str):
        _take(str(key), raw[key], report)
    _settle(report)
    return report


def _take(key: str, value: Any, report: Loaded) -> None:
    if key not in KNOWN or KNOWN[key].about.secret:
        report.ignored.append(Ignored(key, _why_ignored(key, value)))
        return
    item = KNOWN[key]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        report.values[key] = parse(item, value)
        report.loaded.append(key)
    except ValueError as error:
        report.problems.append(Problem(key, item.label, _sentence(str(error))))


def _settle(report: Loaded) -> None:
    """Move values that are of the right type but out of range to the problems."""
    settings, problems = validate(Settings, report.values)
    for problem in problems:
        report.values.pop(problem.key, None)
        report.loaded.remove(problem.key)
    report.problems += problems
    report.values = {key: getattr(settings, key) for key in report.values}
    moved = {change.key for change in report.changed}
    report.loaded = [key for key in report.loaded if key not in moved]


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".")) else text + "."


def change(raw: dict[str, Any], report: Loaded, key: str, after: Any, why: str, name: str | None = None) -> None:
    """Put `after` in place of `raw[key]` (under `name` when the key was renamed) and say so."""
    before = raw.pop(key, None)
    raw[name or key] = after
    report.changed.append(Changed(name or key, before, after, why))


# Files of other tabs and other model families.


def _other_tab(raw: dict[str, Any]) -> list[Problem]:
    if "LoRA_type" in raw or "network_module" in raw:
        return []
    tabs = {"token_string": "Textual Inversion", "image_folder": "Finetuning", "train_dir": "Finetuning", "learning_rate_te": "Dreambooth"}
    for key, tab in tabs.items():
        if key in raw:
            return [Problem("", "", f"This is a file of the {tab} tab; LoRA settings are needed. What both have in common was read.")]
    return []


FAMILIES = {
    "flux1_checkbox": "Flux.1", "sd3_checkbox": "Stable Diffusion 3", "hunyuan_image_checkbox": "HunyuanImage",
    "anima_checkbox": "Anima", "lumina_checkbox": "Lumina",
}  # fmt: skip


def _other_family(raw: dict[str, Any]) -> list[Problem]:
    ticked = [family for key, family in FAMILIES.items() if str(raw.get(key, "")).lower() in {"true", "1"}]
    label = KNOWN["pretrained_model_name_or_path"].label
    message = "this file is for {}; only Stable Diffusion 1.5, 2 and XL can be trained. Choose a model and a preset of one of these."
    return [Problem("pretrained_model_name_or_path", label, message.format(" and ".join(ticked)))] if ticked else []


RECOGNISERS: tuple[Callable[[dict[str, Any]], list[Problem]], ...] = (_other_tab, _other_family)


# Old and foreign names and values.

SD_SCRIPTS = {
    "resolution": "max_resolution", "optimizer_type": "optimizer", "reso_steps": "bucket_reso_steps",
    "network_train_unet_only": "", "network_train_text_encoder_only": "",
}  # fmt: skip
RENAMED = {old: item.name for item in KNOWN.values() for old in item.about.kohya} | {k: v for k, v in SD_SCRIPTS.items() if v}


def _renamed(raw: dict[str, Any], report: Loaded) -> None:
    for old, new in RENAMED.items():
        if old not in raw:
            continue
        if new in raw:
            raw.pop(old)
            report.ignored.append(Ignored(old, f"an older name of {new}, which the file also holds"))
        elif raw[old] in ("", None):
            raw.pop(old)
        else:
            change(raw, report, old, _joined(raw[old]), f"{old} is called {new} now", new)


def _joined(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) and value and isinstance(value[0], str) else (
        ",".join(map(str, value)) if isinstance(value, list) else value
    )  # fmt: skip


def _argument_lists(raw: dict[str, Any], report: Loaded) -> None:
    if isinstance(raw.get("optimizer_args"), list):
        raw["optimizer_args"] = " ".join(map(str, raw["optimizer_args"]))
    if isinstance(raw.get("max_resolution"), list):
        raw["max_resolution"] = ",".join(map(str, raw["max_resolution"]))


def _additional_parameters(raw: dict[str, Any], report: Loaded) -> None:
    """Flags that have a field of their own move there."""
    text = raw.get("additional_parameters")
    if not isinstance(text, str) or not text.strip():
        if text is not None:
            raw.pop("additional_parameters", None)
        return
    raw.pop("additional_parameters")
    try:
        words = shlex.split(text)
    except ValueError as error:
        report.ignored.append(Ignored("additional_parameters", f"cannot be read: {error}"))
        return
    flags: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name] = [value] if value else []
        elif name:
            flags[name].append(word)
    for name, values in flags.items():
        target = RENAMED.get(name, name)
        if target in KNOWN and not KNOWN[target].about.secret:
            after: Any = " ".join(values) if values else True
            raw[target] = after
            report.changed.append(Changed(target, f"--{name}", after, "moved here from additional_parameters"))
        elif name in SD_SCRIPTS:
            raw[name] = True
        else:
            report.ignored.append(Ignored(f"additional_parameters --{name}", _why_ignored(name, values or True)))


def _one_part_only(raw: dict[str, Any], report: Loaded) -> None:
    for flag, rate in (("network_train_unet_only", "text_encoder_lr"), ("network_train_text_encoder_only", "unet_lr")):
        if flag in raw and str(raw[flag]).lower() in {"true", "1"}:
            change(raw, report, flag, 0.0, f"{flag} is {KNOWN[rate].label} 0 here", rate)
        else:
            raw.pop(flag, None)


def _rates(raw: dict[str, Any], report: Loaded) -> None:
    text = raw.get("text_encoder_lr")
    if isinstance(text, str) and "," in text:
        raw["text_encoder_lr"] = [word.strip() for word in text.strip("[]() ").split(",")]
    for key in ("text_encoder_lr", "learning_rate", "unet_lr"):
        if isinstance(raw.get(key), list) and raw[key]:
            if all(rate == raw[key][0] for rate in raw[key]):
                raw[key] = raw[key][0]
            else:
                change(raw, report, key, raw[key][0], "the first of several rates; all text encoders learn at one")
    if _number(raw.get("text_encoder_lr")) == 0 == _number(raw.get("unet_lr")):
        for key in ("text_encoder_lr", "unet_lr"):
            change(raw, report, key, None, "both rates 0 meant: train both with Learning rate")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _seed(raw: dict[str, Any], report: Loaded) -> None:
    if "seed" in raw and (raw["seed"] in ("", None) or _number(raw["seed"]) == 0):
        change(raw, report, "seed", None, "0 or empty meant a new seed each time, which is an empty field here")


def _optimizer(raw: dict[str, Any], report: Loaded) -> None:
    old = raw.pop("use_8bit_adam", None)
    if "optimizer" not in raw and old is not None:
        raw["optimizer"] = "AdamW8bit" if str(old).lower() in {"true", "1"} else "AdamW"
        report.changed.append(Changed("optimizer", f"use_8bit_adam={old}", raw["optimizer"], "use_8bit_adam became a choice of Optimizer"))


def _lora_type(raw: dict[str, Any], report: Loaded) -> None:
    if raw.get("LoRA_type") == "LoCon":
        change(raw, report, "LoRA_type", "LyCORIS/LoCon", "it is called LyCORIS/LoCon now")
    if "network_module" not in raw:
        return
    module = str(raw.pop("network_module"))
    arguments = _pairs(raw.pop("network_args", None))
    if "LoRA_type" in raw:
        report.ignored.append(Ignored("network_module", "LoRA type, which the file also holds, says it all"))
        return
    kind, named = meant(module, arguments, raw.get("network_dim"), raw.get("network_alpha"))
    raw["LoRA_type"] = kind or module
    if kind:
        report.changed.append(Changed("LoRA_type", module, kind, "the type that this network module is"))
    for key, value in named.items():
        if key in KNOWN:
            raw.setdefault(key, value)
        else:
            report.ignored.append(Ignored(f"network_args {key}", _why_ignored(key, value)))


def _pairs(arguments: Any) -> dict[str, str]:
    """Network arguments by name, from a list of name=value or one line of them."""
    words = arguments.split() if isinstance(arguments, str) else arguments if isinstance(arguments, list) else ()
    return dict(str(word).strip("\"' ").partition("=")[::2] for word in words)


OURS = "overwrite_output"
"""A setting that only files of this program hold: what they say of convolutions is meant."""


def _unused_rank(raw: dict[str, Any], report: Loaded) -> None:
    if raw.get("LoRA_type") == "LoRA-FA" and _number(raw.get("conv_dim")) and OURS not in raw:
        why = "the Kohya GUI shows it for LoRA-FA and trains no convolutions; here it would"
        change(raw, report, "conv_dim", 0, why)


def _unused_alpha(raw: dict[str, Any], report: Loaded) -> None:
    rank, alpha = _number(raw.get("conv_dim")), raw.get("network_alpha", KNOWN["network_alpha"].default)
    if raw.get("LoRA_type") != "Kohya DyLoRA" or OURS in raw or not rank or rank != _number(raw.get("network_dim")):
        return
    if _number(raw.get("conv_alpha", KNOWN["conv_alpha"].default)) != _number(alpha):
        change(raw, report, "conv_alpha", alpha, "Kohya's DyLoRA has Network Alpha for convolutions too")


def _attention(raw: dict[str, Any], report: Loaded) -> None:
    word = str(raw.get("xformers", "")).lower()
    if word in ("true", "1", "false", "0"):
        after = "xformers" if word in ("true", "1") else "none"
        change(raw, report, "xformers", after, "the tick became a choice of CrossAttention")


def _noise_type(raw: dict[str, Any], report: Loaded) -> None:
    if raw.get("noise_offset_type") == "Multires" and _number(raw.get("noise_offset")):
        change(raw, report, "noise_offset", 0.0, "Noise offset type was Multires, with which it had no effect")


def _numbers_with_another_meaning(raw: dict[str, Any], report: Loaded) -> None:
    for alpha, rank in (("network_alpha", "network_dim"), ("conv_alpha", "conv_dim")):
        if _number(raw.get(alpha)) == 0:
            change(raw, report, alpha, max(_number(raw.get(rank)) or 1.0, 1.0), "0 meant: the same as the rank")
    step = _number(raw.get("bucket_reso_steps"))
    if step is not None and (step < 8 or step % 8):
        change(raw, report, "bucket_reso_steps", max(8, int(step) // 8 * 8), "pictures are encoded in blocks of 8 pixels")
    for key in ("huber_c", "huber_scale", "max_timestep"):
        if _number(raw.get(key)) == 0:
            change(raw, report, key, KNOWN[key].default, "0 meant the usual value")
    if _number(raw.get("epoch")) == 0:
        change(raw, report, "epoch", 1, "0 epochs train nothing")
    if "save_model_as" in raw and raw["save_model_as"] not in ("safetensors", "ckpt"):
        change(raw, report, "save_model_as", "safetensors", "a LoRA is saved as safetensors or ckpt")
    if raw.get("save_precision") in ("fp32", "float32"):
        change(raw, report, "save_precision", "float", "another word for the same")
    if raw.get("caption_extension") == "":
        change(raw, report, "caption_extension", ".txt", "empty meant the usual ending")
    if "lr_scheduler_num_cycles" in raw and (cycles := _number(raw["lr_scheduler_num_cycles"])) is not None and cycles <= 0:
        change(raw, report, "lr_scheduler_num_cycles", 1, "fewer than one cycle means one")


REWRITES: tuple[Callable[[dict[str, Any], Loaded], None], ...] = (
    _additional_parameters, _renamed, _argument_lists, _unused_rank, _lora_type, _unused_alpha, _one_part_only, _rates,
    _seed, _optimizer, _attention, _noise_type, _numbers_with_another_meaning,
)  # fmt: skip


# Keys that have no effect here.

WHY_IGNORED = {
    "model_list": "the model's name says it all",
    "save_as_bool": "saved there by accident",
    "persistent_data_loader_workers": "pictures are loaded by threads here",
    "max_data_loader_n_workers": "pictures are loaded by threads here",
    "lowram": "a model's file is mapped, never read into memory as a whole",
    "no_token_padding": "no longer a setting of the Kohya GUI either",
    "network_args": "every network option has a field of its own",
    "huggingface_token": "secrets are never read from a file",
    "wandb_api_key": "secrets are never read from a file",
}
WITHOUT_EFFECT: tuple[Any, ...] = ("", None, False, 0, "0", "false", "False", [], "no", "none", "default")


def _why_ignored(key: str, value: Any) -> str:
    if key in WHY_IGNORED:
        return WHY_IGNORED[key]
    if value in WITHOUT_EFFECT:
        return "not offered here; it was off in the file, so nothing is lost"
    return f"there is no such setting here{nearest(key, KNOWN)}"


def label_of(key: str) -> str:
    """The label of a setting by its key, or the key itself."""
    item: Setting | None = KNOWN.get(key)
    return item.label if item else key
