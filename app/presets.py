"""Settings files a person chooses, loads with a report, and saves. No gradio."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from trainer.declare import Section, settings_of
from trainer.runfolder import write_json
from trainer.settings import Settings
from trainer.settings.kohya import Changed, Ignored, Loaded, Unreadable, load
from trainer.settings.saved import not_shown, to_kohya
from trainer.workspace import PROJECT, workspace

BUILT_IN = PROJECT / "presets"
UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*]+')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

__all__ = ["Loaded", "Unreadable", "available", "command", "exists", "find", "load", "not_shown", "report", "save"]


def available() -> list[tuple[str, str]]:
    """(name, path) of every preset: the user's own first, then those that come with the program."""
    own = [(path.stem, str(path)) for path in _files(workspace().presets)]
    return own + [(f"{path.stem} (built in)", str(path)) for path in _files(BUILT_IN)]


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.json"), key=lambda path: _as_people_sort(path.stem))
    except OSError:
        return []


def _as_people_sort(name: str) -> list[tuple[int, str]]:
    """A key that sorts 8 GB before 12 GB."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d{1,9})", name.lower())]


def find(name: str) -> Path:
    """The file of a preset's name or path, as typed, pasted or chosen."""
    text = name.strip().strip('"').strip("'")
    for path in (Path(text).expanduser(), workspace().presets / f"{text}.json", BUILT_IN / f"{text}.json"):
        if path.is_file():
            return path
    return Path(text).expanduser()


def is_built_in(path: Path) -> bool:
    """Whether a preset belongs to the program and must not be written to."""
    return path.resolve().is_relative_to(BUILT_IN.resolve())


def is_own(path: Path) -> bool:
    """Whether a preset is one of the user's, kept in the workspace."""
    return path.resolve().parent == workspace().presets.resolve()


def file_for(name: str) -> Path:
    """Where a preset of this name is kept; raises `ValueError` with a sentence for a name no file can have."""
    stem = UNSAFE.sub("-", name.strip()).removesuffix(".json").strip(" .-")[:100]
    if not stem or RESERVED.fullmatch(stem):
        raise ValueError("Give the preset a name made of letters or numbers.")
    return workspace().presets / f"{stem}.json"


def exists(name: str) -> bool:
    """Whether the user already has a preset of this name."""
    return file_for(name).exists()


def save(name: str, settings: Settings) -> Path:
    """Write all settings but the secrets as the user's preset `name`; the file also loads in the Kohya GUI."""
    path = file_for(name)
    write_json(path, to_kohya(settings))
    return path


def keep_data_set(uploaded: Path) -> dict[str, str]:
    """A copy in the workspace of a description of a data set that came from the browser, as the setting it is."""
    folder = workspace().datasets
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / uploaded.name
    beside = file.with_name(f".{file.name}.part")
    shutil.copyfile(uploaded, beside)
    beside.replace(file)
    return {"dataset_config": str(file)}


def report(name: str, loaded: Loaded, settings: type[Section]) -> str:
    """What loading did, as HTML: a sentence, and what was changed, ignored or wrong in lists."""
    labels = {item.name: item.label for item in settings_of(settings)}
    counts = [f"{len(loaded.loaded)} settings loaded"]
    counts += [f"{len(loaded.changed)} changed"] if loaded.changed else []
    counts += [f"{len(loaded.ignored)} ignored"] if loaded.ignored else []
    counts += [f"{len(loaded.problems)} could not be used"] if loaded.problems else []
    about = f" <span>{escape(loaded.description)}</span>" if loaded.description else ""
    lists = [
        _list("Could not be used", [f"<b>{escape(p.label or p.key)}</b> {escape(p.message)}" for p in loaded.problems]),
        _list("Changed", [_changed(item, labels) for item in loaded.changed]),
        _list("Ignored", [_ignored(item) for item in loaded.ignored]),
        _list("Loaded", [escape(labels.get(key, key)) for key in loaded.loaded], "run-in"),
    ]
    rest = "everything else stays as it was" if loaded.keeps_the_rest else "everything else is at its default"
    return (
        f"<p><b>{escape(name)}</b>: {', '.join(counts)}; {rest}.{about}</p>"
        f"<details><summary>What was loaded, changed and ignored</summary>{''.join(lists)}</details>"
    )


def _changed(item: Changed, labels: Mapping[str, str]) -> str:
    after = "not set" if item.after in ("", None) else item.after
    before = "not said" if item.before is None else item.before
    return (
        f"<b>{escape(labels.get(item.key, item.key))}</b> <code>{escape(str(before))}</code> → "
        f"<code>{escape(str(after))}</code> {escape(item.why)}"
    )


def _ignored(item: Ignored) -> str:
    return f"<b><code>{escape(item.key)}</code></b> {escape(item.why)}"


def _list(title: str, items: list[str], kind: str = "") -> str:
    if not items:
        return ""
    return f'<h4>{title}</h4><ul class="{kind}">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def command(job: str, settings: Section) -> str:
    """The command that does the same without the page: only what differs from the defaults, quoted for this system."""
    parts = [Path(sys.executable).name if not _in_project() else _python(), "-m", "trainer", job]
    for item in settings_of(type(settings)):
        value = getattr(settings, item.name)
        if value != item.default and not item.about.secret:
            text = _written(value)
            parts += [f"--{item.name}={text}"] if text.startswith("-") else [f"--{item.name}", text]
    return subprocess.list2cmdline(parts) if os.name == "nt" else " ".join(map(_quoted, parts))


def _written(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(text: str) -> str:
    from shlex import quote

    return quote(text)


def _in_project() -> bool:
    return Path(sys.prefix).resolve().parent == PROJECT.resolve()


def _python() -> str:
    """The project's own interpreter, as one types it from the project's folder."""
    return str(Path(".venv", "Scripts", "python.exe") if os.name == "nt" else Path(".venv", "bin", "python"))
