"""Folders named like 10_cat: finding them, what is in them, and what to say when the wrong folder was chosen."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data.images import ENDINGS, header, is_picture
from trainer.declare import Problem
from trainer.settings import Settings

MOST_REPEATS = 100_000
"""A larger number in front of a folder's name is a date or a serial number, not a count."""


@dataclass(frozen=True)
class NamedFolder:
    """A folder like 10_cat: each picture counts `repeats` times; `concept` is the caption of those without one.

    `origin` is where the concept comes from, in words.
    """

    path: Path
    repeats: int
    concept: str
    origin: str = "its name"


@dataclass(frozen=True)
class Source:
    """A folder of pictures and how they are trained: with `settings` of their own, or, if `None`, with the run's.

    `name` is what a dataset config calls it: "[[datasets]] 1, subset 2".
    """

    folder: NamedFolder
    is_reg: bool = False
    settings: Settings | None = None
    dataset: int = 0
    name: str = ""

    def under(self, run: Settings) -> Settings:
        """The settings its pictures are trained with in a run of settings `run`."""
        return self.settings or run


@dataclass(frozen=True)
class Listing:
    """What stands directly in a folder: picture files, other files by name, sub-folders; each sorted by name."""

    pictures: tuple[Path, ...] = ()
    files: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()


def as_folder(text: str) -> Path:
    """The folder a person means, with ~ for the home folder."""
    return Path(text.strip()).expanduser()


def read_name(name: str) -> tuple[int, str] | None:
    """(repeats, concept) of a folder name like "10_cat", None if it is not of that form."""
    match = re.fullmatch(r"\s*([0-9]+)\s*_(.*)", name, re.DOTALL)
    return (int(match[1][:18]), match[2].strip()) if match else None


def listing(folder: Path) -> Listing:
    """One look into a folder, hidden things left out. Raises `OSError`."""
    pictures, files, folders = [], [], []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(folder / entry.name)
            elif is_picture(entry.name):
                pictures.append(folder / entry.name)
            else:
                files.append(entry.name)
    return Listing(tuple(pictures), tuple(files), tuple(folders))


def named_folders(folder: Path) -> tuple[list[NamedFolder], list[str]]:
    """The folders `N_name` in `folder` with N of at least 1, and a sentence on everything else that is not used."""
    found, notes = [], []
    inside = listing(folder)
    for path in inside.folders:
        named = read_name(path.name)
        if named is None:
            notes.append(f"{path.name} is not used: its name does not begin with a number and _, like 10_{path.name}.")
        elif named[0] == 0:
            notes.append(f"{path.name} is not used: its name says 0 repeats.")
        elif named[0] > MOST_REPEATS:
            notes.append(
                f"{path.name} is not used: the number in front is how often each picture is shown per epoch, "
                f"and {named[0]} cannot be meant. Rename it to something like 10_{named[1]}."
            )
        else:
            found.append(NamedFolder(path, *named))
    if inside.pictures:
        loose = f"{counted(len(inside.pictures))} directly in {folder.name or folder} ({some_names(inside.pictures)})"
        notes.append(f"{loose} {_are(len(inside.pictures))} not used: pictures belong in folders named like 10_cat.")
    return found, notes


def folder_problems(folder: str, key: str, label: str, required: bool = True) -> list[Problem]:
    """Why this folder cannot give pictures, with the folder that was probably meant; [] when it can.

    `key` and `label` are those of the setting it stands in. An empty text is a problem only where one is `required`.
    """
    return [
        Problem(key, label, message, {key: str(meant)} if meant else None, f"Use {meant}" if meant else "")
        for message, meant in _complaints(folder, required)
    ]


