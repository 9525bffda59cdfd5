"""Presets saved here load in the Kohya GUI: its names, its types of values, its meanings; and here they are what they were."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.settings.kohya_gui import KOHYA_GUI
from trainer.declare import Setting
from trainer.settings import Settings
from trainer.settings.kohya import read
from trainer.settings.loaded import KNOWN
from trainer.settings.saved import LIMITS, LISTS, STANDS_FOR_NONE, not_shown, to_kohya

JSON_TYPE: dict[str, Any] = {
    "checkbox": bool,
    "textbox": str,
    "dropdown": str,
    "radio": str,
    "number": (int, float),
    "slider": (int, float),
}
NUMBER_IN_A_LIST = {"max_token_length"}
"""The Kohya GUI makes a number of it when it loads."""

FULL = Settings(
    seed=None, text_encoder_lr=None, unet_lr=None, sdxl=True, LoRA_type="LyCORIS/LoKr", network_alpha=3, epoch=4,
    lr_warmup=5, clip_skip=2, caption_dropout_rate=0.05, sample_prompts="a cat\na dog",
)  # fmt: skip


@pytest.mark.parametrize("key", [key for key in KOHYA_GUI if key in KNOWN])
@pytest.mark.parametrize("s", [Settings(), FULL], ids=["defaults", "filled"])
def test_a_saved_value_has_the_type_that_the_kohya_gui_saves(s: Settings, key: str) -> None:
    if KNOWN[key].about.secret:
        assert key not in to_kohya(s)
    else:
        assert is_of_its_type(key, to_kohya(s)[key])


def is_of_its_type(key: str, value: Any) -> bool:
    """Whether the Kohya GUI would have saved a value of this type under `key`."""
    kind = KOHYA_GUI[key][1]
    if key in NUMBER_IN_A_LIST:
        return type(value) is int
    if kind == "checkbox":
        return type(value) is bool
    return isinstance(value, JSON_TYPE[kind]) and not isinstance(value, bool)


def as_the_kohya_gui_reads(values: dict[str, Any]) -> dict[str, Any]:
    """What its normaliser makes of the values of a file, key by key, as far as it looks at them."""
    read_as: dict[str, Any] = dict.fromkeys(TO_WHOLE, int) | dict.fromkeys(TO_NUMBER, float)
    found = {key: read_as.get(key, lambda value: value)(value) for key, value in values.items()}
    if found["LoRA_type"] == "LoCon":
        found["LoRA_type"] = "LyCORIS/LoCon"
    if found["save_model_as"] not in ("safetensors", "ckpt"):
        found["save_model_as"] = "safetensors"
    if isinstance(found["xformers"], bool):
        found["xformers"] = "xformers" if found["xformers"] else "none"
    return found


TO_WHOLE = (
    "clip_skip", "epoch", "gradient_accumulation_steps", "keep_tokens", "lr_warmup", "max_data_loader_n_workers", "max_train_epochs",
    "save_every_n_epochs", "seed", "max_train_steps", "caption_dropout_every_n_epochs", "lr_scheduler_num_cycles", "max_token_length",
)  # fmt: skip
TO_NUMBER = (
    "adaptive_noise_scale", "noise_offset", "learning_rate", "text_encoder_lr", "unet_lr", "lr_scheduler_power",
)  # fmt: skip


def test_what_is_not_set_is_saved_as_what_means_the_same_there() -> None:
    saved = to_kohya(Settings(seed=None, learning_rate=3e-4))
    assert (saved["seed"], saved["text_encoder_lr"], saved["unet_lr"]) == (0, 3e-4, 3e-4)
    assert set(saved["not_set"]) == set(STANDS_FOR_NONE)
    assert {item.name for item in KNOWN.values() if item.optional} == set(STANDS_FOR_NONE)


def test_the_kohya_gui_leaves_a_file_that_still_trains_the_same() -> None:
    """It saves what it knows and nothing else: then the stand-ins are what they say."""
    kept = {key: value for key, value in to_kohya(Settings(seed=None, learning_rate=3e-4)).items() if key in KOHYA_GUI}
    found = read(kept).settings
    assert found.seed is None
    assert found == Settings(seed=None, learning_rate=3e-4, unet_lr=3e-4, text_encoder_lr=3e-4)


def test_a_stand_in_that_was_changed_by_hand_counts() -> None:
    saved = {**to_kohya(Settings(seed=None)), "text_encoder_lr": 1e-5, "seed": 7}
    found = read(saved).settings
    assert (found.text_encoder_lr, found.unet_lr, found.seed) == (1e-5, None, 7)


TEXTS = st.text(max_size=12).map(lambda text: text.replace("\0", "")) | st.sampled_from(
    ["p.txt", "--max_grad_norm=0 --sdpa x"]
)


def _values(item: Setting) -> st.SearchStrategy[Any]:
    if item.type is bool:
        plain: st.SearchStrategy[Any] = st.booleans()
    elif item.choices:
        plain = st.sampled_from(item.choices)
    elif item.type is str:
        plain = st.sampled_from(["512,768"]) if item.name == "max_resolution" else TEXTS
    else:
        low = item.ge if item.ge is not None else (item.gt or 0) + 1e-3
        high = min(item.le if item.le is not None else item.lt - 1e-3 if item.lt is not None else low + 500, low + 500)
        whole = st.integers(int(low), int(high))
        plain = whole if item.type is int else st.floats(low, high, allow_nan=False)
    return st.none() | plain if item.optional else plain


PUBLIC = [item for item in KNOWN.values() if not item.about.secret]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_save_load_save_is_the_same_file(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(PUBLIC), max_size=12, unique_by=lambda item: item.name))
    s = Settings(**{item.name: data.draw(_values(item), item.name) for item in chosen})
    saved = json.dumps(to_kohya(s))
    found = read(json.loads(saved))
    assert (found.problems, found.changed, found.ignored) == ([], [], [])
    assert found.settings == s
    assert json.dumps(to_kohya(found.settings)) == saved
    theirs = {key: value for key, value in json.loads(saved).items() if key in KOHYA_GUI}
    assert len(theirs) == 167, "all but the hidden list of models and two secrets"
    assert all(is_of_its_type(key, value) for key, value in theirs.items())
    changed = {key for key, value in as_the_kohya_gui_reads(theirs).items() if value != theirs[key]}
    assert all(any(KNOWN[key].label in text for text in not_shown(s)) for key in changed)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"network_dim": 600}, "Network Rank (Dimension) 600 is outside"),
        ({"network_dim": 600, "LoRA_type": "LyCORIS/LoKr"}, ""),
        ({"caption_extension": ".txt2"}, ".txt2 is not in its list"),
        ({"learning_rate": 2}, "-1 to 1"),
        ({"lr_warmup": 2.5}, "LR warmup (% of total steps) 2.5 becomes 2 there."),
        ({"lr_scheduler_num_cycles": 3.0}, ""),
        ({}, ""),
    ],
)
def test_what_its_fields_cannot_show_is_said(values: dict[str, Any], words: str) -> None:
    said = not_shown(Settings(**values))
    assert (not said and not words) or words in said[0]


@pytest.mark.parametrize(
    "key", [key for key in KOHYA_GUI if key in KNOWN and KOHYA_GUI[key][1] in ("number", "slider")]
)
def test_every_field_that_is_narrower_there_is_known(key: str) -> None:
    low, high = KOHYA_GUI[key][2]
    item = KNOWN[key]
    top = item.le if item.le is not None else item.lt
    bottom = item.ge if item.ge is not None else item.gt
    if (high is not None and (top is None or top > high)) or (low is not None and (bottom is None or bottom < low)):
        assert key in LIMITS
        assert LIMITS[key][0] == (low if low is not None else LIMITS[key][0])
        assert LIMITS[key][1] == (high if high is not None else LIMITS[key][1])


@pytest.mark.parametrize(
    "key", [key for key in KOHYA_GUI if key in KNOWN and KOHYA_GUI[key][1] in ("dropdown", "radio")]
)
def test_every_list_that_is_shorter_there_is_known(key: str) -> None:
    theirs, ours = KOHYA_GUI[key][2], KNOWN[key]
    if ... in theirs or key in NUMBER_IN_A_LIST:
        return
    more = set(ours.choices or ()) - set(theirs)
    assert not more or set(LISTS.get(key, ())) == set(theirs)
    assert not ours.about.custom or key in LISTS
