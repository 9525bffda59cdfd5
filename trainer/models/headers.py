"""The tensors a model file claims to hold, read from its header: names, shapes, and whether it is whole. No torch."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer.models.pickled import shapes_in_checkpoint

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor by its key."""

LARGEST_HEADER = 100_000_000
"""What the safetensors format allows, in bytes."""


class Broken(ValueError):
    """A file that cannot be read as what it claims to be; the text is a sentence without its subject."""


def read_shapes(path: Path) -> tuple[str, Shapes]:
    """("safetensors" or "ckpt", shapes of the tensors) of a file, judged by its content. Raises `Broken`.

    A file that has not changed since it was last looked at is not read again.
    """
    state = path.stat()
    return _shapes_of(path, state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)


@lru_cache(8)
def _shapes_of(path: Path, *stamp: int) -> tuple[str, Shapes]:
    if path.stat().st_size == 0:
        raise Broken("is empty (0 bytes).")
    with path.open("rb") as file:
        start = file.read(256)
    if not _is_safetensors(start):
        for beginning, what in OTHER_CONTENTS.items():
            if start.lstrip().startswith(beginning):
                raise Broken(what)
        if start.startswith(b"PK"):
            return "ckpt", _in_checkpoint(path)
    return "safetensors", shapes_in_safetensors(path)


OTHER_CONTENTS = {
    b"version https://git-lfs": "is only a pointer to the model (git-lfs); download the model itself.",
    b"<": "is a web page, not a model; the download went wrong.",
    b"\x80": "is a checkpoint in a format from before 2020, which is not read here.",
}


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER


def _in_checkpoint(path: Path) -> Shapes:
    try:
        return shapes_in_checkpoint(path)
    except ValueError as error:
        raise Broken(str(error)) from None


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and the offset of its data. Raises `Broken` if it is none or is cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        if not start:
            raise Broken("is empty (0 bytes).")
        if not _is_safetensors(start):
            raise Broken("is not a model.")
        length = int.from_bytes(start[:8], "little")
        if 8 + length > size:
            raise Broken(f"is cut off: its header alone needs {8 + length} bytes, the file has {size}.")
        file.seek(8)
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise Broken("is not a model: its header is damaged.") from None
    if not isinstance(header, dict):
        raise Broken("is not a model: its header is damaged.")
    return header, 8 + length


def shapes_in_safetensors(path: Path) -> Shapes:
    """Shapes of the tensors of a safetensors file whose data is all there. Raises `Broken` otherwise."""
    header, start = read_header(path)
    entries = {key: entry for key, entry in header.items() if key != "__metadata__"}
    try:
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        shapes = {key: tuple(map(int, entry["shape"])) for key, entry in entries.items()}
    except (KeyError, TypeError, IndexError, ValueError, OverflowError):
        raise Broken("is not a model: its header is damaged.") from None
    size = path.stat().st_size
    if start + end > size:
        raise Broken(f"is cut off: it needs {start + end} bytes and has {size}. Download it again.")
    return shapes
