"""What the model is told about each picture."""

from typing import ClassVar

from trainer.declare import Section, setting


class CaptionFiles(Section):
    """Where the captions are."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Captions"

    caption_extension: str = setting(
        ".txt",
        "Caption extension",
        "The ending of caption files: cat.png is described by cat.txt.",
        choices=(".txt", ".caption", ".cap"),
        custom=True,
    )


class Captions(Section):
    """How captions are varied and read."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Captions"

    shuffle_caption: bool = setting(
        False, "Shuffle caption", "Put the comma-separated parts in a new order each time, so that none matters by its place."
    )
    keep_tokens: int = setting(
        0, "Keep n tokens", "The first n comma-separated parts stay in front when shuffling; 1 keeps a trigger word first.",
        ge=0, soft_max=32,
    )  # fmt: skip
    weighted_captions: bool = setting(
        False, "Weighted captions", "Read (word:1.2), (word) and [word] in captions as stronger or weaker."
    )
    clip_skip: int = setting(
        1, "Clip skip", "Which layer of the text encoder speaks: 1 = last (photographic models), 2 = last but one (anime models).",
        ge=0, le=12,
    )  # fmt: skip
    max_token_length: int = setting(
        75, "Max token length", "Longer captions are cut here. 150 and 225 read long captions in pieces of 75.",
        choices=("75", "150", "225"),
    )  # fmt: skip
    caption_dropout_rate: float = setting(
        0.0, "Rate of caption dropout", "Share of pictures shown with an empty caption; a little (0.05) strengthens the style.",
        ge=0, le=1, step=0.01,
    )  # fmt: skip
    caption_dropout_every_n_epochs: int = setting(
        0, "Dropout caption every n epochs", "Every n-th epoch runs without captions. 0 = never.", ge=0, soft_max=50
    )
