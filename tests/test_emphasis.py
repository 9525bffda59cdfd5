"""Words that weigh more or less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.emphasis import parse_weights


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
