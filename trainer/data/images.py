"""Picture files: which there are, how large they are, and their pixels as the model is to see them.

A picture is turned as its EXIF orientation says, transparency lies on white, palettes, greys, CMYK and 16 bits become
8-bit RGB, and of an animation the first frame counts.
"""

import codecs
import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image

from trainer.data.stamps import once_per_file

if TYPE_CHECKING:
    from trainer.data.buckets import Placement

KINDS = {
    ".png": ("PNG",),
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".webp": ("WEBP",),
    ".bmp": ("BMP", "DIB"),
    ".avif": ("AVIF",),
}
"""Endings of picture files (in any case), and what such a file should hold."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "AVIF", "GIF", "TIFF")
"""What a file may hold whatever its name says; decoders of other formats are never tried. JPEG's also opens MPO."""

ENDINGS = ", ".join(KINDS)

LONGEST = 50
"""A picture longer than this many times its width is a line or a mistake; no bucket could show it."""

T = Image.Transpose
TURNS = {
    2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE,
    6: T.ROTATE_270, 7: T.TRANSVERSE, 8: T.ROTATE_90,
}  # fmt: skip
"""What makes a picture upright, by EXIF orientation."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Unreadable(Exception):
    """A picture cannot be used; the text says why and goes on from the file's name: "is empty (0 bytes)"."""


@dataclass(frozen=True)
class Header:
    """What a file's beginning tells: the upright (width, height), or `why` it is unusable; `note` if it is misnamed."""

    size: tuple[int, int] = (0, 0)
    note: str = ""
    why: str = ""


def is_picture(name: str) -> bool:
    """Whether a file of this name is looked at; hidden files (and the "._" companions some systems leave) are not."""
    return not name.startswith(".") and Path(name).suffix.lower() in KINDS


@once_per_file
def header(path: Path) -> Header:
    """Size and kind from the first bytes; a file that is no picture is told by `why`, never by an exception."""
    try:
        with _open(path) as image:
            width, height = image.size
            if _orientation(image, path) >= 5:
                width, height = height, width
            if max(width, height) > LONGEST * min(width, height):
                raise Unreadable(f"is {width} × {height} pixels, far too narrow for a picture")
            return Header((width, height), _misnamed(path, image.format or ""))
    except Unreadable as error:
        return Header(why=str(error))


def open_picture(source: Path | bytes) -> Image.Image:
    """The upright picture in RGB, from a file or its bytes. Raises `Unreadable`."""
    with _open(source) as image:
        try:
            image.load()
            turn = TURNS.get(_orientation(image, source))
            upright = image if turn is None else image.transpose(turn)
            return _rgb(upright)
        except Exception as error:  # decoders meet broken data with every kind of exception there is
            raise Unreadable(f"is damaged ({_reason(error)})") from error


def has_alpha(path: Path) -> bool:
    """Whether a picture may have transparent parts, from its first bytes. Raises `Unreadable`."""
    try:
        return _has_alpha(path)
    except FileNotFoundError as error:
        raise Unreadable("is no longer there") from error


@once_per_file
def _has_alpha(path: Path) -> bool:
    with _open(path) as image:
        return bool(image.has_transparency_data)


def open_alpha(path: Path) -> Image.Image:
    """How opaque the upright picture is, as three equal channels: 255 is opaque. Raises `Unreadable`."""
    with _open(path) as image:
        try:
            alpha = image.convert("RGBA").getchannel("A")
            turn = TURNS.get(_orientation(image, path))
        except Exception as error:  # see open_picture
            raise Unreadable(f"is damaged ({_reason(error)})") from error
    upright = alpha if turn is None else alpha.transpose(turn)
    return Image.merge("RGB", (upright, upright, upright))


def check_pixels(path: Path) -> None:
    """Decode the whole file, as cheaply as its format allows. Raises `Unreadable`."""
    with _open(path) as image:
        try:
            image.draft("RGB", (1, 1))  # a JPEG is read to its end, but only an eighth of its size is calculated
            image.load()
        except Exception as error:
            raise Unreadable(f"is damaged ({_reason(error)})") from error


def fit(image: Image.Image, placement: "Placement") -> Pixels:
    """Resize and crop an RGB picture to its bucket: uint8 [bucket height, bucket width, 3].

    Shrinking averages areas (each new pixel is the mean of what it covers), growing is Lanczos.
    """
    width, height = placement.resized
    if width <= image.width and height <= image.height:
        pixels = shrink(np.asarray(image), width, height)
    else:
        pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    return cut(pixels, placement.crop, placement.bucket)


def cut(pixels: Pixels, corner: tuple[int, int], size: tuple[int, int]) -> Pixels:
    """The part of `pixels` whose upper left corner is at (left, top), of this (width, height)."""
    (left, top), (across, down) = corner, size
    return np.ascontiguousarray(pixels[top : top + down, left : left + across])


