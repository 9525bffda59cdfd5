"""Masks: what inpainting models learn to fill in, and what of a picture counts with "Masked loss"."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from trainer.data.folders import Source, as_folder, counted, listing, some_names
from trainer.data.images import Pixels, Unreadable, fit, has_alpha, open_alpha, open_picture
from trainer.report import Failure
from trainer.settings import Settings

if TYPE_CHECKING:
    from trainer.data.buckets import Placement
    from trainer.data.dataset import Picture

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Shares = np.ndarray[Any, np.dtype[np.float32]]

WHOLE = 0.25
"""Share of pictures of which everything is hidden, as the inpainting models of Stable Diffusion were trained."""


def loss_mask(picture: "Picture", placement: "Placement", cell: int, alpha: bool = True) -> Shares | None:
    """How much each latent of a picture counts (`mask_pixels`, `shares`); `None` where all counts."""
    pixels = mask_pixels(picture, placement, alpha)
    return None if pixels is None else shares(pixels, cell)


def mask_pixels(picture: "Picture", placement: "Placement", alpha: bool = True) -> Pixels | None:
    """How much each pixel of a picture counts, placed as the picture is: uint8 [height, width], 255 is fully.

    That is the red of its mask; without one how opaque it is, if `alpha` is asked for; `None` where all counts. A mask
    of another size is stretched over the picture. Raises `Failure` if a file changed since it was looked at first.
    """
    path = picture.mask or picture.path
    try:
        if picture.mask is not None:
            image = open_picture(picture.mask)
        elif alpha and has_alpha(path):
            image = open_alpha(path)
        else:
            return None
    except (Unreadable, OSError) as error:
        why = error if isinstance(error, Unreadable) else "is no longer there"
        raise Failure(f"{path} {why}.", "It was readable before. Mend or remove it, and start again.") from error
    if picture.mask is None and image.size != picture.size:
        raise Failure(f"{path} was changed while the run was on.", "Start again to train on it as it is now.")
    return np.ascontiguousarray(fit(image, placement)[..., 0])


def shares(pixels: Pixels, cell: int) -> Shares:
    """How much each latent counts, 0 to 1: the mean over its `cell` × `cell` pixels. float32 [h / cell, w / cell]."""
    height, width = pixels.shape
    parts = (pixels.astype(np.float32) / 255).reshape(height // cell, cell, width // cell, cell)
    result: Shares = parts.mean((1, 3))
    return result


def masks_for(source: Source, run: Settings) -> dict[str, Path]:
    """The masks of a folder's pictures by stem, in small letters; {} where no masks are asked for.

    They stand in "Mask folder" or in a folder in it that is named like the one of the pictures, which comes first.
    Regularisation pictures have masks only there, unless a dataset config gives them a mask folder of their own.
    """
    own = source.under(run)
    if not own.masked_loss or not own.conditioning_data_dir.strip():
        return {}
    folder = as_folder(own.conditioning_data_dir)
    places = [folder, folder / source.folder.path.name][source.is_reg and source.settings is None :]
    return {path.stem.lower(): path for place in places for path in _pictures_in(place)}


def _pictures_in(folder: Path) -> tuple[Path, ...]:
    try:
        return listing(folder).pictures
    except (OSError, ValueError):  # `folder_of_masks` says it on the field
        return ()


def without_mask(pictures: Sequence["Picture"], own: Settings) -> list[str]:
    """A sentence on the pictures that have no mask where others have; [] when there is none."""
    missing = [picture.path for picture in pictures if picture.mask is None]
    if not missing:
        return []
    verb = "has" if len(missing) == 1 else "have"
    so = "its transparency decides" if own.alpha_mask else "all of it counts"
    return [
        f"{len(missing)} of {counted(len(pictures))} {verb} no mask in {own.conditioning_data_dir}, so for each "
        f"{so}: {some_names(missing)}."
    ]


def folder_of_masks(s: Settings) -> str:
    """Why no mask can be had from "Mask folder", a sentence; "" when there are some or none are asked for."""
    text = s.conditioning_data_dir
    if not s.masked_loss or not text.strip():
        return ""
    folder = as_folder(text)
    try:
        inside = listing(folder)
        if inside.pictures or any(_pictures_in(below) for below in inside.folders):
            return ""
    except FileNotFoundError:
        return f"there is no folder {folder}."
    except (OSError, ValueError) as error:
        return f"{folder} cannot be read ({getattr(error, 'strerror', None) or error})."
    return f"no pictures in {folder}; each mask is a picture with the name of the one it belongs to."


def draw_mask(width: int, height: int, rng: np.random.Generator) -> Mask:
    """bool [height, width], True where the picture is hidden: all of it, or one to four large shapes.

    The shapes are of the large kind that teaches to invent and not only to mend (Suvorov et al. 2022,
    "Resolution-robust large mask inpainting", section 3.2).
    """
    if rng.random() < WHOLE:
        return np.ones((height, width), np.bool_)
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        SHAPES[int(rng.integers(len(SHAPES)))](draw, width, height, rng)
    return np.array(image, np.bool_)


def _box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A box of an eighth of each side up to all of it, its middle anywhere in the picture."""
    across, down = (side * rng.uniform(0.125, 1) for side in (width, height))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    return x - across / 2, y - down / 2, x + across / 2, y + down / 2


def _rectangle(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    draw.rectangle(_box(width, height, rng), fill=1)


def _ellipse(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    draw.ellipse(_box(width, height, rng), fill=1)


def _stroke(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """A wide brush that turns a few times."""
    thick = max(2, round(min(width, height) * rng.uniform(0.08, 0.25)))
    corners = [(rng.uniform(0, width), rng.uniform(0, height)) for _ in range(int(rng.integers(2, 6)))]
    draw.line(corners, fill=1, width=thick, joint="curve")
    for x, y in corners:
        draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=1)


SHAPES = (_rectangle, _ellipse, _stroke)
