"""The pictures of a data set, their captions, and what is wrong with them. (no gradio)"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import paths
from app.datasets import Part, Refused, parts, refuse_in_use
from trainer.captioners.captions import extension_problem
from trainer.data.caption_finder import CAPTION_ENDINGS
from trainer.data.captions import read_caption
from trainer.data.images import Unreadable, check_pixels, header, is_picture
from trainer.data.stamps import once_per_file
from trainer.runfolder import write_text

BIN = ".bin"
"""Where removed pictures go, beside those that stay; hidden folders are not trained."""
LONGEST_CAPTION = 20_000
_writing = threading.Lock()


class Changed(Exception):
    """A caption is another one than the person saw who edits it."""

    def __init__(self, text: str | None, version: str) -> None:
        super().__init__("This caption has changed on disk since you opened it.")
        self.text, self.version = text, version


@dataclass(frozen=True)
class Caption:
    """A caption file: its text (None: there is no file), and a version that tells it from every other content."""

    text: str | None
    version: str
    note: str = ""


# Looking.


def look(root: Path, extension: str = ".txt") -> dict[str, Any]:
    """Folders, pictures and captions in and below `root`. Quick: what takes time is left to `facts`."""
    ending(extension)
    found = parts(root)
    return {
        "path": str(root),
        "name": root.name,
        "folders": [_folder(part, root) for part in found],
        "pictures": [picture for index, part in enumerate(found) for picture in _pictures(index, part, extension)],
        "removed": [item for part in found for item in removed(part.path)],
    }


def _folder(part: Part, root: Path) -> dict[str, Any]:
    inside = part.path.relative_to(root)
    return {
        "path": str(part.path),
        "name": str(inside) if inside.parts else part.path.name,
        "repeats": part.repeats,
        "concept": part.concept,
        "regularisation": part.regularisation,
        "pictures": len(part.pictures),
    }


def _pictures(folder: int, part: Part, extension: str) -> list[dict[str, Any]]:
    known = {name.lower() for name in part.files}
    return [_picture(path, folder, extension, known) for path in part.pictures]


def _picture(path: Path, folder: int, extension: str, known: Set[str]) -> dict[str, Any]:
    try:
        state = path.stat()
        size, changed = state.st_size, state.st_mtime_ns // 1_000_000
    except OSError:
        size, changed = 0, 0
    caption = read(path, extension) if (path.stem + extension).lower() in known else Caption(None, "")
    others = [name for name in CAPTION_ENDINGS if name != extension and (path.stem + name).lower() in known]
    return {
        "path": str(path),
        "name": path.name,
        "folder": folder,
        "bytes": size,
        "changed": changed,
        "caption": caption.text,
        "version": caption.version,
        "note": caption.note,
        "others": others if caption.text is None else [],
    }


def facts(pictures: Iterable[Path], resolution: tuple[int, int]) -> list[dict[str, Any]]:
    """Size and problems of each picture; the whole file is decoded, once."""
    return [_facts(path, resolution) for path in pictures]


def _facts(path: Path, resolution: tuple[int, int]) -> dict[str, Any]:
    answer: dict[str, Any] = {"path": str(path), "width": 0, "height": 0, "problems": []}
    try:
        head = header(path)
        why = head.why or _damage(path)
    except OSError as error:
        return answer | {"problems": [_problem("broken", f"Cannot be read: {error.strerror or error}.")]}
    if why:
        return answer | {"problems": [_problem("broken", f"Cannot be used: it {why}. Training leaves it out.")]}
    width, height = head.size
    wanted = resolution[0] * resolution[1]
    problems = []
    if width * height < wanted:
        share = round(100 * (width * height / wanted) ** 0.5)
        text = (
            f"Smaller than {resolution[0]} × {resolution[1]} ({share} % of its sides): it is enlarged, and looks soft."
        )
        problems.append(_problem("small", text))
    if _turned(path):
        problems.append(_problem("turned", "Stored sideways or mirrored (EXIF); it is trained the right way up."))
    if head.note:
        problems.append(_problem("named", f"It {head.note}."))
    return answer | {"width": width, "height": height, "problems": problems}


def _problem(kind: str, text: str) -> dict[str, str]:
    return {"kind": kind, "text": text}


@once_per_file
def _damage(path: Path) -> str:
    try:
        check_pixels(path)
    except Unreadable as error:
        return str(error)
    return ""


@once_per_file
def _turned(path: Path) -> bool:
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # decoders meet broken metadata with every kind of exception there is
        return False


def duplicates(root: Path) -> list[list[str]]:
    """Groups of pictures whose files are the same, byte for byte."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for part in parts(root):
        for path in part.pictures:
            with suppress(OSError):
                by_size[path.stat().st_size].append(path)
    by_content: dict[str, list[str]] = defaultdict(list)
    for same in by_size.values():
        for path in same if len(same) > 1 else ():
            with suppress(OSError):
                by_content[digest(path)].append(str(path))
    return [group for group in by_content.values() if len(group) > 1]


