"""What the model is told about each picture."""

from typing import ClassVar

from trainer.declare import Section, setting


class CaptionFiles(Section):
    """Where the captions are."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Captions"

    caption_extension: str = setting(
        ".txt",
        "Caption file extension",
        "The caption extension is the ending of caption files: cat.png is described by cat.txt.",
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
        0, "Keep n tokens", "The first n comma-separated parts stay in front when the others are moved or left out; 1 keeps a trigger word.",
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
        75, "Max Token Length", "Longer captions are cut here. 150 and 225 read long captions in pieces of 75.",
        choices=("75", "150", "225"),
    )  # fmt: skip
    caption_dropout_rate: float = setting(
        0.0, "Rate of caption dropout", "Share of pictures shown with an empty caption; a little (0.05) strengthens the style.",
        ge=0, le=1, step=0.01,
    )  # fmt: skip
    caption_dropout_every_n_epochs: int = setting(
        0, "Dropout caption every n epochs", "Every n-th epoch runs without captions. 0 = never.", ge=0, soft_max=50
    )
    caption_prefix: str = setting(
        "", "Caption prefix", "Words put before every caption, such as a trigger word with its comma (sks cat,).", advanced=True
    )
    caption_suffix: str = setting(
        "", "Caption suffix", "Words put after every caption, such as in the style of sks.", advanced=True
    )
    caption_tag_dropout_rate: float = setting(
        0.0, "Rate of caption tag dropout", "Share of the comma-separated parts left out each time; 0.1 keeps the LoRA from needing them all.",
        ge=0, le=1, step=0.01, advanced=True,
    )  # fmt: skip
    token_warmup_step: float = setting(
        0.0, "Token warmup step", "Captions grow part by part until this step; below 1 it is a share of the run, such as 0.3. 0 = never.",
        ge=0, advanced=True,
    )  # fmt: skip
    token_warmup_min: int = setting(
        1, "Token warmup min", "How many parts a caption has at the first step of the token warm-up, besides those that are kept.",
        ge=0, soft_max=32, advanced=True,
    )  # fmt: skip
    enable_wildcard: bool = setting(
        False, "Enable wildcard", "Use one line of a caption file at random each time, and one word of each {red|green|blue}.", advanced=True
    )
    keep_tokens_separator: str = setting(
        "", "Keep tokens separator", "Parts before this mark in a caption stay in front, those after a second one at the end; ||| is usual.",
        advanced=True,
    )  # fmt: skip
    secondary_separator: str = setting(
        "", "Secondary separator", "A mark that joins parts of a caption, so that they move together; ;;; is usual and becomes a comma.",
        advanced=True,
    )  # fmt: skip
    caption_separator: str = setting(
        ",", "Caption separator", "What stands between the parts of a caption; a comma is usual.", advanced=True
    )
