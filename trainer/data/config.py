"""Dataset configs of sd-scripts: a TOML or JSON file that names folders of pictures and how each is trained.

The file has [general], [[datasets]] and in each [[datasets.subsets]]; a value stands for all below it, and what stands
nowhere is as in the settings of the run. Every value that is a setting is read as that setting is.
"""

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.folders import ENDINGS, NamedFolder, Source, counted, header, listing, named_folders, some_names
from trainer.data.stamps import once_per_file
from trainer.declare import Problem, by_name, nearest, validate
from trainer.settings import Settings

KEY = "dataset_config"
KNOWN = by_name(Settings)

OF_DATASET = {
    "resolution": "max_resolution", "batch_size": "train_batch_size", "enable_bucket": "enable_bucket",
    "min_bucket_reso": "min_bucket_reso", "max_bucket_reso": "max_bucket_reso",
    "bucket_reso_steps": "bucket_reso_steps", "bucket_no_upscale": "bucket_no_upscale",
}  # fmt: skip
"""What a dataset decides, with the settings these are. A batch comes from one dataset alone."""

OF_SUBSET = (
    "caption_extension", "shuffle_caption", "keep_tokens", "keep_tokens_separator", "secondary_separator",
    "caption_separator", "caption_prefix", "caption_suffix", "caption_dropout_rate", "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step", "enable_wildcard", "color_aug", "flip_aug",
    "random_crop", "alpha_mask", "conditioning_data_dir",
)  # fmt: skip
"""What a subset decides; each is a setting of that name."""

SETTINGS = frozenset((*OF_DATASET.values(), *OF_SUBSET))
"""Settings that a dataset config may hold in place of the page."""

PLAIN = ("num_repeats", "class_tokens", "cache_info")
"""What a subset, or what stands above it, says and no setting does."""

PLACE = ("image_dir", "is_reg")
"""What a subset alone can say."""

OTHERWISE = {
    "metadata_file": "captions stand in files beside the pictures (cat.png, cat.txt), and image_dir names their folder",
    "in_json": "captions stand in files beside the pictures (cat.png, cat.txt), and image_dir names their folder",
    "face_crop_aug_range": "crop the pictures yourself, or use random_crop",
    "validation_split": "take the line out; every picture is trained on, and sample prompts show how it goes",
    "validation_seed": "take the line out; every picture is trained on, and sample prompts show how it goes",
    "network_multiplier": "take the line out; Network Alpha is how strongly the LoRA acts",
    "resize_interpolation": "take the line out; pictures are shrunk by area and enlarged by Lanczos",
    "custom_attributes": "take the line out; nothing would read it",
}
"""Keys of sd-scripts that are not offered here, and the way out."""

OFF: tuple[Any, ...] = ("", 0, 0.0, False, [], {})
"""Values that ask for nothing, whatever the key."""

SUBSET_KEYS = frozenset((*OF_SUBSET, *PLAIN))
KEYS = frozenset((*OF_DATASET, *SUBSET_KEYS, *PLACE, *OTHERWISE))


