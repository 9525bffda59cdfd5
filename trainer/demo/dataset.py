"""The demo's data set: pictures of the creature to train on, and plain shapes that keep the model's memory fresh."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.demo.creature import draw_creature
from trainer.demo.pictures import describe, draw, scenes

CONCEPT = "sks creature"
REPEATS = 10
# Two pictures on each background; yellow is left for the samples, to see the creature where it never was.
BACKGROUNDS = ("red", "blue", "green", "white", "purple", "black", "orange")
FORMATS = (".png", ".png", ".jpg", ".png", ".webp")  # in turn
SHAPES = 28
JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}
WEBP: dict[str, Any] = {"lossless": True}


@dataclass(frozen=True)
class DemoFolders:
    """What goes into "Image folder" and "Regularisation directory"."""

    images: Path
    regularisation: Path


def install_demo(folder: Path) -> DemoFolders:
    """Put the data set into `folder`, unless it is there already: then nothing is touched, captions and all.

    Each half is written under a temporary name and renamed, so an interrupted installation leaves nothing half done."""
    folders = DemoFolders(folder / "images", folder / "regularisation")
    _install(folders.images, _write_creatures)
    _install(folders.regularisation, _write_shapes)
    return folders


def _install(folder: Path, write: Callable[[Path], None]) -> None:
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(temporary / folder.name)
        os.replace(temporary / folder.name, folder)
    except OSError:
        if not folder.exists():  # otherwise somebody else was quicker
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_creatures(folder: Path) -> None:
    pictures = folder / f"{REPEATS}_{CONCEPT}"
    pictures.mkdir(parents=True)
    for number, background in enumerate(BACKGROUNDS * 2, 1):
        name = f"creature{number:02}{FORMATS[number % len(FORMATS)]}"
        save_picture(draw_creature(background, number), pictures / name)


def _write_shapes(folder: Path) -> None:
    pictures = folder / "1_shapes"
    pictures.mkdir(parents=True)
    known = scenes(7)
    for number, scene in enumerate(itertools.islice(known, SHAPES), 1):
        save_picture(draw(scene), pictures / f"shape{number:02}.png")
        (pictures / f"shape{number:02}.txt").write_text(describe(scene) + "\n", encoding="utf-8")


def save_picture(picture: Image.Image, file: Path) -> None:
    """Save in the format of the ending, as good as it gets."""
    options = {".jpg": JPEG, ".webp": WEBP}.get(file.suffix, {})
    picture.save(file, **options)
