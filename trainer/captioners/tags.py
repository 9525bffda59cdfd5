"""Tags of a WD14 tagger: the vocabulary in its CSV file, which of them a picture gets, in which words and order.

The CSV file has a row for each output of the model, in that order: `tag_id,name,category,count`, as on Danbooru.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.stamps import once_per_file
from trainer.declare import nearest

GENERAL, CHARACTER, RATING, QUALITY = "general", "character", "rating", "quality"
CATEGORIES = {"0": GENERAL, "4": CHARACTER, "9": RATING}
"""Danbooru's numbers, and 9, which the taggers gave to ratings. Any other is taken as it is written."""
BEST_ONLY = (RATING, QUALITY)
"""Of these a picture gets the likeliest one, however unlikely."""

EMOTICONS = frozenset({"(o)_(o)", "<o>_<o>", "<|>_<|>", "||_||"})
"""Tags whose underscore is part of a face; those of three characters, as ^_^, are known by their length."""

Probabilities = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Tag:
    """One output of the model."""

    name: str
    category: str = GENERAL


class NotTags(ValueError):
    """A file is no list of tags; the text says why and goes on from the file's name."""


@once_per_file
def read_tags(path: Path) -> tuple[Tag, ...]:
    """The vocabulary of a tagger, in the order of its outputs. Raises `NotTags`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"name", "category"} <= set(rows.fieldnames or ()):
                raise NotTags("has no columns name and category in its first line")
            tags = tuple(Tag(row["name"], _category(row["category"] or "")) for row in rows if row["name"])
    except (UnicodeDecodeError, csv.Error) as error:
        raise NotTags(f"is no table ({error})") from error
    if not tags:
        raise NotTags("names no tags")
    return tags


def _category(written: str) -> str:
    word = written.strip().lower()
    return CATEGORIES.get(word, word)


def key(text: str) -> str:
    """What two spellings of a tag have in common: long_hair, long hair, Long Hair."""
    return text.replace("_", " ").strip().casefold()


def without_underscore(name: str) -> str:
    """As in long hair; the underscores of emoticons stay."""
    return name if len(name) <= 3 or name in EMOTICONS else name.replace("_", " ")


def expanded(name: str) -> tuple[str, ...]:
    """("name", "series") from "name_(series)": the last brackets become a tag of their own."""
    found = re.fullmatch(r"(.+?)[_ ]\(([^()]+)\)", name)
    return found.groups() if found else (name,)


def split(text: str, mark: str) -> list[str]:
    """The parts between marks; a mark behind a backslash belongs to its part. Empty parts are left out."""
    parts = re.split(rf"(?<!\\){re.escape(mark)}", text)
    return [part.strip() for part in parts if part.strip()]


def plain(text: str) -> str:
    r"""A text without the backslashes of \, and \; ."""
    return re.sub(r"\\([,;])", r"\1", text).strip()


def replacements(text: str) -> dict[str, str]:
    """{key of a tag: what is written instead} from "src1,dst1;src2,dst2". Raises `ValueError` with a sentence."""
    found = {}
    for pair in split(text, ";"):
        parts = re.split(r"(?<!\\),", pair)
        if len(parts) != 2 or not parts[0].strip():
            raise ValueError(
                f"{pair!r} is not a pair such as long hair,hair down. Pairs are separated by ; and a comma that belongs "
                r"to a tag is written \, (a semicolon \;)."
            )
        found[key(plain(parts[0]))] = plain(parts[1])
    return found


@dataclass(frozen=True)
class Wording:
    """In which words a tag is written, if at all."""

    remove_underscore: bool = True
    expand: bool = False
    replacements: Mapping[str, str] = field(default_factory=dict)
    undesired: frozenset[str] = frozenset()
    """Keys of tags that are not written, whether they name the tag or what would be written for it."""

    def __call__(self, tag: Tag) -> list[str]:
        """The texts for a tag: one, several where it is expanded, none where it is unwanted."""
        if key(tag.name) in self.undesired:
            return []
        parts = expanded(tag.name) if self.expand and tag.category == CHARACTER else (tag.name,)
        for whole in (tag.name, ", ".join(parts)):
            if key(whole) in self.replacements:
                parts = (self.replacements[key(whole)],)
                break
        else:
            parts = tuple(self._spelled(part) for part in parts)
        return [part for part in parts if part and key(part) not in self.undesired]

    def _spelled(self, part: str) -> str:
        instead = self.replacements.get(key(part))
        if instead is not None:
            return instead
        return without_underscore(part) if self.remove_underscore else part


@dataclass(frozen=True)
class Choice:
    """Which tags a picture gets, and in which order they stand."""

    general: float = 0.35
    """Tags that are at least so likely; also those of categories that have no threshold of their own."""
    character: float = 0.35
    characters_first: bool = False
    front: tuple[str, ...] = ()
    """Of `BEST_ONLY` those that stand in front of all."""
    back: tuple[str, ...] = ()
    """... and those behind."""

    def __call__(self, vocabulary: Sequence[Tag], likely: Probabilities) -> list[Tag]:
        """The tags of a picture: quality, rating, general ones in the order of the vocabulary, characters."""
        found = [vocabulary[at] for at in np.flatnonzero(likely >= self.thresholds(vocabulary)).tolist()]
        characters = [tag for tag in found if tag.category == CHARACTER]
        others = [tag for tag in found if tag.category != CHARACTER]
        middle = characters + others if self.characters_first else others + characters
        return [
            *self._best(vocabulary, likely, self.front, (QUALITY, RATING)),
            *middle,
            *self._best(vocabulary, likely, self.back, (RATING, QUALITY)),
        ]

    def thresholds(self, vocabulary: Sequence[Tag]) -> Probabilities:
        """How likely each tag has to be."""
        known = {CHARACTER: self.character, **dict.fromkeys(BEST_ONLY, np.inf)}
        return np.array([known.get(tag.category, self.general) for tag in vocabulary], np.float32)

    @staticmethod
    def _best(
        vocabulary: Sequence[Tag], likely: Probabilities, wanted: Iterable[str], order: Iterable[str]
    ) -> Iterator[Tag]:
        for category in order:
            places = [at for at, tag in enumerate(vocabulary) if tag.category == category]
            if category in wanted and places:
                yield vocabulary[max(places, key=lambda at: likely[at])]


def in_words(tags: Iterable[Tag], wording: Callable[[Tag], Iterable[str]], first: Iterable[str] = ()) -> list[str]:
    """The texts of tags, each once; those whose keys are in `first` stand in front, in that order, if they are there."""
    found: dict[str, str] = {}
    for tag in tags:
        for text in wording(tag):
            found.setdefault(key(text), text)
    front = [found.pop(word) for word in first if word in found]
    return [*front, *found.values()]


def appended(before: str, texts: Iterable[str], separator: str) -> str:
    """A caption with those tags behind it that are not in it yet."""
    mark = separator.strip()
    there = {key(part) for part in (before.split(mark) if mark else before.split())}
    new = [text for text in texts if key(text) not in there]
    if not before or not new:
        return before or separator.join(new)
    return separator.join([before.rstrip(f" {mark}"), *new])


def unknown(words: Iterable[str], vocabulary: Sequence[Tag], wording: Wording) -> list[str]:
    """Words that name no tag, and nothing that may be written for one, as in "blakc hair; did you mean black hair?"."""
    parts = {tag: expanded(tag.name) for tag in vocabulary if tag.category == CHARACTER}
    names = [tag.name for tag in vocabulary]
    names += [text for some in parts.values() for text in (*some, ", ".join(some))]
    known = {key(name) for name in (*names, *wording.replacements.values())}
    lost = [word for word in words if key(word) not in known]
    return [f"{word}{nearest(word, _alike(word, names)) or '.'}" for word in lost]


def _alike(word: str, names: Iterable[str]) -> list[str]:
    """Names that begin with the same letter; comparing with all ten thousand would take a second."""
    return [without_underscore(name) for name in names if name[:1].lower() == word[:1].lower()]
