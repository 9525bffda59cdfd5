"""Which caption belongs to which picture of a folder, and what was odd about the files."""

from collections.abc import Iterable
from pathlib import Path

from trainer.data.captions import first_line, read_caption
from trainer.data.folders import NamedFolder, counted, some_names

CAPTION_ENDINGS = (".txt", ".caption", ".cap")
"""Where captions stand when they do not stand where the settings say."""


class CaptionFinder:
    """Finds the captions of one folder's pictures, and remembers what was odd."""

    def __init__(self, folder: NamedFolder, files: Iterable[str], extension: str, whole: bool = False) -> None:
        """With `whole` all lines of a caption are kept, for wildcards to choose from; else the first."""
        self.folder, self.whole = folder, whole
        self.extension = "." + extension.strip().lstrip(".")
        self.files = {name.lower(): name for name in files} | {name: name for name in files}
        self.missing: list[Path] = []
        self.empty: list[Path] = []
        self.longer: list[Path] = []
        self.unread: list[tuple[Path, str]] = []
        self.guessed: dict[str, list[Path]] = {}
        self.elsewhere: dict[str, int] = {}

    def of(self, picture: Path) -> tuple[str, Path | None]:
        """(caption, its file), the folder's concept and None where there is no file to read."""
        path = self._file(picture, self.extension)
        if path is None:
            self.missing.append(picture)
            for ending in CAPTION_ENDINGS:
                if self._file(picture, ending):
                    self.elsewhere[ending] = self.elsewhere.get(ending, 0) + 1
            return self.folder.concept, None
        try:
            read = read_caption(path)
        except OSError as error:
            self.unread.append((path, f"cannot be read ({error.strerror or error})"))
            return self.folder.concept, None
        if read.why:
            self.unread.append((path, read.why))
            return self.folder.concept, None
        if read.encoding:
            self.guessed.setdefault(read.encoding, []).append(path)
        caption = read.text if self.whole else first_line(read.text)
        if not caption:
            self.empty.append(path)
        elif caption != read.text:
            self.longer.append(path)
        return caption, path

    def _file(self, picture: Path, ending: str) -> Path | None:
        wanted = picture.stem + ending
        name = self.files.get(wanted) or self.files.get(wanted.lower())
        return None if name is None else self.folder.path / name

    def notes(self, pictures: int) -> list[str]:
        """What was odd, in sentences that name the files."""
        notes = []
        if self.missing:
            concept, origin = self.folder.concept, self.folder.origin
            given = f"the caption “{concept}” from {origin}" if concept else "no caption"
            verbs = ("has", "gets") if len(self.missing) == 1 else ("have", "get")
            share = f"{len(self.missing)} of {counted(pictures)}"
            way = " Caption images, under Utilities, writes them." if len(self.missing) == pictures else ""
            notes.append(f"{share} {verbs[0]} no {self.extension} file and {verbs[1]} {given}.{way}")
            notes += [
                f"Files ending in {ending} stand beside {count} of them, but Caption file extension is "
                f"{self.extension}."
                for ending, count in self.elsewhere.items()
            ]
        if self.empty:
            notes.append(f"{some_names(self.empty)}: empty, so trained without words.")
        if self.longer:
            notes.append(f"{some_names(self.longer)}: only the first line is used.")
        instead = f"“{self.folder.concept}”" if self.folder.concept else "no caption"
        notes += [f"{path.name} {why}; {instead} is used." for path, why in self.unread]
        notes += [
            f"{some_names(paths)}: not in UTF-8, read as {encoding}; save as UTF-8 if letters are wrong."
            for encoding, paths in self.guessed.items()
        ]
        return notes
