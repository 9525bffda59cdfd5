"""Data sets: folders of pictures and their captions, laid out as the Kohya GUI lays them out. (no gradio)

::

    datasets/mycat/
      img/40_mycat cat/    what is learned: each picture counts 40 times an epoch; cat.txt describes cat.png
      reg/1_cat/           regularisation images: what else belongs to the class
      model/  log/         where training puts what it makes
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import paths, runs
from trainer.data.folders import MOST_REPEATS, listing, read_name
from trainer.workspace import workspace

FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""Characters that no name of a file or folder may have on one system or another."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
LONGEST_NAME = 120
"""Characters of a name of a file or folder; with the folders above it must fit into 255 bytes and Windows' 260."""
DEEPEST, MOST_FOLDERS = 3, 500
"""How far down, and among how many folders, pictures are looked for."""
REGULARISATION = ("reg", "class")
"""How names of folders begin that hold regularisation images: reg, regularisation, class_images."""


class Refused(ValueError):
    """Why something is not done; `field` is the input it is about, where there is one."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True)
class Made:
    """A data set that was made, or added to: its folder, and where pictures of the two kinds go."""

    path: Path
    images: Path
    regularisation: Path | None


@dataclass(frozen=True)
class Part:
    """A folder of a data set that holds pictures. `repeats` is None where its name does not begin with a number."""

    path: Path
    repeats: int | None
    concept: str
    regularisation: bool
    pictures: tuple[Path, ...]
    files: tuple[str, ...]


def name_problem(name: str) -> str:
    """Why a name cannot be that of a file or folder, going on from the name; "" when it can."""
    if not name.strip():
        return "is missing"
    if found := FORBIDDEN.search(name):
        sign = found[0] if found[0].isprintable() else "a control character"
        return f"must not contain {sign}"
    if name.startswith("."):
        return "must not begin with a dot, which hides it"
    if name != name.strip() or name.endswith("."):
        return "must not begin or end with a space, nor end with a dot"
    if RESERVED.fullmatch(name):
        return "is a name that Windows keeps for itself"
    if len(name) > LONGEST_NAME or len(name.encode("utf-8", "surrogatepass")) > 200:
        return f"is longer than {LONGEST_NAME} letters"
    return ""


def folder_name(repeats: Any, words: str, label: str = "Repeats", field: str = "repeats") -> str:
    """ "40_mycat cat" of 40 and "mycat cat". Raises `Refused`."""
    text = str(repeats).strip()
    number = int(text[:18]) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= MOST_REPEATS:
        raise Refused(f"{label}: a whole number of 1 or more, such as 10; {text or 'nothing'} is not.", field)
    return f"{number}_{words}"


def create(
    name: str, instance: str, class_: str = "", repeats: Any = 40, reg_repeats: Any = None, named: bool = False
) -> Made:
    """Make the folders of a data set, or of another concept in one that is there. Raises `Refused`.

    Nothing that is there is touched. A folder for regularisation images is made when `reg_repeats` is given. Pictures
    that come in folders `named` like 10_cat need no instance prompt.
    """
    name, instance, class_ = (" ".join(text.split()) for text in (name, instance, class_))
    _accept(name, "Name", "name")
    if class_ or reg_repeats is not None:
        _accept(class_, "Class prompt", "class")
    inner = "" if named and not instance else _inner(instance, class_, repeats)
    wanted = reg_repeats is not None
    reg = folder_name(reg_repeats, class_, "Repeats of regularisation images", "reg_repeats") if wanted else ""
    path = workspace().datasets / name
    if inner:
        _refuse_twice(path, inner)
    images = path / "img" / inner
    regularisation = path / "reg" / reg if reg else None
    try:
        for folder in (images, regularisation, path / "model", path / "log"):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{path} cannot be made: {error.strerror or error}.") from error
    return Made(path, images, regularisation)


def _inner(instance: str, class_: str, repeats: Any) -> str:
    _accept(instance, "Instance prompt", "instance")
    inner = folder_name(repeats, f"{instance} {class_}".strip())
    _accept(inner, "Instance prompt and Class prompt", "instance")
    return inner


def _refuse_twice(path: Path, inner: str) -> None:
    """Raise `Refused` when the data set has the same concept with other repeats."""
    concept = (read_name(inner) or (0, ""))[1]
    for part in parts(path) if path.is_dir() else []:
        if not part.regularisation and part.concept == concept and part.path.name != inner:
            raise Refused(
                f"Repeats: {path.name} has {part.path.name} already, and both folders would be trained. Write "
                f"{part.repeats} to add to it; its repeats can be changed afterwards.",
                "repeats",
            )


def _accept(text: str, label: str, field: str) -> None:
    if problem := name_problem(text):
        raise Refused(f"{label} {problem}.", field)


def overview() -> list[dict[str, Any]]:
    """The data sets of the workspace, the one that changed last first: name, path, counts, and a few pictures."""
    try:
        folders = [path for path in workspace().datasets.iterdir() if path.is_dir() and path.name[:1] not in ".$"]
        folders.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    except OSError:
        return []
    return [_card(path) for path in folders]


def _card(path: Path) -> dict[str, Any]:
    found = parts(path)
    learned = [part for part in found if not part.regularisation]
    pictures = [picture for part in learned for picture in part.pictures]
    return {
        "name": path.name,
        "path": str(path),
        "folders": [part.path.name for part in learned],
        "pictures": len(pictures),
        "regularisation": sum(len(part.pictures) for part in found if part.regularisation),
        "shown": [str(picture) for picture in pictures[:4]],
    }


def parts(root: Path) -> list[Part]:
    """The folders with pictures in and below `root`, and those named like 10_cat that are empty; sorted by name."""
    found: list[Part] = []
    for folder in _walk(root):
        named = read_name(folder.name)
        try:
            inside = listing(folder)
        except OSError:
            continue
        if not inside.pictures and not (named and folder != root):
            continue
        above = folder.relative_to(root).parts
        reg = any(name.lower().startswith(REGULARISATION) for name in above)
        repeats, concept = named or (None, "")
        found.append(Part(folder, repeats, concept, reg, inside.pictures, inside.files))
    return sorted(found, key=lambda part: (part.regularisation, str(part.path.relative_to(root)).lower()))


def _walk(root: Path) -> Iterator[Path]:
    """`root` and the folders below it, level by level; links are not followed, hidden ones left out."""
    level, seen = [root], 0
    for _ in range(DEEPEST + 1):
        below: list[Path] = []
        for folder in level:
            seen += 1
            if seen > MOST_FOLDERS:
                return
            yield folder
            try:
                inside = sorted(folder.iterdir())
            except OSError:
                continue
            below += [path for path in inside if path.is_dir() and not path.is_symlink() and path.name[:1] not in ".$"]
        level = below


def fields(root: Path) -> dict[str, str]:
    """What Copy info to respective fields writes on the LoRA tab. Raises `Refused` when nothing could be trained."""
    found = parts(root)
    learned = [part for part in found if not part.regularisation and part.repeats]
    if not any(part.pictures for part in learned):
        raise Refused("There are no pictures in folders named like 10_cat yet, so nothing could be trained.")
    values = {"train_data_dir": str(_parent(learned))}
    regular = [part for part in found if part.regularisation and part.repeats and part.pictures]
    values["reg_data_dir"] = str(_parent(regular)) if regular else ""
    for key, folder in (("output_dir", root / "model"), ("logging_dir", root / "log")):
        if folder.is_dir():
            values[key] = str(folder)
    return values


def _parent(found: list[Part]) -> Path:
    """The folder above most pictures: what Image folder wants is the parent of the folders named like 10_cat."""
    counts: dict[Path, int] = {}
    for part in found:
        counts[part.path.parent] = counts.get(part.path.parent, 0) + len(part.pictures)
    return max(counts, key=lambda folder: counts[folder])


def rename_repeats(folder: Path, repeats: Any) -> Path:
    """Rename "10_cat" to "20_cat"; returns the new path. Raises `Refused`."""
    named = read_name(folder.name)
    if named is None:
        raise Refused(f"{folder.name} does not begin with a number and _, so it has no repeats.")
    target = folder.with_name(folder_name(repeats, named[1]))
    if target == folder:
        return folder
    refuse_in_use(folder)
    if target.exists():
        raise Refused(f"There is a folder {target.name} already; put the pictures together first.", "repeats")
    try:
        os.rename(folder, target)
    except OSError as error:
        raise Refused(f"{folder.name} cannot be renamed: {error.strerror or error}.") from error
    return target


def refuse_in_use(folder: Path) -> None:
    """Raise `Refused` while a run reads the pictures in `folder`."""
    for run in runs.list_runs():
        if run.state in runs.GOING and any(_is_in(folder, used) for used in _folders_of(run.id)):
            raise Refused(f"{run.name} is using these pictures. Wait until it has ended, or stop it.")


def _folders_of(run: str) -> list[str]:
    try:
        settings = runs.settings_of(run)
    except ValueError:
        return []
    names = ("train_data_dir", "reg_data_dir", "image_folder")
    return [value for name in names if (value := getattr(settings, name, ""))]


def _is_in(folder: Path, used: str) -> bool:
    real, above = folder.resolve(), Path(used).expanduser().resolve()
    return real.is_relative_to(above) or above.is_relative_to(real)


def allowed_folder(text: str) -> Path:
    """The folder of this path, if the page may use it. Raises `Refused`."""
    path = Path(text.strip().strip('"')).expanduser() if text.strip() and "\0" not in text else Path()
    if not path.is_absolute():
        raise Refused(f"{text.strip() or 'Nothing'} is not a whole path.", "folder")
    if not paths.is_allowed(path):
        roots = " or ".join(map(str, paths.allowed_roots()))
        raise Refused(f"This page may only use folders inside {roots}; see --allow.", "folder")
    if not path.is_dir():
        raise Refused(f"There is no folder {path}.", "folder")
    return path