def _complaints(text: str, required: bool) -> Iterator[tuple[str, Path | None]]:
    if not text.strip():
        if required:
            yield "choose the folder that contains your folders named like 10_cat.", None
        return
    folder = as_folder(text)
    try:
        if not folder.exists():
            yield _missing(text)
        elif not folder.is_dir():
            yield f"{folder} is a file; choose the folder that contains your folders named like 10_cat.", _above(folder)
        else:
            yield from _without_pictures(folder)
    except PermissionError:
        yield f"{folder} may not be read (permission denied).", None
    except (OSError, ValueError) as error:
        yield f"{folder} cannot be read ({getattr(error, 'strerror', None) or error}).", None


def _missing(text: str) -> tuple[str, Path | None]:
    bare = text.strip().strip("\"'").strip()
    if bare != text.strip() and bare and as_folder(bare).is_dir():
        return f"there is no folder {text.strip()}; the quotation marks do not belong to its name.", as_folder(bare)
    folder = as_folder(text)
    nearest = next((parent for parent in folder.parents if parent.is_dir()), None)
    hint = f" The part that exists is {nearest}." if nearest and nearest not in (Path(), Path(folder.anchor)) else ""
    return f"there is no folder {folder}.{hint}", None


def _above(path: Path) -> Path | None:
    """The nearest folder above `path` that holds a folder with pictures and a name like 10_cat."""
    return next((parent for parent in list(path.parents)[:3] if _usable(parent)), None)


def _usable(folder: Path) -> bool:
    try:
        return any(listing(named.path).pictures for named in named_folders(folder)[0])
    except OSError:
        return False


def _without_pictures(folder: Path) -> Iterator[tuple[str, Path | None]]:
    named, notes = named_folders(folder)
    inside = listing(folder)
    pictures = [path for one in named for path in listing(one.path).pictures]
    if pictures:
        if all(header(path).why for path in pictures):
            first = f"{pictures[0].name} {header(pictures[0]).why}"
            yield f"none of the {len(pictures)} pictures in {folder} can be used: {first}.", None
    elif inside.pictures and read_name(folder.name) and not named:
        yield f"you chose the inner folder {folder.name}; choose its parent, {folder.parent}.", folder.parent
    elif inside.pictures and not named:
        loose = f"{counted(len(inside.pictures))} {_are(len(inside.pictures))} directly in {folder}."
        yield (
            f"{loose} Put them into a folder inside it, named like 10_cat: "
            "10 = how often each is shown per epoch, cat = what they show.",
            None,
        )
    elif named:
        yield _empty_folders(folder, named), None
    else:
        below = [child for child in inside.folders if _usable(child)]
        if below:
            chosen = _likeliest(below)
            also = [child for child in below if child != chosen]
            more = f" (Also in {some_names(also)}.)" if also else ""
            yield f"the folders named like 10_cat are one level down, in {chosen.name}; choose {chosen}.{more}", chosen
        else:
            yield _nothing(folder, inside, notes), None


def _likeliest(folders: list[Path]) -> Path:
    return next((child for child in folders if not child.name.lower().startswith(("reg", "class"))), folders[0])


def _empty_folders(folder: Path, named: list[NamedFolder]) -> str:
    names = some_names([one.path for one in named])
    below = [child for one in named for child in listing(one.path).folders if listing(child).pictures]
    if below:
        return f"no pictures directly in {names}; those in {below[0]} are one level too deep. Move them up."
    return f"no pictures in {names} (in {folder}); expected {ENDINGS}."


def _nothing(folder: Path, inside: Listing, notes: list[str]) -> str:
    if not (inside.files or inside.folders):
        return f"{folder} is empty. Put a folder named like 10_cat with your pictures into it."
    wrong = [child.name for child in inside.folders if listing(child).pictures]
    if wrong:
        reason = next((note for note in notes if note.startswith(f"{wrong[0]} ")), "")
        return f"no folder in {folder} is named like 10_cat. {reason}".strip()
    return f"no pictures found in {folder}. It must contain folders named like 10_cat that hold {ENDINGS} files."


def some_names(paths: tuple[Path, ...] | list[Path]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(path.name for path in paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"


def counted(number: int, noun: str = "picture") -> str:
    """ "1 picture", "2 pictures"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
