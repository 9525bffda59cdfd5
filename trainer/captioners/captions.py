"""Caption files beside pictures: finding them, joining their parts, and writing them without losing what was there."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from trainer.data.images import is_picture
from trainer.declare import Problem, Section, by_name, setting
from trainer.report import Failure, Reporter


class Pictures(Section):
    """Which pictures are captioned, and what becomes of captions that are there."""

    title: ClassVar[str] = "Pictures and captions"

    image_folder: str = setting(
        "", "Image folder to caption", "The inner folder, the one with the pictures, such as 10_cat.", kind="folder"
    )
    caption_extension: str = setting(
        ".txt",
        "Caption file extension",
        "cat.png is described by cat.txt.",
        choices=(".txt", ".caption", ".cap", ".wd14.txt"),
        custom=True,
    )
    overwrite_captions: bool = setting(
        False,
        "Overwrite existing captions in folder",
        "Off: pictures that have a caption keep it. What is replaced is kept with the run.",
    )


KNOWN = by_name(Pictures)

MANY = 20_000
"""So many pictures are counted while somebody types; a whole disk would take minutes."""


def picture_problems(s: Pictures, recursive: bool = False) -> Iterator[Problem]:
    """Why these pictures cannot be captioned, or not with files of this ending."""
    yield from folder_problem(s.image_folder, "image_folder", KNOWN["image_folder"].label, recursive)
    yield from extension_problem(s.caption_extension, "caption_extension", KNOWN["caption_extension"].label)


def picture_plan(s: Pictures, recursive: bool = False) -> dict[str, Any]:
    """How many pictures there are to go through; in sub-folders not more than `MANY` are counted."""
    path = Path(s.image_folder).expanduser()
    images = 0
    if s.image_folder.strip() and path.is_dir():
        images = sum(1 for _ in islice(_below(path), MANY)) if recursive else len(picture_files(path))
    at_least = "at least " if recursive and images == MANY else ""
    return {"images": images, "sentence": f"{at_least}{images} picture{'s' if images != 1 else ''} to caption"}


def picture_files(folder: Path, recursive: bool = False) -> list[Path]:
    """Pictures directly in `folder`; where there are none, those of its sub-folders (the parent was chosen).

    `recursive`: all pictures in it and below. Hidden folders are passed over.
    """
    if recursive:
        return list(_below(folder))
    return _inside(folder) or [path for sub in _subfolders(folder) for path in _inside(sub)]


def _below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:  # a link that leads back
        return
    yield from _inside(folder)
    for sub in _subfolders(folder):
        yield from _below(sub, above | {real})


def _inside(folder: Path) -> list[Path]:
    return _sorted(path for path in folder.iterdir() if path.is_file() and is_picture(path.name))


def _subfolders(folder: Path) -> list[Path]:
    return _sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _sorted(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.name.lower())


def folder_problem(folder: str, key: str, label: str, recursive: bool = False) -> Iterator[Problem]:
    """Why there is nothing to caption."""
    if not folder.strip():
        yield Problem(key, label, "choose the folder that holds your pictures.")
        return
    path = Path(folder).expanduser()
    try:
        if not path.exists():
            yield Problem(key, label, f"there is no folder {folder}.")
        elif not path.is_dir():
            fix = {key: str(path.parent)}
            yield Problem(
                key, label, f"{folder} is a file; choose the folder it is in.", fix, f"Use {path.parent.name}"
            )
        elif not (next(_below(path), None) if recursive else picture_files(path)):
            yield Problem(key, label, f"no pictures in {folder}; expected .png, .jpg, .webp, .bmp or .avif.")
        elif not os.access(path, os.W_OK):
            yield Problem(key, label, f"{folder} cannot be written to, so captions cannot be put beside the pictures.")
    except OSError as error:
        yield Problem(key, label, f"{folder} cannot be read: {error.strerror or error}.")


def extension_problem(extension: str, key: str, label: str) -> Iterator[Problem]:
    """A caption file must not take the place of a picture, or lie in another folder."""
    if not extension.startswith(".") or len(extension) < 2 or "/" in extension or "\\" in extension:
        yield Problem(key, label, f"{extension!r} is no ending; it begins with a dot, such as .txt.")
    elif is_picture("a" + extension):
        yield Problem(key, label, f"{extension} is an ending of pictures; captions would replace them.")


def joined(prefix: str, text: str, postfix: str, separator: str = ", ") -> str:
    """Prefix, text and postfix as one caption, without doubling a part that is there already.

    The separator goes between two parts, unless the first ends with punctuation or a space, or the second begins so: then
    they meet as they were written.
    """
    text = text.strip()
    if prefix.strip() and not _begins_with(text, prefix.strip()):
        text = _join(prefix.lstrip(), text, separator)
    if postfix.strip() and not _begins_with(text[::-1], postfix.strip()[::-1]):
        text = _join(text, postfix.rstrip(), separator)
    return text.strip()


def _begins_with(text: str, part: str) -> bool:
    after = text[len(part) : len(part) + 1]
    return text[: len(part)].lower() == part.lower() and not (after.isalnum() and part[-1:].isalnum())


def _join(first: str, second: str, separator: str) -> str:
    if not first.strip() or not second.strip():
        return first + second
    if first[-1].isspace() or second[0].isspace():
        return f"{first.rstrip()} {second.lstrip()}"
    if first[-1] in ",;:.!?-(" or second[0] in ",;:.!?)":
        return f"{first} {second}" if second[0] not in ",;:.!?)" else f"{first}{second}"
    return f"{first}{separator}{second}"


@dataclass(frozen=True)
class Writer:
    """Writes captions of one run: what is replaced is kept in the run's folder first."""

    report: Reporter
    root: Path
    """The folder that was chosen; pictures lie in it, or in folders below."""
    extension: str
    overwrite: bool

    def file(self, picture: Path) -> Path:
        """Where the caption of a picture is."""
        return picture.with_suffix(self.extension)

    def existing(self, picture: Path) -> str | None:
        """The caption a picture has, None when there is no file."""
        try:
            return self.file(picture).read_text(encoding="utf-8-sig", errors="replace").strip()
        except FileNotFoundError:
            return None

    def keeps(self, picture: Path) -> bool:
        """Whether the caption of a picture stays as it is."""
        return not self.overwrite and bool(self.existing(picture))

    def write(self, picture: Path, text: str) -> str:
        """Put `text` beside the picture; returns what happened: "written", "replaced", "extended" (what was there is how
        it begins) or "same"."""
        before = self.existing(picture)
        if before == text:
            return "same"
        target = self.file(picture)
        if before:
            self._keep(target)
        temporary = target.with_name(f".{target.name}.part")
        try:
            temporary.write_text(text + "\n", encoding="utf-8", newline="\n")
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            reason = f"{target} cannot be written: {error.strerror or error}"
            raise Failure(reason, "Free some space or change the folder's permissions, then start again.") from error
        if not before:
            return "written"
        return "extended" if text.startswith(before) else "replaced"

    @property
    def backup(self) -> Path:
        """Where captions that were replaced are kept."""
        return self.report.folder / "replaced captions"

    def _keep(self, target: Path) -> None:
        kept = self.backup / self.root.resolve().name / target.relative_to(self.root)
        if not kept.exists():  # two pictures of one name share a caption; what stood there at first counts
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(target.read_bytes())


def say_what_happened(report: Reporter, writer: Writer, counts: dict[str, int]) -> None:
    """The end of a captioning run, in words."""
    words = {
        "written": "{} captions written",
        "replaced": "{} replaced",
        "extended": "{} got more words behind those they had",
        "same": "{} already said the same",
        "kept": "{} existing captions kept (tick Overwrite existing captions to replace them)",
        "empty": "{} pictures got none, because there was nothing to write",
        "unreadable": "{} pictures could not be read",
    }
    said = [words[key].format(count) for key, count in counts.items() if count]
    report.note("; ".join(said) + "." if said else "Nothing was written.")
    if counts.get("replaced") or counts.get("extended"):
        report.note(f"What was there before is kept in {writer.backup}.")
