"""Captions: encodings, and the ways they are varied, against a literal restatement of sd-scripts' rules."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.captions import chosen, first_line, parts, process, read_caption, settled, varies_captions, warmed_up
from trainer.settings import Settings

TEXT = "eine Katze, Straße, naïve café, 猫 🐈"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_captions_are_read_whatever_the_encoding(tmp_path: Path, encoding: str) -> None:
    text = "a cat, Straße, two" if encoding in ("utf-16-le", "utf-16-be") else TEXT
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    read = read_caption(path)
    assert read.text == text
    assert bool(read.encoding) == (encoding in ("utf-16-le", "utf-16-be")), "guessed only where nothing says it"


@pytest.mark.parametrize(("data", "name"), [(b"caf\xe9 \x93x\x94", "Windows-1252"), (b"caf\xe9 \x81", "Latin-1")])
def test_old_western_captions_are_read_and_told(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    read = read_caption(tmp_path / "a.txt")
    assert read.text.startswith("café")
    assert read.encoding == name


@given(data=st.binary(max_size=60))
def test_any_bytes_give_some_text(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.txt"
    path.write_bytes(data)
    assert "\0" not in read_caption(path).text


@pytest.mark.parametrize("text", ["one\ntwo", "\n\n  one  \r\ntwo", "one\rtwo", "one"])
def test_first_line(text: str) -> None:
    assert first_line(text) == "one"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_is_changed_by_default() -> None:
    caption = "a  cat ,sitting,, on (a:1.2) mat"
    assert process(caption, Settings(), rng(), epoch=1) == caption


@given(st.lists(st.text("abc ", min_size=1, max_size=5), min_size=1, max_size=8), st.integers(0, 9), st.integers(0, 99))
def test_shuffling_keeps_the_first_parts_and_loses_none(found: list[str], keep: int, seed: int) -> None:
    found = [part.strip() for part in found]
    settings = Settings(shuffle_caption=True, keep_tokens=keep)
    result = process(",".join(found), settings, rng(seed), epoch=1).split(", ")
    first = first_line(",".join(found)).split(",")
    assert result[:keep] == [part.strip() for part in first[:keep]]
    assert sorted(result) == sorted(part.strip() for part in first)


def test_shuffling_gives_every_order_in_time() -> None:
    settings = Settings(shuffle_caption=True, keep_tokens=1)
    found = {process("sks, a, b, c", settings, rng(seed), epoch=1) for seed in range(200)}
    assert found == {f"sks, {x}, {y}, {z}" for x, y, z in ("abc", "acb", "bac", "bca", "cab", "cba")}


def test_dropout_by_rate() -> None:
    settings = Settings(caption_dropout_rate=0.25)
    empty = sum(process("a cat", settings, rng(seed), epoch=1) == "" for seed in range(2000))
    assert 430 <= empty <= 570
    assert process("a cat", Settings(caption_dropout_rate=1), rng(), epoch=1) == ""


def test_dropout_by_epoch() -> None:
    settings = Settings(caption_dropout_every_n_epochs=3)
    assert [process("x", settings, rng(), epoch) for epoch in range(1, 8)] == ["x", "x", "", "x", "x", "", "x"]


def test_dropout_does_not_change_how_the_rest_is_shuffled() -> None:
    plain, dropping = Settings(shuffle_caption=True), Settings(shuffle_caption=True, caption_dropout_rate=0.5)
    for seed in range(50):
        dropped = process("a, b, c, d", dropping, rng(seed), epoch=1)
        assert dropped in ("", process("a, b, c, d", plain, rng(seed), epoch=1))


# Every possible caption of a few settings, against sd-scripts' rules written down in the order in which they apply.


def possible(caption: str, s: Settings, epoch: int = 1, step: int = 0, steps: int = 100) -> set[str]:
    """Everything that may come out: section by section what the reference says, each choice followed both ways."""
    if s.caption_prefix:
        caption = s.caption_prefix + " " + caption
    if s.caption_suffix:
        caption = caption + " " + s.caption_suffix
    if s.caption_dropout_every_n_epochs and epoch % s.caption_dropout_every_n_epochs == 0:
        return {""}
    dropped = {""} if s.caption_dropout_rate else set()
    if s.enable_wildcard:
        found = {option for line in caption.split("\n") for option in wildcards(line)}
    else:
        found = {caption.split("\n")[0]}
    if s.shuffle_caption or s.token_warmup_step or s.caption_tag_dropout_rate:
        found = {option for text in found for option in taken_apart(text, s, step, steps)}
    if s.secondary_separator:
        found = {text.replace(s.secondary_separator, s.caption_separator) for text in found}
    return found | dropped


def wildcards(line: str) -> set[str]:
    """All readings of {a|b|c}; doubled braces stand for one. Private characters take their place meanwhile."""
    line = line.replace("{{", "\ue000").replace("}}", "\ue001")
    pieces = re.split(r"\{([^}]+)\}", line)  # text and choices in turns
    pools = [piece.split("|") if number % 2 else [piece] for number, piece in enumerate(pieces)]
    found = {"".join(option) for option in itertools.product(*pools)}
    return {text.replace("\ue000", "{").replace("\ue001", "}") for text in found}


def taken_apart(text: str, s: Settings, step: int, steps: int) -> Iterator[str]:
    """All orders and all subsets of the flexible tags, as far as shuffling and dropout allow them."""
    if s.keep_tokens_separator and s.keep_tokens_separator in text:
        fixed, _, flexible = text.partition(s.keep_tokens_separator)
        flexible, _, suffix = flexible.partition(s.keep_tokens_separator)
        front, flex, back = ([tag.strip() for tag in part.split(s.caption_separator) if tag.strip()] for part in (fixed, flexible, suffix))  # fmt: skip
    else:
        tags = [tag.strip() for tag in text.split(s.caption_separator)]
        front, flex, back = tags[: s.keep_tokens], tags[s.keep_tokens :], []
    last_step = s.token_warmup_step if s.token_warmup_step >= 1 else math.floor(s.token_warmup_step * steps)
    if step < last_step:
        flex = flex[: math.floor(step * (len(flex) - s.token_warmup_min) / last_step) + s.token_warmup_min]
    for order in itertools.permutations(flex) if s.shuffle_caption else [flex]:
        for keep in (
            itertools.product((True, False), repeat=len(flex)) if s.caption_tag_dropout_rate else [[True] * len(flex)]
        ):
            yield ", ".join(front + [tag for tag, kept in zip(order, keep, strict=True) if kept] + back)


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "prefix and suffix": ("a cat, sitting", {"caption_prefix": "sks,", "caption_suffix": ", in oil"}),
    "only the first line": ("a cat\na dog", {"caption_prefix": "sks", "shuffle_caption": True}),
    "a random line": ("a cat\na dog\na bird", {"enable_wildcard": True}),
    "prefix of several lines": ("a cat\na dog", {"enable_wildcard": True, "caption_prefix": "sks", "caption_suffix": "!"}),
    "choices": ("a {red|green|} {cat|dog}, {{x}}, {lonely}", {"enable_wildcard": True}),
    "choices of whole parts": ("{a, b|c}, d", {"enable_wildcard": True, "shuffle_caption": True}),
    "braces that are text": ("a {red|green} cat", {"shuffle_caption": True}),
    "kept parts": ("a, b, c, d", {"shuffle_caption": True, "keep_tokens": 2}),
    "kept by a mark": ("a, b ||| c, d, e", {"shuffle_caption": True, "keep_tokens_separator": "|||", "keep_tokens": 1}),
    "kept at both ends": ("a ||| c, , d ||| e, f", {"shuffle_caption": True, "keep_tokens_separator": "|||"}),
    "three marks": ("a ||| b, c ||| d ||| e", {"shuffle_caption": True, "keep_tokens_separator": "|||"}),
    "nothing before the mark": ("||| c, d", {"caption_tag_dropout_rate": 0.5, "keep_tokens_separator": "|||"}),
    "no mark, so the first ones": ("a, b, c", {"shuffle_caption": True, "keep_tokens_separator": "|||", "keep_tokens": 1}),
    "a mark that nothing asks for": ("a ||| b", {"keep_tokens_separator": "|||"}),
    "together": ("a;;;b, c, d", {"shuffle_caption": True, "secondary_separator": ";;;"}),
    "together, not moved": ("a;;;b, c", {"secondary_separator": ";;;"}),
    "another separator": ("a, b; c; d;;; e", {"shuffle_caption": True, "caption_separator": ".", "secondary_separator": ";"}),
    "between dots": ("a, b. c. d", {"shuffle_caption": True, "caption_separator": ".", "keep_tokens": 1}),
    "parts left out": ("a, b, c, d", {"caption_tag_dropout_rate": 0.5, "keep_tokens": 1}),
    "left out and moved": ("a, b, c", {"caption_tag_dropout_rate": 0.4, "shuffle_caption": True, "caption_prefix": "sks,", "keep_tokens": 1}),
    "warming up": ("a, b, c, d, e", {"token_warmup_step": 100, "keep_tokens": 1}),
    "warming up for a share": ("a, b, c, d", {"token_warmup_step": 0.5, "token_warmup_min": 2, "shuffle_caption": True}),
    "dropped": ("a, b", {"caption_dropout_rate": 0.3, "caption_prefix": "sks", "caption_suffix": "!", "shuffle_caption": True}),
    "dropped in this epoch": ("a, b", {"caption_dropout_every_n_epochs": 1, "caption_prefix": "sks", "caption_suffix": "!"}),
    "everything": (
        "{x|y} ||| a;;;b, c, d ||| z\nother, {{line}}",
        {"caption_prefix": "sks", "enable_wildcard": True, "shuffle_caption": True, "keep_tokens_separator": "|||",
         "secondary_separator": ";;;", "caption_tag_dropout_rate": 0.3, "caption_dropout_rate": 0.1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_in_time_everything_comes_that_may_come_and_nothing_else(way: str) -> None:
    caption, values = WAYS[way]
    s = Settings(**values)
    for step in (0, 30, 49, 50, 99, 100) if s.token_warmup_step else (0,):
        found = {process(caption, s, rng(seed), 1, step, 100) for seed in range(500)}
        assert found == possible(caption, s, 1, step, 100)


CHARACTERS = st.text("ab {|},.;\n", max_size=14)
CHOICES = st.fixed_dictionaries(
    {
        "caption_prefix": st.sampled_from(["", "p", "{a|b},"]), "caption_suffix": st.sampled_from(["", "s"]),
        "shuffle_caption": st.booleans(), "enable_wildcard": st.booleans(), "keep_tokens": st.integers(0, 3),
        "keep_tokens_separator": st.sampled_from(["", "||", ";"]), "secondary_separator": st.sampled_from(["", ";", "."]),
        "caption_separator": st.sampled_from([",", ".", " ", ""]), "caption_tag_dropout_rate": st.sampled_from([0.0, 0.5, 1.0]),
        "token_warmup_step": st.sampled_from([0.0, 0.001, 0.5, 1.0, 7.5]), "token_warmup_min": st.integers(0, 5),
        "caption_dropout_rate": st.sampled_from([0.0, 0.2]),
    }
)  # fmt: skip


@given(CHARACTERS, CHOICES, st.integers(0, 99), st.integers(0, 12))
def test_whatever_the_caption_nothing_raises_and_nothing_is_invented(
    caption: str, values: dict[str, Any], seed: int, step: int
) -> None:
    s = Settings(**values)
    result = process(caption, s, rng(seed), epoch=1, step=step, steps=10)
    assert result == process(caption, s, rng(seed), epoch=1, step=step, steps=10), "the same again"
    known = Counter(caption + s.caption_prefix + s.caption_suffix)
    added = Counter(result) - known
    assert set(added) <= {" ", ",", *s.caption_separator}, "only what stands between parts"
    if not varies_captions(s):
        assert result in ("", settled(caption, s))


@given(st.text("{}|ab", max_size=9), st.integers(0, 9))
def test_braces_of_any_kind_are_read_as_the_reference_reads_them(text: str, seed: int) -> None:
    assert chosen(text, rng(seed)) in wildcards(text)


@given(CHARACTERS, CHOICES, st.integers(0, 99))
def test_kept_parts_stay_where_they_are(caption: str, values: dict[str, Any], seed: int) -> None:
    s = Settings(
        **{
            **values,
            "enable_wildcard": False,
            "caption_dropout_rate": 0,
            "secondary_separator": "",
            "shuffle_caption": True,
        }
    )
    fixed, _, last = parts(settled(caption, s), s)
    result = process(caption, s, rng(seed), epoch=1)
    front, back = ", ".join(fixed), ", ".join(last)
    assert result.startswith(front)
    assert result.endswith(back)


def test_parts_are_left_out_as_often_as_the_rate_says() -> None:
    s = Settings(caption_tag_dropout_rate=0.25, keep_tokens=1)
    found = Counter(tag for seed in range(2000) for tag in process("k, a, b, c", s, rng(seed), 1).split(", "))
    assert found["k"] == 2000
    assert all(1430 <= found[tag] <= 1570 for tag in "abc"), found


def test_lines_and_choices_are_equally_likely() -> None:
    s = Settings(enable_wildcard=True)
    found = Counter(process("{a|b}\n\nc\n", s, rng(seed), 1) for seed in range(2000))
    assert found.keys() == {"a", "b", "c"}
    assert 930 <= found["c"] <= 1070
    assert 430 <= found["a"] <= 570


def test_captions_grow_from_a_few_parts_to_all() -> None:
    s = Settings(token_warmup_step=0.5, token_warmup_min=2)
    assert [warmed_up(7, s, step, 20) for step in range(12)] == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    assert [
        len(process("a, b, c", Settings(token_warmup_step=4), rng(), 1, step).split(", ")) for step in range(5)
    ] == [1, 1, 2, 2, 3]


def test_a_share_of_too_few_steps_is_none() -> None:
    assert process("a, b, c", Settings(token_warmup_step=0.01), rng(), 1, 0, steps=20) == "a, b, c"


@pytest.mark.parametrize(
    ("values", "varied"),
    [
        ({}, False), ({"caption_dropout_rate": 0.5, "caption_prefix": "x", "secondary_separator": ";"}, False),
        ({"keep_tokens": 1, "keep_tokens_separator": "|||", "token_warmup_min": 3}, False),
        ({"shuffle_caption": True}, True), ({"enable_wildcard": True}, True), ({"token_warmup_step": 0.1}, True),
        ({"caption_tag_dropout_rate": 0.1}, True),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_makes_a_caption_another_one_each_time(values: dict[str, Any], varied: bool) -> None:
    assert varies_captions(Settings(**values)) is varied