def shrink(pixels: Pixels, width: int, height: int) -> Pixels:
    """`pixels` [h, w, c] averaged to [height, width, c]; a pixel on a border counts by the share that is covered."""
    if pixels.shape[:2] == (height, width):
        return pixels
    rows = _average_rows(pixels, height)
    columns = _average_rows(rows.transpose(1, 0, 2), width)
    return np.clip(np.rint(columns.transpose(1, 0, 2)), 0, 255).astype(np.uint8)


def _average_rows(pixels: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    total = pixels.shape[0]
    if count == total:
        return np.asarray(pixels, np.float32)
    result = np.empty((count, *pixels.shape[1:]), np.float32)
    for row in range(count):
        # Whole numbers until the last moment, so that borders that coincide are seen to coincide.
        begin, end = row * total, (row + 1) * total
        first, last = begin // count, -(-end // count)
        weights = np.full(last - first, count, np.float32)
        weights[0] -= begin - first * count
        weights[-1] -= last * count - end
        part = np.ascontiguousarray(pixels[first:last], np.float32).reshape(last - first, -1)
        result[row] = ((weights / total) @ part).reshape(pixels.shape[1:])
    return result


def vary_colors(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Color augmentation: one picture in three gets another hue (up to 16 degrees) or another gamma (95 to 105 %)."""
    chosen, which, amount = rng.random(3)
    if chosen >= 1 / 3:
        return pixels
    if which < 0.5:
        hue, saturation, value = Image.fromarray(pixels).convert("HSV").split()
        turn = round((2 * amount - 1) * 16 / 360 * 256)
        hue = hue.point([(shade + turn) % 256 for shade in range(256)])
        return np.asarray(Image.merge("HSV", (hue, saturation, value)).convert("RGB"))
    gamma = 0.95 + 0.1 * amount
    return np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)[pixels]


def _open(source: Path | bytes) -> Image.Image:
    try:
        if isinstance(source, Path) and source.stat().st_size == 0:
            raise Unreadable("is empty (0 bytes)")
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except Unreadable:
        raise
    except PermissionError as error:
        raise Unreadable("may not be read (permission denied)") from error
    except FileNotFoundError as error:
        raise Unreadable("is no longer there") from error
    except Image.DecompressionBombError as error:
        raise Unreadable("has more than 178 million pixels; save a smaller copy") from error
    except Exception as error:  # see open_picture
        raise Unreadable(_what_it_is(source)) from error


SIGNS = {
    b"ftypheic": "a HEIC photo", b"ftypheix": "a HEIC photo", b"ftypmif1": "a HEIC photo",
    b"JXL ": "a JPEG XL picture", b"\xff\x0a": "a JPEG XL picture",
    b"ftypisom": "a video", b"ftypmp42": "a video", b"%PDF": "a PDF", b"PK\x03\x04": "a zip archive",
}  # fmt: skip
"""How files begin that people take for pictures."""


def _what_it_is(source: Path | bytes) -> str:
    try:
        start = source[:256] if isinstance(source, bytes) else _first_bytes(source)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    for sign, name in SIGNS.items():
        if sign in start[:16]:
            return f"is {name}, which cannot be read here; save it as PNG or JPEG"
    if start.startswith(b"version https://git-lfs"):
        return "is only a Git LFS pointer; run `git lfs pull` to get the picture"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # a letter may be cut in two at the end
    except UnicodeDecodeError:
        return "is damaged or not a picture"
    return "is damaged or not a picture" if "\0" in text else "is text, not a picture"


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(256)


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text[:1].lower() + text[1:100]


def _misnamed(path: Path, kind: str) -> str:
    expected = KINDS.get(path.suffix.lower(), ())
    return "" if not expected or kind in expected else f"is a {kind} file named {path.suffix}; it is used all the same"


def _orientation(image: Image.Image, source: Path | bytes) -> int:
    """EXIF orientation 1 to 8, without decoding the pixels of a PNG, which may carry EXIF behind them."""
    try:
        if image.format == "PNG" and not _metadata_at_end(source):
            exif = Image.Image.getexif(image)
        else:
            exif = image.getexif()
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata is no reason to lose a picture
        return 1
    return value if value in TURNS else 1


def _metadata_at_end(source: Path | bytes) -> bool:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        file.seek(8)
        behind = False
        while len(begin := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", begin)
            behind = behind or kind == b"IDAT"
            if behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(length + 4, io.SEEK_CUR)
    return False


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    shades = np.asarray(image).astype(np.float64)
    top = shades.max(initial=0)
    full = 1 if image.mode == "F" and top <= 1 else 255 if top <= 255 and not image.mode.startswith("I;16") else 65535
    return Image.fromarray(np.rint(np.clip(shades / full, 0, 1) * 255).astype(np.uint8)).convert("RGB")
