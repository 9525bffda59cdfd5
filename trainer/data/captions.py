"""Captions: reading them from files, and varying them for each use."""

import codecs
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.stamps import once_per_file
from trainer.settings import Settings


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
    return lines(text)[0]


def lines(text: str) -> list[str]:
    """The lines of a text that hold anything; one empty line for an empty text."""
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()] or [""]


def varies_captions(settings: Settings) -> bool:
    """Whether a caption is another one each time (besides being dropped), so that its encoding cannot be kept."""
    return settings.enable_wildcard or takes_apart(settings)


def takes_apart(settings: Settings) -> bool:
    """Whether the parts of a caption are moved or left out, so that it matters which ones are kept."""
    return settings.shuffle_caption or settings.token_warmup_step > 0 or settings.caption_tag_dropout_rate > 0


def settled(caption: str, settings: Settings) -> str:
    """The caption as it is used each time that it is not dropped, unless `varies_captions`."""
    return _with_plain_separators(framed(first_line(caption), settings), settings)


def process(
    caption: str, settings: Settings, rng: np.random.Generator, epoch: int, step: int = 0, steps: int = 0
) -> str:
    """The caption as it is used once. What is done with it, and in which order, is what sd-scripts does:

    prefix and suffix; perhaps dropped; a random line and random choices, or the first line; parts left out at first,
    moved, dropped; the secondary separator made plain.

    `rng` is this one use's own generator. Epochs count from 1: with "every n epochs" the n-th, 2n-th … have no
    captions. `step` of `steps` are done; only token warm-up asks for them.
    """
    if _dropped(settings, rng, epoch):
        return ""
    if not varies_captions(settings):
        return settled(caption, settings)
    if settings.enable_wildcard:
        caption = chosen(framed(caption, settings), rng)
    else:
        caption = framed(first_line(caption), settings)
    if takes_apart(settings):
        caption = _taken_apart(caption, settings, rng, step, steps)
    return _with_plain_separators(caption, settings)


def _dropped(settings: Settings, rng: np.random.Generator, epoch: int) -> bool:
    every = settings.caption_dropout_every_n_epochs
    return rng.random() < settings.caption_dropout_rate or (every > 0 and epoch % every == 0)


def framed(caption: str, settings: Settings) -> str:
    """The caption between prefix and suffix."""
    return " ".join(filter(None, (settings.caption_prefix, caption, settings.caption_suffix)))


def _with_plain_separators(caption: str, settings: Settings) -> str:
    other = settings.secondary_separator
    return caption.replace(other, settings.caption_separator) if other else caption


WILDCARD = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<choices>(?:\}\}|[^}])++)\}")
"""{a|b|c}, or a doubled brace, which is a plain one. They do not nest."""


def chosen(caption: str, rng: np.random.Generator) -> str:
    """One of the lines, with one of the choices of each {a|b|c}; {{ and }} are plain braces."""

    def choose(found: re.Match[str]) -> str:
        if found["brace"]:
            return found["brace"][0]
        options = found["choices"].split("|")
        return options[rng.integers(len(options))].replace("{{", "{").replace("}}", "}")

    found = lines(caption)
    return WILDCARD.sub(choose, found[rng.integers(len(found))] if len(found) > 1 else found[0])


class Parts(NamedTuple):
    """A caption taken apart: what stays in front, what may be moved or left out, and what stays at the end."""

    fixed: list[str]
    free: list[str]
    last: list[str]


def parts(caption: str, settings: Settings) -> Parts:
    """The parts of a caption. The keep tokens separator, where the caption holds it, says which ones stay; else the
    first `keep_tokens` do."""
    mark = settings.keep_tokens_separator
    if mark and mark in caption:
        pieces = [[part for part in _cut(text, settings) if part] for text in caption.split(mark, 2)]
        return Parts(*pieces, *[[]] * (3 - len(pieces)))
    found = _cut(caption, settings)
    return Parts(found[: settings.keep_tokens], found[settings.keep_tokens :], [])


def _cut(text: str, settings: Settings) -> list[str]:
    separator = settings.caption_separator
    return [part.strip() for part in (text.split(separator) if separator else [text])]


def _taken_apart(caption: str, settings: Settings, rng: np.random.Generator, step: int, steps: int) -> str:
    fixed, free, last = parts(caption, settings)
    free = free[: warmed_up(len(free), settings, step, steps)]
    if settings.shuffle_caption:
        free = [free[place] for place in rng.permutation(len(free))]
    if rate := settings.caption_tag_dropout_rate:
        free = [part for part, chance in zip(free, rng.random(len(free)), strict=True) if chance >= rate]
    return ", ".join(fixed + free + last)


def warmed_up(free: int, settings: Settings, step: int, steps: int) -> int:
    """How many of `free` parts are used after `step` of `steps` steps: `token_warmup_min` at first, then more and more,
    all from step N = `token_warmup_step` on (below 1: that share of the steps).

    floor(step (free - min) / N) + min; more than there are means all.
    """
    least, end = settings.token_warmup_min, settings.token_warmup_step
    end = end if end >= 1 else math.floor(end * steps)
    return free if step >= end else math.floor(step * (free - least) / end) + least
