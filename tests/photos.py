"""A data set of real photographs, from the wheels of scikit-image and scikit-learn, in every format and orientation.

They are freely licensed (see the README files beside them in those packages); nothing is downloaded.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

CAPTIONS = {
    "3_tabby cat/chelsea.txt": "a photo of a tabby cat, close-up, whiskers",
    "2_places/rocket.txt": "a rocket on its launch pad, evening, clouds",
    "2_places/china.txt": "a Chinese temple, blue sky, red walls",
    "2_places/coffee.txt": "a cup of coffee on a wooden table, spoon",
}


def photo(name: str) -> Image.Image:
    """A bundled photograph by its file name, such as "chelsea.png" or "china.jpg"."""
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(root, inside, name)).is_file():
                with Image.open(path) as image:
                    image.load()
                    return image
    raise FileNotFoundError(f"{name} is in neither scikit-image nor scikit-learn; install the extra [test]")


def sideways(image: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """The pixels as a camera held askew stores them, and the EXIF that says so; upright it is `image` again."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return (image.transpose(undo[orientation]) if orientation in undo else image), exif


def _turned(orientation: int, quality: int = 75) -> Callable[[Image.Image, Path], None]:
    def save(image: Image.Image, path: Path) -> None:
        stored, exif = sideways(image, orientation)
        stored.save(path, exif=exif, quality=quality)

    return save


def _plain(image: Image.Image, path: Path) -> None:
    image.save(path)


def _palette(image: Image.Image, path: Path) -> None:
    image.quantize(64).save(path)


def _cmyk(image: Image.Image, path: Path) -> None:
    image.convert("CMYK").save(path, quality=95)


def _deep(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)


def _see_through(image: Image.Image, path: Path) -> None:
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.radial_gradient("L").resize(image.size).point(lambda shade: 255 - shade))
    rgba.save(path)


def _moving(image: Image.Image, path: Path) -> None:
    image.save(path, save_all=True, append_images=[image.rotate(90)], duration=100)


PHOTOS: dict[str, tuple[str, tuple[int, int], Callable[[Image.Image, Path], None]]] = {
    "3_tabby cat/chelsea.png": ("chelsea.png", (451, 300), _plain),
    "3_tabby cat/upright phone.jpg": ("chelsea.png", (300, 400), _turned(6, quality=95)),
    "3_tabby cat/Kätzchen 🐈 'two'.WebP": ("chelsea.png", (400, 300), _turned(3, quality=95)),
    "2_places/rocket.jpg": ("rocket.jpg", (640, 427), _plain),
    "2_places/coffee.bmp": ("coffee.png", (600, 400), _plain),
    "2_places/china.avif": ("china.jpg", (427, 640), _turned(8, quality=90)),
    "2_places/flower.webp": ("flower.jpg", (640, 427), _moving),
    "2_places/astronaut.JPEG": ("astronaut.png", (512, 512), _cmyk),
    "2_places/motorcycle.png": ("motorcycle_left.png", (741, 500), _palette),
    "2_places/moon.png": ("moon.png", (512, 512), _deep),
    "2_places/camera.jpg": ("camera.png", (512, 512), _plain),
    "2_places/rocket cut out.png": ("rocket.jpg", (300, 427), _see_through),
}
"""Where each photograph goes: what it is made of, its size when upright, and how it is saved."""


def upright(name: str) -> Image.Image:
    """The photograph `name` of the data set as it was before it was saved: cropped from the middle to its size."""
    source, (width, height), _ = PHOTOS[name]
    image = photo(source)
    if image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    if width > image.width or height > image.height:
        scale = max(width / image.width, height / image.height)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def make_photo_dataset(folder: Path, captions: bool = True) -> Path:
    """Write twelve photographs into `folder`/3_tabby cat and `folder`/2_places; returns `folder`, the Image folder.

    With `captions` some of them have a .txt file, the others take the folder's name.
    """
    for name, (_, _, save) in PHOTOS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(upright(name), path)
    for name, text in CAPTIONS.items() if captions else ():
        (folder / name).write_text(text, encoding="utf-8")
    return folder
