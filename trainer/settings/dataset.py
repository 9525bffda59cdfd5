"""How pictures become batches."""

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator

from trainer.declare import Section, setting


def read_resolution(text: str) -> tuple[int, int]:
    """(width, height) from "512", "512,768", "512 × 768 px", "(512, 768)", "512.0;768.0" and what else people write.

    Raises `ValueError` with a sentence for what cannot be meant.
    """
    narrow = re.sub("[\uff01-\uff5e]", lambda wide: chr(ord(wide[0]) - 0xFEE0), text)  # as East Asian keyboards write
    plain = re.sub(r"pixels?|px|[\[\](){}\"'\s]+", " ", narrow.lower()).strip(" ,;")
    found = re.fullmatch(r"(\d+)(?:\.0*)?(?:(?: ?(?:[x×*,;:/、]|by) ?| )(\d+)(?:\.0*)?)?", plain)
    if found is None:
        raise ValueError(f"write it as width,height such as 512,512; {_short(text)} is not understood")
    width, height = (int(number[:9]) for number in (found[1], found[2] or found[1]))
    if not (64 <= width <= 8192 and 64 <= height <= 8192):
        raise ValueError(f"width and height must be between 64 and 8192; {_short(text)} is not")
    return width, height


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _normal(text: str) -> str:
    return "{},{}".format(*read_resolution(text))


Resolution = Annotated[str, AfterValidator(_normal)]
"""A text that reads as width,height; kept in the form the Kohya GUI writes."""


class DatasetConfig(Section):
    """A file that says where pictures are and how each folder is trained, instead of the folders above."""

    tab: ClassVar[str] = "Folders"
    title: ClassVar[str] = "Dataset config"

    dataset_config: str = setting(
        "",
        "Dataset config file",
        "Optional. A TOML file with folders, sizes and caption settings; it takes the place of the image folders, and what it "
        "leaves out is as set on this page.",
        kind="config",
        aside="(Optional. Select the toml configuration file to use for the dataset)",
    )


class Images(Section):
    """How large the pictures are trained, and how they are grouped."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Images"

    max_resolution: Resolution = setting(
        "512,512",
        "Max resolution",
        "width,height that pictures are trained at: 512,512 for SD 1.5, 1024,1024 for SDXL. Larger shows more detail and takes more memory and time.",
    )
    enable_bucket: bool = setting(
        True, "Enable buckets", "Keep each picture's shape by grouping similar shapes. Off: everything is cropped to Max resolution."
    )
    min_bucket_reso: int = setting(
        256, "Minimum bucket resolution", "The shortest side a bucket may have, in pixels: 256 is usual for 512, 512 for 1024.", ge=64, soft_max=4096, step=64,
        when={"enable_bucket": True}, advanced=True,
    )  # fmt: skip
    max_bucket_reso: int = setting(
        2048, "Maximum bucket resolution", "The longest side a bucket may have, in pixels; 2048 is enough for nearly all pictures.", ge=64, soft_max=4096, step=64,
        when={"enable_bucket": True}, advanced=True,
    )  # fmt: skip
    cache_latents: bool = setting(
        True, "Cache latents", "Encode each picture once instead of at every step: faster, less memory. Only flipping stays possible."
    )
    cache_latents_to_disk: bool = setting(
        False, "Cache latents to disk", "Keep the encoded pictures for the next run. A changed picture is encoded anew.", advanced=True
    )
    train_inpainting: bool = setting(
        False, "Train inpainting model", "For inpainting models: a random part of each picture is hidden, and learnt to be filled in. "
        "Pictures are then encoded at each step instead of cached.", advanced=True,
    )  # fmt: skip

    @property
    def resolution(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return read_resolution(self.max_resolution)


class Loading(Section):
    """How pictures are made ready while the training goes on. None of this changes what is learnt."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Loading pictures"

    max_data_loader_n_workers: int = setting(
        0, "Max num workers for DataLoader", "Threads that make batches ready ahead of time. 0 = as many as the processor has cores, at "
        "most 8, or 1 where latents are cached.", ge=0, soft_max=16, advanced=True,
    )  # fmt: skip
    persistent_data_loader_workers: bool = setting(
        True, "Persistent data loader", "Make the next epoch's first batches ready before this one is over. Off: the threads end with "
        "each epoch, and give their memory back while samples are drawn.", advanced=True,
    )  # fmt: skip
    skip_cache_check: bool = setting(
        False, "Skip cache check", "Trust Cache latents to disk without reading every file at the start: files with unchanged date and "
        "size are taken as they were, and cached ones are opened when they are needed.", advanced=True,
    )  # fmt: skip


class Augmentation(Section):
    """Changes made to pictures while training, so that few pictures go further."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Images"

    color_aug: bool = setting(
        False, "Color augmentation", "Vary hue and brightness a little each time; not where colours matter. Needs Cache latents switched off."
    )
    random_crop: bool = setting(
        False, "Random crop instead of center crop", "Where a picture stands over its bucket, another part of it is shown each time. "
        "Needs Cache latents switched off.",
    )
    flip_aug: bool = setting(
        False, "Flip augmentation", "Show each picture mirrored half of the time. Not for faces with a parting or for text."
    )
    bucket_no_upscale: bool = setting(
        True, "Don't upscale bucket resolution", "Small pictures are trained at their own size instead of being blown up.",
        when={"enable_bucket": True},
    )  # fmt: skip
    bucket_reso_steps: int = setting(
        64, "Bucket resolution steps", "Bucket sides are multiples of this; 64 is usual, SDXL needs multiples of 32. Smaller crops less but makes more, emptier buckets.",
        ge=8, soft_max=128, step=8, when={"enable_bucket": True},
    )  # fmt: skip


