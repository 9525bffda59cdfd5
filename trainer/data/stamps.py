"""What was read from a file, remembered until the file changes; it makes looking again at a folder cheap."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LIMIT = 200_000
"""Files remembered before forgetting all and starting over; a bound on memory, not something one meets."""


def once_per_file(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """`read(path)`, called again only when the file's times, length or identity differ. `OSError` if it is gone."""
    seen: dict[str, tuple[tuple[int, ...], T]] = {}

    @wraps(read)
    def remembered(path: Path) -> T:
        state = os.stat(path)
        stamp = (state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)
        known = seen.get(os.fspath(path))
        if known is not None and known[0] == stamp:
            return known[1]
        result = read(path)
        if len(seen) >= LIMIT:
            seen.clear()
        seen[os.fspath(path)] = stamp, result
        return result

    return remembered
