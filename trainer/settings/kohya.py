"""Reads settings files of the Kohya GUI and of sd-scripts, and our own, and reports what it did with every key.

Loading starts from the defaults, never from what was there before. Three things can happen to a key: it is *loaded*, it
is *changed* (its meaning is kept under another name or value, with the reason), or it is *ignored* (with the reason). A
value that cannot be used is a *problem* under the setting's label, and the default stands in its place.
"""

import json
import tomllib
from collections.abc import Callable, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

from trainer.declare import Problem, parse, validate, visible
from trainer.settings import Settings, sd_scripts
from trainer.settings.loaded import KNOWN, Changed, Ignored, Loaded, Unreadable, label_of
from trainer.settings.meanings import OLD_VALUES, RENAMED, REWRITES, is_ours
from trainer.settings.saved import take_back
from trainer.settings.unread import WHY_IGNORED, is_secret, why_ignored

__all__ = ["KNOWN", "Changed", "Ignored", "Loaded", "Unreadable", "decode", "label_of", "load", "read"]


def load(path: str | Path, may_read: Callable[[Path], bool] = lambda path: True) -> Loaded:
    """Settings from a .json or .toml file; raises `Unreadable` with a sentence when it is not a settings file at all.

    `may_read` says whether a file that this one names (of sample prompts) may be looked into.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Unreadable(f"There is no file {path}.") from None
    except IsADirectoryError:
        raise Unreadable(f"{path} is a folder; choose a .json file in it.") from None
    except UnicodeDecodeError:
        raise Unreadable(f"{path.name} is not a text file; settings are .json or .toml files.") from None
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    raw = decode(text, path.name)
    if isinstance(raw.get("datasets"), list):
        return _data_set(path)
    _of_another_program(raw, path.name)
    return read(raw, may_read, sd_scripts_file=path.suffix.lower() == ".toml" and not GUI_WORDS & raw.keys())


GUI_WORDS = {"LoRA_type", "optimizer", "max_resolution"}
"""Keys that sd-scripts calls otherwise: a TOML with one of them is not for it."""


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
    """The keys of all sections of a TOML, whose names mean nothing; days and times become text."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, dict):
            flat.update(_flat(value))
        else:
            flat[key] = str(value) if isinstance(value, date | time) else value
    return flat


def _data_set(path: Path) -> Loaded:
    """A file that describes a data set is the value of one setting."""
    key, value = "dataset_config", str(path.expanduser().absolute())
    if key not in KNOWN:
        raise Unreadable(f"{path.name} describes a data set, not settings; data sets are folders here.")
    why = f"the file describes a data set, which is what {label_of(key)} takes; the other settings stay as they are"
    return Loaded(values={key: value}, changed=[Changed(key, None, value, why)], keeps_the_rest=True)


OTHER_PROGRAMS: Mapping[str, frozenset[str]] = {
    "OneTrainer": frozenset({"training_method", "base_model_name"}),
    "ai-toolkit": frozenset({"job", "config"}),
    "ComfyUI (a workflow)": frozenset({"nodes", "links"}),
    "PEFT": frozenset({"peft_type"}),
    "diffusers (a model's parts)": frozenset({"_class_name"}),
}
"""Programs whose files people confuse with settings, and the keys that give them away."""


def _of_another_program(raw: Mapping[str, Any], name: str) -> None:
    """Raises `Unreadable` for a file in which nothing is a setting of a LoRA training."""
    for program, keys in OTHER_PROGRAMS.items():
        if keys <= raw.keys():
            raise Unreadable(f"{name} is a file of {program}; {READABLE}. Nothing was loaded.")
    known = {*KNOWN, *RENAMED, *sd_scripts.DEFAULTS, *WHY_IGNORED, *FAMILIES, *TABS, "description"}
    if raw and not known & raw.keys():
        some = ", ".join(sorted(map(str, raw))[:3])
        raise Unreadable(f"{name} holds no settings of a LoRA training, but {some}; {READABLE}. Nothing was loaded.")


READABLE = "only settings of the Kohya GUI, of sd-scripts and of this program can be read"


