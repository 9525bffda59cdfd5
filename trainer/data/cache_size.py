"""How large the caches of the workspace are, and emptying them of what nobody used lately. Loads no torch.

Everything in them can be made anew: a run that finds nothing, or loses a file while it is on, makes it again.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.workspace import Workspace, workspace

DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Cache:
    """One kind of cached files: how many there are, and their bytes together."""

    name: str
    folder: Path
    files: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.name}: {self.files} file{'' if self.files == 1 else 's'}, {amount(self.bytes)} in {self.folder}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command `cache`: print what there is, or remove what was not used lately."""
    parser = argparse.ArgumentParser(prog="python -m trainer cache", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--empty", nargs="?", type=float, const=0.0, default=None, metavar="DAYS",
        help="remove what was not used in the last DAYS days (0, all of it, when no number is given)",
    )  # fmt: skip
    parser.add_argument("--workspace", metavar="DIR", help="where the caches are")
    arguments = parser.parse_args(argv)
    of = Workspace(Path(arguments.workspace).expanduser().absolute()) if arguments.workspace else workspace()
    for cache in caches(of) if arguments.empty is None else empty(arguments.empty, of):
        print(cache if arguments.empty is None else f"Removed. {cache}")
    return 0


def caches(of: Workspace | None = None) -> list[Cache]:
    """Every kind of cache with its size, whether there is anything in it or not."""
    found = []
    for name, folder in _folders(of or workspace()).items():
        sizes = [state.st_size for _, state in _files(folder)]
        found.append(Cache(name, folder, len(sizes), sum(sizes)))
    return found


def empty(days: float = 0, of: Workspace | None = None) -> list[Cache]:
    """Remove what was not used in the last so many `days`; returns what was removed, by kind.

    Files that cannot be removed, or are gone already, do not matter.
    """
    removed = []
    latest = time.time() - days * DAY
    for name, folder in _folders(of or workspace()).items():
        count = size = 0
        for path, state in _files(folder):
            if state.st_mtime > latest:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                count, size = count + 1, size + state.st_size
        removed.append(Cache(name, folder, count, size))
    return removed


def _folders(of: Workspace) -> dict[str, Path]:
    return {"Latents": of.latents, "Captions": of.captions, "Thumbnails": of.thumbnails}


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files below a folder of the cache; links are neither followed nor listed."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            with contextlib.suppress(OSError):
                if not path.is_symlink():
                    yield path, path.stat()


def amount(size: int) -> str:
    """A number of bytes as people say it: "3.2 MB"."""
    name, unit = next((name, unit) for name, unit in UNITS if size >= unit or unit == 1000)
    return f"{size / unit:.1f} {name}"


UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
