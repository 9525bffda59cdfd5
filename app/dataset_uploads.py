"""What comes into a data set: pictures, captions and zip archives, checked before they get their names. (no gradio)

Nothing that is there is replaced. Each file is written under a temporary name and renamed, so an upload that breaks off
leaves whole files only, and the same upload once more adds what is missing.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from app.dataset_pictures import digest
from app.datasets import REGULARISATION, Refused, name_problem
from trainer.data.caption_finder import CAPTION_ENDINGS
from trainer.data.folders import MOST_REPEATS, read_name
from trainer.data.images import ENDINGS, Unreadable, check_pixels, header, is_picture

MB, GB = 10**6, 10**9
LARGEST = {"picture": 200 * MB, "caption": 1 * MB, "zip": 8 * GB}
"""Bytes that a file of each kind may have."""
UNPACKED = 20 * GB
"""Bytes that the files of one archive may have together."""
MOST_FILES = 20_000
"""Files in one archive or folder."""
SPARE = 300 * MB
"""Bytes that are left free on the disk."""
CHUNK = 1 << 20
NOISE = ("thumbs.db", "desktop.ini", "__macosx")
"""What systems put beside pictures; such files, and hidden ones, are passed over without a word."""
PREFIX = ".incoming-"
_naming = threading.Lock()
_decoding = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class Result:
    """What became of one file: "added", "same" (it is there already), or "refused" and why, in a sentence."""

    name: str
    status: str
    text: str = ""
    folder: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def kind_of(name: str) -> str:
    """ "picture", "caption", "zip", or "" for anything else."""
    suffix = Path(name).suffix.lower()
    return (
        "picture" if is_picture(name) else "caption" if suffix in CAPTION_ENDINGS else "zip" if suffix == ".zip" else ""
    )


def is_noise(parts: Sequence[str]) -> bool:
    """Whether a file is none of the person's own: hidden, or put there by the system."""
    return any(part.startswith(".") or part.lower() in NOISE for part in parts)


def split(relative: str) -> tuple[str, ...]:
    """The parts of a relative path as browsers and archives write it. Raises `Refused` where it leads elsewhere."""
    plain = relative.replace("\\", "/")
    parts = PurePosixPath(plain).parts
    if not parts or plain.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:/", plain) or "\0" in plain:
        raise Refused(f"{relative[:200]!r} is not a name inside a data set.")
    return tuple(part for part in parts if part != ".")


def place(parts: Sequence[str], usual: Path, root: Path) -> Path:
    """The folder that a file belongs into: one named like 10_cat on its way, else `usual`.

    A folder like 10_cat goes beside `usual`, or among the regularisation images if it comes from a folder named so.
    """
    for depth in reversed(range(len(parts) - 1)):
        named = read_name(parts[depth])
        if named and 1 <= named[0] <= MOST_REPEATS and not name_problem(parts[depth]):
            reg = any(part.lower().startswith(REGULARISATION) for part in parts[:depth])
            reg_home = root / "reg"
            beside = usual.parent if read_name(usual.name) else usual
            return (reg_home if reg and not usual.is_relative_to(reg_home) else beside) / parts[depth]
    return usual


def refuse_size(kind: str, name: str, size: int, folder: Path) -> None:
    """Raise `Refused` for a file that is too large, or that the disk has no room for."""
    if size > LARGEST[kind]:
        raise Refused(f"{name} is larger than {LARGEST[kind] // MB:,} MB, the most for a {WORDS[kind]}.")
    refuse_full(size, folder)


def refuse_full(size: int, folder: Path) -> None:
    """Raise `Refused` when the disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if size + SPARE > free:
        raise Refused(f"The disk has {free // MB:,} MB free; {size // MB:,} MB and some room to spare are needed.")


WORDS = {"picture": "picture", "caption": "caption", "zip": "zip archive"}


def temporary(folder: Path, suffix: str) -> Path:
    """An empty file beside those that are there, hidden until it gets its name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{PREFIX}{secrets.token_hex(8)}{suffix}"
    file.touch(exist_ok=False)
    return file


def forget_broken(root: Path, older_than: float = 86400.0) -> None:
    """Delete what uploads that broke off a day ago have left."""
    for path in root.rglob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > older_than:
                path.unlink()


def take(file: Path, relative: str, usual: Path, root: Path) -> Iterator[Result]:
    """Give an uploaded temporary file its place; an archive is unpacked. The temporary file is gone afterwards."""
    try:
        parts = split(relative)
        if kind_of(parts[-1]) == "zip":
            yield from unpack(file, parts[-1], usual, root)
        elif not is_noise(parts):
            yield _keep(file, parts, usual, root)
    except Refused as refused:
        yield Result(relative, "refused", str(refused))
    finally:
        file.unlink(missing_ok=True)


def _keep(file: Path, parts: Sequence[str], usual: Path, root: Path) -> Result:
    name = parts[-1]
    check(file, name)
    folder = place(parts, usual, root)
    if not read_name(folder.name):
        raise Refused(f"{name} is in no folder named like 10_cat. Write an Instance prompt, and add it again.")
    folder.mkdir(parents=True, exist_ok=True)
    return Result(name, publish(file, folder / name), "", str(folder))


def check(file: Path, name: str) -> None:
    """Raise `Refused`, naming the file, if it is no picture that opens and no caption that is text."""
    kind = kind_of(name)
    if problem := name_problem(name):
        raise Refused(f"{name}: the name {problem}.")
    if not kind or kind == "zip":
        inside = "an archive inside an archive is not opened" if kind else "only pictures"
        wanted = f"({ENDINGS}), captions ({', '.join(CAPTION_ENDINGS)}) and zip archives are taken"
        raise Refused(f"{name}: {inside}." if kind else f"{name}: {inside} {wanted}.")
    refuse_size(kind, name, file.stat().st_size, file.parent)
    if kind == "picture":
        with _decoding:
            why = header(file).why
            try:
                if not why:
                    check_pixels(file)
            except Unreadable as error:
                why = str(error)
        if why:
            raise Refused(f"{name} {why}.")
    elif not _is_text(file):
        raise Refused(f"{name} is not text, so it is no caption.")