def read(
    raw: Mapping[str, Any], may_read: Callable[[Path], bool] = lambda path: True, sd_scripts_file: bool = False
) -> Loaded:
    """Settings from the keys and values of a file, whatever they are; never raises.

    What a file of sd-scripts does not say gets the value that sd-scripts would give it, and the report names it.
    """
    report = Loaded(may_read=may_read)
    raw = dict(raw)
    report.description = str(raw.pop("description", "") or "")
    for recognise in RECOGNISERS:
        report.problems += recognise(raw)
    take_back(raw)
    skipped = OLD_VALUES if is_ours(raw) else set()
    for rewrite in REWRITES:
        if rewrite not in skipped:
            rewrite(raw, report)
    for key in sorted(raw, key=str):
        _take(str(key), raw[key], report)
    _settle(report)
    if sd_scripts_file:
        _fill(report)
    return report


def _take(key: str, value: Any, report: Loaded) -> None:
    if key not in KNOWN or is_secret(key):
        report.ignored.append(Ignored(key, why_ignored(key, value)))
        return
    item = KNOWN[key]
    if isinstance(value, list) and len(value) < 2:
        value = value[0] if value else None
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


def _fill(report: Loaded) -> None:
    """Give what is not said, and means something beside what is, the value that sd-scripts gives it."""
    absent = {key: value for key, value in ABSENT.items() if key not in report.values}
    if report.values.get("max_train_epochs"):
        absent.pop("max_train_steps", None)
    values = Settings(**{**report.values, **absent}).model_dump()
    for key, value in absent.items():
        if visible(KNOWN[key], values) and value != KNOWN[key].default:
            report.values[key] = value
            report.changed.append(Changed(key, None, value, "the file does not say it, and sd-scripts takes this then"))


SPEED_ALONE = {
    "vae_batch_size",
    "max_data_loader_n_workers",
    "dynamo_backend",
    "xformers",
    "persistent_data_loader_workers",
}
"""Settings of which the result does not depend: what is best here stays."""


def _absent() -> dict[str, Any]:
    found: dict[str, Any] = {"seed": None, "lr_warmup": 0.0, "save_every_n_epochs": 0, "network_dim": 4}
    for option, value in sd_scripts.DEFAULTS.items():
        key = RENAMED.get(option, option)
        if key not in KNOWN or key in SPEED_ALONE or value in (None, sd_scripts.MANY):
            continue
        if not isinstance(value, bool) or KNOWN[key].type is bool:
            found.setdefault(key, parse(KNOWN[key], value))
    return found


ABSENT: Mapping[str, Any] = _absent()
"""What sd-scripts takes for a setting that a file does not name."""


# Files of other tabs and other model families.

TABS = {
    "token_string": "Textual Inversion", "image_folder": "Finetuning", "train_dir": "Finetuning", "learning_rate_te": "Dreambooth",
}  # fmt: skip
FAMILIES = {
    "flux1_checkbox": "Flux.1", "sd3_checkbox": "Stable Diffusion 3", "hunyuan_image_checkbox": "HunyuanImage",
    "anima_checkbox": "Anima", "lumina_checkbox": "Lumina",
}  # fmt: skip


def _other_tab(raw: dict[str, Any]) -> list[Problem]:
    if "LoRA_type" in raw or "network_module" in raw:
        return []
    for key, tab in TABS.items():
        if key in raw:
            return [
                Problem(
                    "",
                    "",
                    f"This is a file of the {tab} tab; LoRA settings are needed. What both have in common was read.",
                )
            ]
    return []


def _other_family(raw: dict[str, Any]) -> list[Problem]:
    ticked = [family for key, family in FAMILIES.items() if str(raw.get(key, "")).lower() in {"true", "1"}]
    label = KNOWN["pretrained_model_name_or_path"].label
    message = "this file is for {}; only Stable Diffusion 1.5, 2 and XL can be trained. Choose a model and a preset of one of these."
    return [Problem("pretrained_model_name_or_path", label, message.format(" and ".join(ticked)))] if ticked else []


RECOGNISERS: tuple[Callable[[dict[str, Any]], list[Problem]], ...] = (_other_tab, _other_family)
