"""Small pictures of large ones, turned as EXIF says, kept on disk so that each is made once. (no gradio)"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

from trainer.runfolder import replace
from trainer.workspace import workspace

SIZES = (64, 96, 128, 192, 256, 320, 512, 768, 1024)
"""Longer sides that are made; others are rounded up."""
KEEP = 60 * 86400.0
"""Seconds that a thumbnail nobody asked for is kept."""
_at_once = threading.BoundedSemaphore(min(4, os.cpu_count() or 1))


def thumbnail(path: Path, size: int) -> Path:
    """The file of a WebP picture of `path` whose longer side is at most `size` rounded up to the next of `SIZES`.

    Raises `ValueError` with a sentence when `path` is not a picture that can be read, `OSError` when it is not there.
    """
    side = next((step for step in SIZES if step >= size), SIZES[-1])
    facts = path.stat()
    key = f"{path.resolve()}|{facts.st_mtime_ns}|{facts.st_size}|{side}"
    name = hashlib.sha256(key.encode("utf-8", errors="surrogatepass")).hexdigest()[:40]
    made = workspace().thumbnails / name[:2] / f"{name}.webp"
    if made.exists():
        with suppress(OSError):
            os.utime(made)
    else:
        with _at_once:
            _make(path, side, made)
    return made


def _make(path: Path, side: int, made: Path) -> None:
    from PIL import Image, ImageOps

    made.parent.mkdir(parents=True, exist_ok=True)
    temporary = made.with_name(f".{made.name}.{threading.get_ident()}.{time.monotonic_ns()}.tmp")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                picture.draft("RGB", (side * 2, side * 2))  # JPEG: decode no more than needed
                picture.thumbnail((side * 2, side * 2), Image.Resampling.BOX, reducing_gap=None)
                turned = ImageOps.exif_transpose(picture)
                small = turned.convert("RGBA" if turned.has_transparency_data else "RGB")
                small.thumbnail((side, side), Image.Resampling.LANCZOS)
                small.save(temporary, "WEBP", quality=84, method=2)
        replace(temporary, made)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{path.name} is too large to be shown.") from None
    except (OSError, SyntaxError, ValueError, ArithmeticError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path.name} is not a picture that can be read: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def forget_old() -> None:
    """Delete thumbnails that nobody asked for in a long time."""
    for file in workspace().thumbnails.glob("*/*"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > KEEP:
                file.unlink()
