"""Captions: reading them from files, varying them for each use, and reading weights in them."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.stamps import once_per_file
from trainer.settings import Settings

SEPARATOR = ","
"""Between the parts of a caption that shuffling moves."""


@dataclass(frozen=True)
class CaptionFile:
    """A caption file as read: all its `text`; `encoding` if it had to be guessed; `why` if it cannot be used."""

    text: str = ""
    encoding: str = ""
    why: str = ""


@once_per_file
def read_caption(path: Path) -> CaptionFile:
    """The text of a caption file in UTF-8 or UTF-16, with or without a mark; else as Windows wrote Western text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return CaptionFile(why=f"cannot be read ({error.strerror or error})")
    text, encoding = _decode(data)
    return CaptionFile(text.replace("\0", "").replace("\ufeff", "").strip(), encoding)


MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip


def _decode(data: bytes) -> tuple[str, str]:
    """The text, and the name of the encoding where nothing in the file says it."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace"), ""
    if b"\0" in data:  # Latin letters in UTF-16 have a zero byte each, before or behind
        encoding = "utf-16-be" if data[::2].count(0) > data[1::2].count(0) else "utf-16-le"
        return data.decode(encoding, errors="replace"), "UTF-16"
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        pass
    try:
        return data.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "Latin-1"


def first_line(text: str) -> str:
    """The line that counts when a caption has several."""
    return re.split(r"\r\n|\r|\n", text.strip(), maxsplit=1)[0].strip()


def process(caption: str, settings: Settings, rng: np.random.Generator, epoch: int) -> str:
    """The caption as it is used once: perhaps dropped, else its first line, perhaps with its parts in a new order.

    `rng` is this one use's own generator. Epochs count from 1: with "every n epochs" the n-th, 2n-th …
    have no captions.
    """
    if _dropped(settings, rng, epoch):
        return ""
    caption = first_line(caption)
    if settings.shuffle_caption:
        caption = shuffled(caption, settings.keep_tokens, rng)
    return caption


def _dropped(settings: Settings, rng: np.random.Generator, epoch: int) -> bool:
    every = settings.caption_dropout_every_n_epochs
    return rng.random() < settings.caption_dropout_rate or (every > 0 and epoch % every == 0)


def shuffled(caption: str, keep: int, rng: np.random.Generator) -> str:
    """The comma-separated parts in a new order, the first `keep` in their places."""
    parts = [part.strip() for part in caption.split(SEPARATOR)]
    fixed, free = parts[:keep], parts[keep:]
    return ", ".join(fixed + [free[place] for place in rng.permutation(len(free))])


UP, DOWN = 1.1, 1 / 1.1
"""What one pair of ( ) or [ ] does to the weight of its text, as in AUTOMATIC1111's web UI."""

TOKEN = re.compile(
    r"""\\(?P<escaped>.)                              # \( is a plain (
      | :\s*(?P<weight>[+-]?(\d+\.?\d*|\.\d+))\s*\)   # :1.3) closes a ( and says how much
      | (?P<mark>[()\[\]])
      | (?P<text>[^\\()\[\]:]+ | : | \\)""",
    re.VERBOSE | re.DOTALL,
)


def parse_weights(text: str) -> list[tuple[str, float]]:
    """Pieces of a caption with their weights: (a) counts 1.1 times, [a] 1/1.1, (a:1.3) 1.3 times; they nest.

    A backslash makes the next character plain. A bracket left open reaches to the end; one that closes nothing is text.
    At least one piece is returned, `("", 1.0)` for an empty text; neighbours of equal weight are one piece.
    """
    pieces: list[tuple[str, float]] = []
    open_at: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        pieces[start:] = [(piece, weight * factor) for piece, weight in pieces[start:]]

    for token in TOKEN.finditer(text):
        mark, weight = token["mark"], token["weight"]
        if mark in ("(", "["):
            open_at[mark].append(len(pieces))
        elif mark == ")" and open_at["("]:
            multiply(open_at["("].pop(), UP)
        elif mark == "]" and open_at["["]:
            multiply(open_at["["].pop(), DOWN)
        elif weight is not None and open_at["("]:
            multiply(open_at["("].pop(), float(weight))
        elif token["escaped"] is not None:
            pieces.append((token["escaped"], 1.0))
        else:
            pieces.append((token[0].removeprefix("\\"), 1.0))
    for starts, factor in ((open_at["("], UP), (open_at["["], DOWN)):
        for start in starts:
            multiply(start, factor)
    return _joined(pieces)


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    result: list[tuple[str, float]] = []
    for piece, weight in pieces:
        if result and result[-1][1] == weight:
            result[-1] = (result[-1][0] + piece, weight)
        else:
            result.append((piece, weight))
    return result or [("", 1.0)]
