"""Captions: encodings, dropout, shuffling, weights."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.captions import first_line, parse_weights, process, read_caption, shuffled
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
def test_shuffling_keeps_the_first_parts_and_loses_none(parts: list[str], keep: int, seed: int) -> None:
    parts = [part.strip() for part in parts]
    result = shuffled(",".join(parts), keep, rng(seed)).split(", ")
    assert result[:keep] == parts[:keep]
    assert sorted(result) == sorted(parts)


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [("", 1.0)]),
        ("a cat", [("a cat", 1.0)]),
        ("a (cat)", [("a ", 1.0), ("cat", 1.1)]),
        ("a [cat]", [("a ", 1.0), ("cat", 1 / 1.1)]),
        ("a (cat:1.3) on", [("a ", 1.0), ("cat", 1.3), (" on", 1.0)]),
        ("(cat:.5)", [("cat", 0.5)]),
        ("(cat : 1.5 )", [("cat ", 1.5)]),
        ("(cat:-1)", [("cat", -1.0)]),
        ("((a) b)", [("a", 1.1**2), (" b", 1.1)]),
        ("(a (b:2):1.5)", [("a ", 1.5), ("b", 3.0)]),
        ("([a])", [("a", 1.0)]),
        (r"a \(cat\) \[x\]", [("a (cat) [x]", 1.0)]),
        (r"back\\slash", [("back\\slash", 1.0)]),
        ("time 12:30, a:b", [("time 12:30, a:b", 1.0)]),
        ("open (here", [("open ", 1.0), ("here", 1.1)]),
        ("[open (both", [("open ", 1 / 1.1), ("both", 1.0)]),
        ("closes) nothing]", [("closes) nothing]", 1.0)]),
        ("a:1.3) stays", [("a:1.3) stays", 1.0)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(word:1.2.3)", [("word:1.2.3", 1.1)]),
        ("(a)(b)", [("ab", 1.1)]),
    ],
)
def test_weights(text: str, expected: list[tuple[str, float]]) -> None:
    found = parse_weights(text)
    assert [piece for piece, _ in found] == [piece for piece, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@given(st.text(max_size=40))
def test_any_text_can_be_read(text: str) -> None:
    pieces = parse_weights(text)
    assert pieces
    if not set(text) & set("()[]\\"):
        assert pieces == [(text, 1.0)]