@dataclass(frozen=True)
class Config:
    """What a file says. `problems` are sentences on why it cannot be used, `notes` on what may surprise."""

    sources: tuple[Source, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _Wrong(Exception):
    """The file as a whole cannot be used; the text is a sentence."""


def sources_of(settings: Settings) -> tuple[list[Source], list[str]]:
    """The folders of the dataset config in order, and notes; what is wrong with it is left out (`problems` says it)."""
    found = read(settings)
    return list(found.sources), list(found.notes)


def problems(settings: Settings) -> Iterator[Problem]:
    """Why this dataset config cannot be trained on."""
    found = read(settings)
    texts = list(found.problems)
    for source in found.sources:
        texts += _without_pictures(source.folder.path)
    if not texts and all(source.is_reg for source in found.sources):
        texts.append("every subset is for regularisation (is_reg), so there is nothing to train on.")
    yield from (Problem(KEY, KNOWN[KEY].label, text) for text in dict.fromkeys(texts))


def parts(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """(name, settings) of every subset that can be read."""
    for source in read(settings).sources:
        yield source.name, source.under(settings)


def complaints(settings: Settings, finders: Iterable[Callable[[Settings], Iterator[Problem]]]) -> Iterator[Problem]:
    """What `finders` say of the parts of the dataset config, under its own label and each sentence once.

    A fix that would only change what the file says is left out.
    """
    told: set[str] = set()
    for name, own in parts(settings):
        for item in (item for find in finders for item in find(own)):
            where = name.split(",")[0] if item.key in OF_DATASET.values() else name
            text = f"{where}: {item.label}: {item.message}"
            helps = item.fix is not None and not set(item.fix) & SETTINGS
            if text not in told:
                told.add(text)
                yield Problem(KEY, KNOWN[KEY].label, text, *((item.fix, item.fix_label) if helps else ()))


def folders(path: str) -> list[Path]:
    """Every folder that a dataset config names, as it would be used; none if it cannot be read."""
    file = Path(path.strip()).expanduser()
    try:
        tables = [table for _, table in _subsets(_tables(file))]
    except _Wrong:
        return []
    keys = ("image_dir", "conditioning_data_dir")
    return [_folder(value, file) for table in tables for key in keys if isinstance(value := table.get(key), str)]


def read(settings: Settings) -> Config:
    """The dataset config that `settings` name. Never raises."""
    path = Path(settings.dataset_config.strip()).expanduser()
    try:
        subsets = list(_subsets(_tables(path)))
    except _Wrong as wrong:
        return Config(problems=(str(wrong),))
    sources: list[Source] = []
    faults: list[str] = []
    notes: list[str] = []
    seen: set[tuple[int, Path]] = set()
    for (number, place), table in subsets:
        where = f"[[datasets]] {number}, subset {place}"
        source, found = _source(table, path, settings, number - 1, where)
        faults += [f"{where}: {text}" for text in found]
        if source is None:
            continue
        if table.get("cache_info"):
            notes.append(f"{where}: cache_info is not needed; pictures are looked at anew in a moment.")
        own = source.under(settings)
        if own.conditioning_data_dir.strip() and not own.masked_loss and "conditioning_data_dir" in table:
            notes.append(f"{where}: conditioning_data_dir counts only with {KNOWN['masked_loss'].label}, which is off.")
        if source.folder.repeats < 1:
            notes.append(f"{where} is not used: num_repeats is {source.folder.repeats}.")
        elif (source.dataset, source.folder.path) in seen:
            notes.append(f"{where} is not used: {source.folder.path} stands in this dataset already.")
        else:
            seen.add((source.dataset, source.folder.path))
            sources.append(source)
    return Config(tuple(sources), tuple(faults), tuple(notes))


# The file.


def _tables(path: Path) -> Mapping[str, Any]:
    """The file as tables, with [general] and at least one of [[datasets]]. Raises `_Wrong`."""
    try:
        data = _decoded(path)
    except FileNotFoundError:
        raise _Wrong(f"there is no file {path}.") from None
    except OSError as error:
        what = "is a folder; choose a .toml file in it" if path.is_dir() else f"cannot be read ({error.strerror})"
        raise _Wrong(f"{path} {what}.") from None
    except ValueError as error:
        raise _Wrong(f"{path} is a broken name ({error}).") from None
    if isinstance(data, str):
        raise _Wrong(data)
    if unknown := [key for key in data if key not in ("general", "datasets")]:
        if "datasets" not in data and any(key in KNOWN for key in unknown):
            raise _Wrong(f"{path.name} holds training settings, no [[datasets]]; load it as a preset instead.")
        close = nearest(unknown[0], ("general", "datasets"))
        raise _Wrong(f"{path.name}: there is no [{unknown[0]}] in a dataset config{close or '.'}")
    _is_table(data.get("general", {}), "[general]")
    if not data.get("datasets"):
        raise _Wrong(f"{path.name} has no [[datasets]] with [[datasets.subsets]], which name the folders of pictures.")
    return data


@once_per_file
def _decoded(path: Path) -> dict[str, Any] | str:
    """The tables of a file, or a sentence on why it has none. Raises `OSError`."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        data = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except UnicodeDecodeError:
        return f"{path.name} is not a text file; dataset configs are .toml or .json files."
    except tomllib.TOMLDecodeError as error:
        return f"{path.name} is not valid TOML: {error}."
    except json.JSONDecodeError as error:
        return f"{path.name} is not valid JSON: {error.msg} (at line {error.lineno}, column {error.colno})."
    except RecursionError:
        return f"{path.name} is nested too deeply."
    return data if isinstance(data, dict) else f"{path.name} holds no tables."


def _subsets(tables: Mapping[str, Any]) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """((dataset, subset) counted from 1, everything that holds for the subset). Raises `_Wrong`."""
    general = tables.get("general", {})
    _levels(general, "[general]", (*OF_DATASET, *SUBSET_KEYS))
    for number, dataset in enumerate(_rows(tables["datasets"], "[[datasets]]"), 1):
        where = f"[[datasets]] {number}"
        own = {key: value for key, value in dataset.items() if key != "subsets"}
        _levels(own, where, (*OF_DATASET, *SUBSET_KEYS))
        subsets = _rows(dataset.get("subsets", []), f"{where}: subsets")
        if not subsets:
            raise _Wrong(f"{where} has no [[datasets.subsets]], which name the folders of pictures by image_dir.")
        for place, subset in enumerate(subsets, 1):
            _levels(subset, f"{where}, subset {place}", (*SUBSET_KEYS, *PLACE))
            yield (number, place), {**general, **own, **subset}


def _rows(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise _Wrong(f"{name} must be tables in double brackets, such as [[datasets]].")
    for row in value:
        _is_table(row, name)
    return value


def _is_table(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise _Wrong(f"{name} must be a table of key = value lines.")


def _levels(table: Mapping[str, Any], where: str, allowed: tuple[str, ...]) -> None:
    """Raises `_Wrong` for a key that does not belong here."""
    for key, value in table.items():
        if key in allowed or (key in OTHERWISE and value in OFF):
            continue
        if key in OTHERWISE:
            raise _Wrong(f"{where}: {key} is not offered here; {OTHERWISE[key]}.")
        if key in KEYS:
            above = "[[datasets]] or [general]" if key in OF_DATASET else "[[datasets.subsets]]"
            raise _Wrong(f"{where}: {key} belongs into {above}.")
        if key in KNOWN:
            raise _Wrong(f"{where}: {key} is the same for all pictures; set {KNOWN[key].label} on the page instead.")
        raise _Wrong(f"{where}: there is no {key}{nearest(key, KEYS) or '.'}")


# A subset.


def _source(
    table: Mapping[str, Any], file: Path, run: Settings, dataset: int, name: str
) -> tuple[Source | None, list[str]]:
    """The source that a subset is, `None` where it names none, and what is wrong with it."""
    text, repeats, tokens = table.get("image_dir"), table.get("num_repeats", 1), table.get("class_tokens")
    if not isinstance(text, str) or not text.strip():
        return None, ["image_dir is missing; it names the folder of the pictures."]
    wrong = [f"num_repeats must be a whole number; {repeats!r} is not one."] * (not _is_count(repeats))
    if tokens is not None and not isinstance(tokens, str):
        wrong.append(f"class_tokens is a text; {tokens!r} is not.")
    if not isinstance(is_reg := table.get("is_reg", False), bool):
        wrong.append(f"is_reg is true or false; {is_reg!r} is neither.")
    own, more = _settings(table, file, run)
    wrong += more
    if wrong:
        return None, wrong
    folder = NamedFolder(_folder(text, file), int(repeats), (tokens or "").strip(), "class_tokens")
    return Source(folder, is_reg, own, dataset, name), []


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and float(value).is_integer()


def _settings(table: Mapping[str, Any], file: Path, run: Settings) -> tuple[Settings, list[str]]:
    """The settings of the run with a subset's own in their places, and what is wrong with these."""
    values: dict[str, Any] = {}
    names = {**OF_DATASET, **{key: key for key in OF_SUBSET}}
    for key, value in table.items():
        if key in names:
            values[names[key]] = _sides(value) if key == "resolution" else value
    if values.get("alpha_mask") is True:
        values["masked_loss"] = True
    if isinstance(folder := values.get("conditioning_data_dir"), str) and folder.strip():
        values["conditioning_data_dir"] = str(_folder(folder, file))
    settings, found = validate(Settings, {**run.model_dump(), **values})
    written = {name: key for key, name in names.items()}
    return settings, [f"{written.get(item.key, item.key)} {item.message}" for item in found]


def _sides(value: Any) -> Any:
    """A resolution as the setting is written: 512, [512, 768] and "512,768" are all understood."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _folder(text: str, file: Path) -> Path:
    """A folder that a file names: beside the file, else where the program was started."""
    folder = Path(text.strip()).expanduser()
    beside = file.absolute().parent / folder
    return folder.absolute() if folder.is_dir() and not beside.is_dir() else beside


def _without_pictures(folder: Path) -> Iterator[str]:
    """Why a folder that a subset names has nothing to train on."""
    try:
        inside = listing(folder)
    except FileNotFoundError:
        yield f"there is no folder {folder}."
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        yield f"{folder} {'is a file, no folder' if folder.is_file() else f'cannot be read ({why})'}."
        return
    if inside.pictures:
        if all(header(path).why for path in inside.pictures):
            first = inside.pictures[0]
            count = counted(len(inside.pictures))
            yield f"none of the {count} in {folder} can be used: {first.name} {header(first).why}."
        return
    named = [one for one in named_folders(folder)[0] if listing(one.path).pictures]
    if named:
        yield (
            f"no pictures directly in {folder}, only in {some_names([one.path for one in named])}; make each a subset: "
            f'image_dir = "{named[0].path.as_posix()}" with num_repeats = {named[0].repeats}.'
        )
    else:
        yield f"no pictures in {folder}; expected {ENDINGS}."