@once_per_file
def digest(path: Path) -> str:
    """What tells the content of a file from every other."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Captions.


def ending(extension: str) -> str:
    """The extension, if caption files can have it. Raises `Refused`."""
    problem = next(extension_problem(extension, "caption_extension", "Caption file extension"), None)
    if problem is not None or not all(sign.isalnum() or sign in ".-_" for sign in extension) or len(extension) > 20:
        raise Refused(f"{problem or f'Caption file extension: {extension!r} is no ending, such as .txt.'}", "extension")
    return extension


def allowed_picture(text: str) -> Path:
    """A picture file that the page may use. Raises `Refused`."""
    path = Path(text) if text and "\0" not in text else Path()
    if not path.is_absolute() or not is_picture(path.name) or not paths.is_allowed(path):
        raise Refused(f"{path.name or 'This'} is not a picture in a folder that the page may use; see --allow.")
    if not path.is_file():
        raise Refused(f"{path.name} is no longer there.")
    return path


def caption_file(picture: Path, extension: str) -> Path:
    """Where the caption of a picture is or would be; endings and names are compared without regard to case."""
    usual = picture.with_suffix(extension)
    if not usual.exists():
        wanted = usual.name.lower()
        with suppress(OSError):
            return next((path for path in picture.parent.iterdir() if path.name.lower() == wanted), usual)
    return usual


def read(picture: Path, extension: str) -> Caption:
    """The caption beside a picture."""
    path = caption_file(picture, extension)
    if path.is_symlink() and not paths.is_allowed(path):
        return Caption(None, "", f"{path.name} leads out of the folders that the page may use.")
    try:
        data = path.read_bytes()
        found = read_caption(path)
    except FileNotFoundError:
        return Caption(None, "")
    except OSError as error:
        return Caption(None, "", f"{path.name} cannot be read: {error.strerror or error}.")
    if found.why:
        return Caption(None, "", f"{path.name} {found.why}.")
    note = f"Not in UTF-8, read as {found.encoding}; saving writes UTF-8." if found.encoding else ""
    return Caption(found.text, hashlib.sha256(data).hexdigest()[:24], note)


def save(picture: Path, extension: str, text: str, version: str) -> Caption:
    """Write a caption in one piece; returns it as it is now.

    Raises `Changed` when the file is not the `version` that was edited (unless it says the same), `Refused` when it
    cannot be written. A picture without a file stays so while there are no words; an emptied caption is an empty file.
    """
    text = text.replace("\r\n", "\n").strip()
    if len(text) > LONGEST_CAPTION or "\0" in text:
        raise Refused(f"A caption has at most {LONGEST_CAPTION} letters.")
    path = caption_file(picture, ending(extension))
    if not paths.is_allowed(path):
        raise Refused(f"{path.name} leads out of the folders that the page may use.")
    with _writing:
        now = read(picture, extension)
        if (now.text or "") == text:
            return now
        if now.version != version:
            raise Changed(now.text, now.version)
        try:
            write_text(path, text + "\n" if text else "")
        except OSError as error:
            raise Refused(f"{path.name} cannot be written: {error.strerror or error}.") from error
    return read(picture, extension)


# Removing, and bringing back.


def remove(picture: Path, extension: str = ".txt") -> dict[str, str]:
    """Move a picture and its captions into the bin folder beside it; returns it as `removed` lists it.

    A caption that another picture shares (cat.png and cat.jpg) stays. Raises `Refused`.
    """
    refuse_in_use(picture.parent)
    place = picture.parent / BIN / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**9:09d}"
    others = (path for path in picture.parent.iterdir() if is_picture(path.name) and path.name != picture.name)
    shared = any(path.stem == picture.stem for path in others)
    captions = {picture.with_suffix(name) for name in (*CAPTION_ENDINGS, ending(extension))} if not shared else set()
    try:
        place.mkdir(parents=True)
        for path in (*captions, picture):
            if path.exists():
                os.rename(path, place / path.name)
    except OSError as error:
        raise Refused(f"{picture.name} cannot be moved: {error.strerror or error}.") from error
    return {"name": picture.name, "path": str(place / picture.name), "home": str(picture.parent)}


def removed(folder: Path) -> list[dict[str, str]]:
    """The pictures in the bin of a folder, newest first."""
    try:
        places = sorted((folder / BIN).iterdir(), reverse=True)
        found = [
            path for place in places if place.is_dir() for path in sorted(place.iterdir()) if is_picture(path.name)
        ]
    except OSError:
        return []
    return [{"name": path.name, "path": str(path), "home": str(folder)} for path in found]


def restore(picture: Path) -> Path:
    """Bring a removed picture and its captions back; returns where it is. Raises `Refused`."""
    place = picture.parent
    if place.parent.name != BIN:
        raise Refused(f"{picture.name} is not in a bin.")
    home = place.parent.parent
    inside = sorted(place.iterdir())
    for path in inside:
        if (home / path.name).exists():
            raise Refused(f"{path.name} is there already; rename it first, then bring this one back.")
    try:
        for path in inside:
            os.rename(path, home / path.name)
    except OSError as error:
        raise Refused(f"{picture.name} cannot be moved back: {error.strerror or error}.") from error
    with suppress(OSError):
        place.rmdir()
        place.parent.rmdir()  # refused while others are in it
    return home / picture.name
