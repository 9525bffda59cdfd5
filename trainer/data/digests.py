"""What is in files, by SHA-256, remembered from run to run for as long as they are not touched."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

Stamp = list[int]

SETTLED = 2_000_000_000
"""Nanoseconds a file must have been left alone: a disk's clock may not tell two changes apart that come at once."""

MOST = 200_000
"""Files remembered; those used longest ago are forgotten first."""


class Digests:
    """Digests by path, kept in one small file. What cannot be read or written is simply not remembered."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._known: dict[str, tuple[Stamp, str]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            if file is not None:
                found = json.loads(file.read_text(encoding="utf-8"))
                self._known = {str(path): (list(stamp), str(digest)) for path, (stamp, digest) in found.items()}
        self._new: dict[str, tuple[Stamp, str]] = {}

    def known(self, path: Path) -> str | None:
        """The digest of a file that has not been touched since it was read, without reading it."""
        stamp, digest = self._known.get(str(path.absolute()), ([], ""))
        try:
            return digest if digest and stamp == _stamp(path) else None
        except OSError:
            return None

    def read(self, path: Path) -> tuple[bytes, str]:
        """The bytes of a file and their digest, which is remembered. Raises `OSError`."""
        stamp = _stamp(path)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if time.time_ns() - max(stamp[:2]) > SETTLED:
            self._new[str(path.absolute())] = stamp, digest
        return data, digest

    def save(self) -> None:
        """Write down what is new, beside what others wrote since."""
        if self.file is None or not self._new:
            return
        everything = {**Digests(self.file)._known, **self._new}
        temporary = self.file.with_name(f"{self.file.name}.{os.getpid()}.tmp")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(dict(list(everything.items())[-MOST:])), encoding="utf-8")
            os.replace(temporary, self.file)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._known, self._new = everything, {}


def _stamp(path: Path) -> Stamp:
    state = path.stat()
    return [state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino]
