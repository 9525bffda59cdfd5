"""Which tags a picture gets, in which words and order; no model is needed for that."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.captioners.tags import (
    CHARACTER,
    GENERAL,
    QUALITY,
    RATING,
    Choice,
    NotTags,
    Tag,
    Wording,
    appended,
    expanded,
    in_words,
    key,
    read_tags,
    replacements,
    unknown,
    without_underscore,
)

VOCABULARY = (
    Tag("general", RATING),
    Tag("explicit", RATING),
    Tag("1girl"),
    Tag("long_hair"),
    Tag("alice_(wonderland)", CHARACTER),
    Tag("hatter_(wonderland)", CHARACTER),
    Tag("bad quality", QUALITY),
    Tag("best quality", QUALITY),
    Tag("wonderland_(series)", "copyright"),
)
LIKELY = np.array([0.2, 0.1, 0.9, 0.4, 0.8, 0.36, 0.01, 0.02, 0.5], np.float32)


def names(**how: Any) -> list[str]:
    return [tag.name for tag in Choice(**how)(VOCABULARY, LIKELY)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("long_hair", "long hair"),
        ("hair_between_eyes", "hair between eyes"),
        ("^_^", "^_^"),
        ("@_@", "@_@"),
        ("0_0", "0_0"),
        ("(o)_(o)", "(o)_(o)"),
        ("<|>_<|>", "<|>_<|>"),
        ("||_||", "||_||"),
        ("a_b_c", "a b c"),
    ],
)
def test_underscores_become_spaces_but_faces_keep_theirs(name: str, words: str) -> None:
    assert without_underscore(name) == words


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("alice_(wonderland)", ("alice", "wonderland")),
        ("alice_(striped)_(wonderland)", ("alice_(striped)", "wonderland")),
        ("alice", ("alice",)),
        ("(alone)", ("(alone)",)),
        ("alice_(a_(b))", ("alice_(a_(b))",)),
    ],
)
def test_the_last_brackets_become_a_tag(name: str, parts: tuple[str, ...]) -> None:
    assert expanded(name) == parts


def test_thresholds_of_general_tags_and_characters() -> None:
    assert names() == ["1girl", "long_hair", "wonderland_(series)", "alice_(wonderland)", "hatter_(wonderland)"]
    assert names(general=0.6) == ["1girl", "alice_(wonderland)", "hatter_(wonderland)"]
    assert names(character=0.6) == ["1girl", "long_hair", "wonderland_(series)", "alice_(wonderland)"]
    assert names(general=0.9) == ["1girl", "alice_(wonderland)", "hatter_(wonderland)"], "as likely is likely enough"
    assert names(general=1, character=1) == []


def test_everything_in_its_order() -> None:
    some = {"general": 0.6, "character": 0.6}
    assert names(**some, characters_first=True) == ["alice_(wonderland)", "1girl"]
    both = (RATING, QUALITY)
    assert names(**some, front=both) == ["best quality", "general", "1girl", "alice_(wonderland)"]
    assert names(**some, back=both) == ["1girl", "alice_(wonderland)", "general", "best quality"]
    assert names(**some, front=(QUALITY,), back=(RATING,)) == ["best quality", "1girl", "alice_(wonderland)", "general"]


def test_a_tagger_without_quality_gives_none() -> None:
    choice = Choice(front=(QUALITY, RATING))
    assert choice([Tag("cat")], np.array([0.9], np.float32)) == [Tag("cat")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("long hair,hair down", {"long hair": "hair down"}),
        ("long_hair,hair;1girl,woman;", {"long hair": "hair", "1girl": "woman"}),
        (r"cat,cat\, black; ;) ,x", {"cat": "cat, black", ")": "x"}),
        (r"\;),winking", {";)": "winking"}),
        (r"a\,b,c\;d", {"a,b": "c;d"}),
        (r"\m/,horns", {r"\m/": "horns"}),
        ("blurry,", {"blurry": ""}),
    ],
)
def test_replacements_and_their_backslashes(text: str, found: dict[str, str]) -> None:
    assert replacements(text) == found


@pytest.mark.parametrize("text", ["cat", "cat,dog,bird", "a,b;cat", ",dog"])
def test_what_is_no_pair_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is not a pair such as long hair,hair down"):
        replacements(text)


@pytest.mark.parametrize(
    ("how", "tag", "texts"),
    [
        ({}, "long_hair", ["long hair"]),
        ({"remove_underscore": False}, "long_hair", ["long_hair"]),
        ({"undesired": frozenset({"long hair"})}, "long_hair", []),
        ({"replacements": {"long hair": "hair"}}, "long_hair", ["hair"]),
        ({"replacements": {"long hair": ""}}, "long_hair", []),
        ({"replacements": {"long hair": "hair"}, "undesired": frozenset({"hair"})}, "long_hair", []),
        ({}, "alice_(wonderland)", ["alice (wonderland)"]),
        ({"expand": True}, "alice_(wonderland)", ["alice", "wonderland"]),
        ({"expand": True, "undesired": frozenset({"wonderland"})}, "alice_(wonderland)", ["alice"]),
        ({"expand": True, "replacements": {"alice": "sks"}}, "alice_(wonderland)", ["sks", "wonderland"]),
        ({"expand": True, "replacements": {"alice (wonderland)": "sks"}}, "alice_(wonderland)", ["sks"]),
        ({"expand": True, "replacements": {"alice, wonderland": "sks"}}, "alice_(wonderland)", ["sks"]),
        ({"expand": True}, "wonderland_(series)", ["wonderland (series)"]),
    ],
)
def test_words_for_a_tag(how: dict[str, Any], tag: str, texts: list[str]) -> None:
    (found,) = (item for item in VOCABULARY if item.name == tag)
    assert Wording(**how)(found) == texts


def test_every_text_stands_once_and_some_in_front() -> None:
    wording = Wording(expand=True)
    tags = [VOCABULARY[at] for at in (3, 4, 5, 2)]
    assert in_words(tags, wording) == ["long hair", "alice", "wonderland", "hatter", "1girl"]
    assert in_words(tags, wording, ["1girl", "cat", "hatter"])[:3] == ["1girl", "hatter", "long hair"]


@pytest.mark.parametrize(
    ("before", "caption"),
    [
        ("", "1girl, long hair"),
        ("a woman in a park", "a woman in a park, 1girl, long hair"),
        ("Long_Hair, park,", "Long_Hair, park, 1girl"),
        ("long hair, 1girl,", "long hair, 1girl,"),
    ],
)
def test_only_what_is_new_is_appended(before: str, caption: str) -> None:
    assert appended(before, ["1girl", "long hair"], ", ") == caption


def test_words_that_are_no_tags_are_named_with_the_nearest() -> None:
    wording = Wording(expand=True, replacements={"1girl": "woman"})
    known = ["long hair", "Long_Hair", "alice", "wonderland", "alice, wonderland", "woman"]
    assert unknown(known, VOCABULARY, wording) == []
    assert unknown(["lomg hair", "dragon"], VOCABULARY, wording) == ["lomg hair; did you mean long hair?", "dragon."]


def test_a_table_is_read_as_the_taggers_have_it(tmp_path: Path) -> None:
    path = tmp_path / "selected_tags.csv"
    text = 'tag_id,name,category,count\n1,general,9,5\n2,"a,b",0,4\n3,alice,4,3\n4,park,3,2\n5,good,Quality,1\n'
    path.write_text(text, encoding="utf-8")
    assert [tag.category for tag in read_tags(path)] == [RATING, GENERAL, CHARACTER, "3", QUALITY]
    assert read_tags(path)[1].name == "a,b"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "has no columns name and category"),
        (b"id,label\n1,cat\n", "has no columns name and category"),
        (b"tag_id,name,category\n", "names no tags"),
        (b"\xff\xfe\x00", "is no table"),
    ],
    ids=["empty", "other columns", "no rows", "no text"],
)
def test_what_is_no_table_of_tags_is_said(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "selected_tags.csv"
    path.write_bytes(data)
    with pytest.raises(NotTags, match=why):
        read_tags(path)


def test_spellings_have_one_key() -> None:
    assert key("Long_Hair") == key(" long hair")
