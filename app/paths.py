"""Which folders of this machine the page may show, and what is in them."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.data import config
from trainer.declare import PATHS, Problem, Section, Setting, settings_of
from trainer.prompts import prompt_file
from trainer.workspace import workspace

MODELS = (".safetensors", ".ckpt", ".pt")
PRESETS = (".json", ".toml")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif")
REPEATED = re.compile(r"\d+_.+")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FOLDERS = ("folder", "state")
"""Kinds of settings that are folders, whether they are there or not."""
MOST = 2000
"""Entries of a folder that are listed; more do not help anybody."""

_limits: tuple[Path, ...] | None = None


def restrict(folders: Iterable[str | os.PathLike[str]] | None) -> None:
    """Limit the page to the workspace and `folders` (any address but loopback), or to nothing (None: loopback)."""
    global _limits
    _limits = None if folders is None else tuple(Path(folder).expanduser().resolve() for folder in folders)


def allowed_roots() -> list[Path]:
    """The folders the page may show, each with all it contains."""
    if _limits is None:
        return _drives()
    return [workspace().root.resolve(), *_limits]


def is_allowed(path: str | os.PathLike[str]) -> bool:
    """Whether `path`, links followed, lies in a folder that the page may show."""
    try:
        real = Path(path).expanduser().resolve()
    except (OSError, ValueError, RuntimeError):
        return False
    return any(real.is_relative_to(root) for root in allowed_roots())


def problems(settings: type[Section], values: Mapping[str, Any]) -> Iterator[Problem]:
    """A problem for each path among `values` that points out of the folders the page may use."""
    for item in settings_of(settings):
        value = values.get(item.name)
        if item.about.kind in PATHS and isinstance(value, str) and value.strip():
            looks_like_path = item.about.kind in FOLDERS and not _is_name(item, value)
            if (looks_like_path or Path(value).expanduser().exists()) and not is_allowed(value):
                roots = " or ".join(map(str, allowed_roots()))
                yield Problem(item.name, item.label, f"this page may only use folders inside {roots}; see --allow.")
            elif item.about.kind == "config":
                yield from _named_inside(item, value)
        elif item.name == "sample_prompts" and isinstance(value, str) and not may_read_prompts(value):
            roots = " or ".join(map(str, allowed_roots()))
            yield Problem(item.name, item.label, f"this page may only use files inside {roots}; see --allow.")


def _is_name(item: Setting, value: str) -> bool:
    """Whether a value where names are offered beside folders is one of them, or the name of a model on the hub."""
    return item.choices is not None and (value in item.choices or HUB_NAME.fullmatch(value.strip()) is not None)


def may_read_prompts(text: str) -> bool:
    """Whether sample prompts are no file, or one that the page may use."""
    file = prompt_file(text)
    return file is None or is_allowed(file)


def _named_inside(item: Setting, value: str) -> Iterator[Problem]:
    """A problem for the first folder outside of the allowed ones that a dataset config names."""
    for folder in config.folders(value):
        if not is_allowed(folder):
            roots = " or ".join(map(str, allowed_roots()))
            message = f"it names {folder}, and this page may only use folders inside {roots}; see --allow."
            yield Problem(item.name, item.label, message)
            return


def listing(path: str, kind: str = "folder") -> dict[str, Any]:
    """What the picker shows of a folder: {"path", "parent", "places", "entries": [{"name", "path", ...}], "error"}.

    `kind` is "folder", "file" (model files are listed too), "preset" or "config" (JSON and TOML files are). A path that
    is not a folder shows the nearest one above it; one that may not be shown gives the first allowed root and says so.
    """
    folder, error = _nearest(path)
    entries: list[dict[str, Any]] = []
    try:
        entries = sorted(_entries(folder, kind), key=lambda entry: (entry["file"], entry["name"].lower()))
    except OSError as problem:
        error = f"{folder} cannot be opened: {problem.strerror or problem}."
    if len(entries) > MOST:
        error = f"Only the first {MOST} of {len(entries)} entries are shown; type the path to reach the others."
    parent = folder.parent if folder.parent != folder and is_allowed(folder.parent) else None
    return {
        "path": str(folder),
        "parent": str(parent) if parent else "",
        "separator": os.sep,
        "places": _places(),
        "entries": entries[:MOST],
        "error": error,
        **_contents(folder),
    }


def _nearest(path: str) -> tuple[Path, str]:
    """The nearest existing, allowed folder at or above `path`, and why it is another one than asked for."""
    try:
        asked = Path(path.strip().strip('"')).expanduser() if path.strip() else _home()
        if not asked.is_absolute():
            return _home(), f"{path} is not a whole path."
        folder = next(folder for folder in (asked, *asked.parents) if folder.is_dir())
    except (OSError, ValueError, RuntimeError, StopIteration):
        return _home(), f"{path} is not a folder here."
    if not is_allowed(folder):
        return _home(), f"{asked} is outside the folders this page may show."
    return folder, "" if folder == asked or asked.is_file() else f"{asked} does not exist; this is the nearest folder."


def _entries(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    endings = MODELS if kind == "file" else PRESETS if kind in ("preset", "config") else ()
    with os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith((".", "$")):
                continue
            try:
                is_folder = entry.is_dir()
                is_file = not is_folder and entry.name.lower().endswith(endings) if endings else False
                if is_folder or is_file:
                    bytes_ = 0 if is_folder else entry.stat().st_size
                    yield {
                        "name": entry.name,
                        "path": str(folder / entry.name),
                        "file": is_file,
                        "bytes": bytes_,
                        "repeats": bool(is_folder and REPEATED.fullmatch(entry.name)),
                    }
            except OSError:
                continue


def _contents(folder: Path) -> dict[str, int]:
    """How many images and folders named N_name a folder holds directly, and whether it is a diffusers model."""
    images = repeated = 0
    try:
        with os.scandir(folder) as found:
            for entry in found:
                images += entry.name.lower().endswith(IMAGES)
                repeated += REPEATED.fullmatch(entry.name) is not None and entry.is_dir()
    except OSError:
        pass
    return {"images": images, "repeated": repeated, "model": (folder / "model_index.json").is_file()}


def _places() -> list[dict[str, str]]:
    """Folders to start from: workspace, home, and the roots."""
    places = [("Workspace", workspace().root), ("Home", Path.home())]
    places += [(str(root), root) for root in allowed_roots()]
    seen: dict[Path, str] = {}
    for name, folder in places:
        if folder.is_dir() and is_allowed(folder):
            seen.setdefault(folder.resolve(), name)
    return [{"name": name, "path": str(folder)} for folder, name in seen.items()]


def _home() -> Path:
    """Where the picker opens when nothing is chosen yet."""
    for folder in (workspace().root, Path.home()):
        if folder.is_dir() and is_allowed(folder):
            return folder
    return allowed_roots()[0]


def _drives() -> list[Path]:
    if os.name == "nt":
        return [drive for letter in string.ascii_uppercase if (drive := Path(f"{letter}:\\")).exists()]
    return [Path("/")]