def _is_text(file: Path) -> bool:
    data = file.read_bytes()
    return b"\0" not in data or data[:2] in (b"\xff\xfe", b"\xfe\xff")


def publish(file: Path, target: Path) -> str:
    """Rename a finished temporary file to `target`: "added", or "same" when that is there. Raises `Refused`."""
    with _naming:
        if target.exists():
            if target.is_file() and digest(target) == digest(file):
                return "same"
            raise Refused(
                f"{target.name} is there already, and is another file; it was left as it is. "
                "Rename yours and add it again."
            )
        os.replace(file, target)
    return "added"


# Archives.


def unpack(archive: Path, name: str, usual: Path, root: Path) -> Iterator[Result]:
    """The pictures and captions of a zip archive. Raises `Refused`, before anything is written, if it is not sound."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, name, usual)
            for number, (member, parts) in enumerate(members):
                yield _member(opened, member, parts, usual, root, number)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, EOFError) as error:
        raise Refused(f"{name} is damaged or not a zip archive ({error}).") from error


def _members(opened: zipfile.ZipFile, name: str, usual: Path) -> list[tuple[zipfile.ZipInfo, tuple[str, ...]]]:
    members = [member for member in opened.infolist() if not member.is_dir()]
    found = []
    for member in members:
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Refused(f"{name} holds a link ({member.filename[:100]}); nothing was unpacked.")
        try:
            parts = split(member.filename)
        except Refused:
            raise Refused(
                f"{name} holds a path that leads out of it ({member.filename[:100]}); nothing was unpacked."
            ) from None
        if not is_noise(parts):
            found.append((member, parts))
    if any(member.flag_bits & 1 for member, _ in found):
        raise Refused(f"{name} has a password; pack it without one.")
    if len(found) > MOST_FILES:
        raise Refused(f"{name} holds {len(found):,} files; {MOST_FILES:,} is the most.")
    total = sum(member.file_size for member, _ in found)
    if total > UNPACKED:
        raise Refused(f"{name} would be {total // MB:,} MB unpacked; {UNPACKED // MB:,} MB is the most.")
    refuse_full(total, usual)
    return found


def _member(
    opened: zipfile.ZipFile, member: zipfile.ZipInfo, parts: Sequence[str], usual: Path, root: Path, number: int
) -> Result:
    name = parts[-1]
    kind = kind_of(name)
    limit = LARGEST["picture" if kind != "caption" else "caption"]
    try:
        if kind not in ("picture", "caption"):
            check(Path(), name)  # says why such a file is not taken
        if member.file_size > limit:
            raise Refused(f"{name} is larger than {limit // MB:,} MB.")
        file = temporary(usual, Path(name).suffix)
        try:
            with opened.open(member) as source, file.open("wb") as sink:
                _copy(source, sink, min(limit, member.file_size), name)
            return _keep(file, parts, usual, root)
        finally:
            file.unlink(missing_ok=True)
    except Refused as refused:
        return Result(name, "refused", str(refused))
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        return Result(name, "refused", f"{name} cannot be unpacked ({error}).")
    except Exception as error:  # zlib and lzma raise errors of their own
        return Result(name, "refused", f"{name} is damaged in the archive ({error}).")


def _copy(source: Any, sink: Any, most: int, name: str) -> None:
    """Copy, and stop where there is more than the archive says: what unpacks to more than it tells is no honest one."""
    count = 0
    while block := source.read(CHUNK):
        count += len(block)
        if count > most:
            raise Refused(f"{name} is larger than the archive says; it was not unpacked.")
        sink.write(block)


# Folders of this machine.


def copy_folder(source: Path, usual: Path, root: Path) -> Iterator[tuple[int, int, Result | None]]:
    """Copy pictures and captions of `source` and the folders in it: (done, of how many, what became of the last).

    The source is only read. Raises `Refused` where one of both lies in the other.
    """
    here, there = source.resolve(), root.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise Refused(f"{source} and the data set lie in each other; choose a folder outside of {root}.", "source")
    files = sorted(_files(source))
    if not files:
        raise Refused(f"There are no pictures in {source}; expected {ENDINGS}.", "source")
    if len(files) > MOST_FILES:
        raise Refused(
            f"{source} holds more than {MOST_FILES:,} pictures and captions; choose a folder inside it.", "source"
        )
    refuse_full(sum(path.stat().st_size for path in files), root)
    return _copied(source, files, usual, root)


def _copied(source: Path, files: Sequence[Path], usual: Path, root: Path) -> Iterator[tuple[int, int, Result | None]]:
    yield 0, len(files), None
    for number, path in enumerate(files):
        file = temporary(usual, path.suffix)
        try:
            shutil.copyfile(path, file)
            result = _keep(file, path.relative_to(source).parts, usual, root)
        except Refused as refused:
            result = Result(path.name, "refused", str(refused))
        except OSError as error:
            result = Result(path.name, "refused", f"{path.name} cannot be copied: {error.strerror or error}.")
        finally:
            file.unlink(missing_ok=True)
        yield number + 1, len(files), result


def _files(folder: Path) -> Iterator[Path]:
    """Pictures and captions in and below a folder; links to folders and hidden things are left out."""
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_noise((name,)))
        for name in names:
            if not is_noise((name,)) and kind_of(name) in ("picture", "caption"):
                yield Path(above, name)
