"""Extra arguments in every spelling seen in presets, and where one cannot be read."""

from typing import Any

import pytest

from trainer.arguments import parse_arguments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  \n ", {}),
        ("weight_decay=0.1 betas=0.9,0.99", {"weight_decay": 0.1, "betas": (0.9, 0.99)}),
        ('"decouple=True" "weight_decay=0.01" "betas=0.9,0.999"',
         {"decouple": True, "weight_decay": 0.01, "betas": (0.9, 0.999)}),
        ("scale_parameter=False, relative_step=False, warmup_init=False",
         {"scale_parameter": False, "relative_step": False, "warmup_init": False}),
        ("scale_parameter = false;relative_step = FALSE", {"scale_parameter": False, "relative_step": False}),
        ("betas=(0.9, 0.99)\nbeta3=None", {"betas": (0.9, 0.99), "beta3": None}),
        ("betas=[0.9, 0.99],eps=1e-30,1e-3", {"betas": (0.9, 0.99), "eps": (1e-30, 1e-3)}),
        ("decay_type='linear' kind=cosine-2", {"decay_type": "linear", "kind": "cosine-2"}),
        ("'weight_decay=1e-2','d_coef=2'", {"weight_decay": 0.01, "d_coef": 2}),
        ("k=-1", {"k": -1}),
        ("“weight_decay=0.1” “betas=0.9,0.99”", {"weight_decay": 0.1, "betas": (0.9, 0.99)}),
        (r'\"d0=1e-5\" \"d_coef=1.0\"', {"d0": 1e-5, "d_coef": 1.0}),
        ('["weight_decay=0.1", "betas=0.9,0.99"]', {"weight_decay": 0.1, "betas": (0.9, 0.99)}),
        ("weight_decay=0.1 \\\n  betas=.9,.99", {"weight_decay": 0.1, "betas": (0.9, 0.99)}),
        ("--d_coef=2 --decouple=True", {"d_coef": 2, "decouple": True}),
        ("weight_decay=0.1,betas=0.9,0.99,eps=1e-8", {"weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}),
        ("step_rules=1:10,0.1:20,0.01", {"step_rules": "1:10,0.1:20,0.01"}),
        ("num_decay_steps=25%", {"num_decay_steps": 0.25}),
        ("decay_type=1-sqrt warmup_type='1-sqrt'", {"decay_type": "1-sqrt", "warmup_type": "1-sqrt"}),
    ],
)  # fmt: skip
def test_arguments_in_every_spelling(text: str, expected: dict[str, Any]) -> None:
    assert parse_arguments(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weight_decay", "weight_decay"),
        ("0.9 betas=1", "0.9"),
        ("weight_decay=", "missing"),
        ("weight_decay=0.1 0.2", "0.1 0.2"),
        ("a=1 a=2", "twice"),
        ("x=__import__('os').system('true')", "not a value"),
        ("x=[1, 2", "not a value"),
    ],
)
def test_what_cannot_be_read_is_quoted(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        parse_arguments(text)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("weight_decay=0.1 oops betas=0.9,,0.99", "at character 14: '0.1 oops' is not a value for weight_decay"),
        ("oops weight_decay=0.1", "at character 1: 'oops' is not a name=value pair"),
        ("betas=0.9,0.99\nweight_decay=@", "at line 2, character 14: '@' is not a value for weight_decay"),
        ("a=1 b=2 a=3", "at character 9: a is given twice"),
    ],
)
def test_it_says_where(text: str, where: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_arguments(text)
    assert str(caught.value).startswith(where)
