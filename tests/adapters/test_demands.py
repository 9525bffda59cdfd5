"""What LoRA types ask of the settings: said under the label, before anything starts, with a value that works."""

from pathlib import Path
from typing import Any

import pytest

from tests.adapters.made import attached
from tests.tiny import tiny_folder, tiny_single_file
from trainer.adapters import ADAPTERS, readers_of, types_with
from trainer.adapters.demands import NOTES, PROBLEMS
from trainer.declare import Problem, by_name, settings_of, visible
from trainer.report import Failure
from trainer.settings import Settings
from trainer.settings.lycoris import Lycoris


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_folder(tmp_path_factory.mktemp("model"), tokenizer=False))


def problems(s: Settings) -> list[Problem]:
    return [item for find in PROBLEMS for item in find(s)]


def notes(s: Settings) -> list[Problem]:
    return [item for find in NOTES for item in find(s)]


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"LoRA_type": "LyCORIS/LoCon", "LyCORIS_preset": "attn"}, "LyCORIS_preset", "there is no preset and no file attn"),
    ({"LoRA_type": "LyCORIS/LoCon", "LyCORIS_preset": "unet-transformer-only", "unet_lr": 0}, "LyCORIS_preset", "rate is 0"),
    ({"LoRA_type": "LyCORIS/LoHa", "dora_wd": True, "bypass_mode": True}, "bypass_mode", "does not go together with DoRA"),
    ({"LoRA_type": "LyCORIS/DyLoRA", "network_dim": 8, "conv_dim": 8, "unit": 3}, "unit", "3 does not divide Network Rank"),
    ({"LoRA_type": "Kohya DyLoRA", "network_dim": 8, "conv_dim": 6, "unit": 4}, "unit", "4 does not divide Convolution Rank"),
    ({"LoRA_type": "LyCORIS/LoKr", "factor": 7}, "factor", "7 divides none of the layers' widths (4, 8, 16, 24, 32, 40 …)"),
    ({"LoRA_type": "Kohya LoKr", "factor": 11}, "factor", "11 divides none"),
    ({"LoRA_type": "LyCORIS/BOFT", "network_dim": 4, "conv_dim": 8}, "network_dim", "BOFT needs at least 6 for layers with"),
    ({"LoRA_type": "LyCORIS/BOFT", "network_dim": 8, "conv_dim": 1}, "conv_dim", "BOFT needs at least 6 for layers with"),
    ({"LoRA_type": "LyCORIS/Diag-OFT", "conv_dim": 1}, "conv_dim", "blocks of one output cannot turn"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "key", "words"), CASES)
def test_impossible_settings_are_named_and_the_fix_cures_them(
    values: dict[str, Any], key: str, words: str, model: str
) -> None:
    s = Settings(pretrained_model_name_or_path=model, **values)
    found = problems(s)
    assert [item.key for item in found] == [key]
    assert words in found[0].message
    assert found[0].label == by_name(Settings)[key].label
    assert found[0].fix
    assert problems(s.changed(**found[0].fix)) == []


@pytest.mark.parametrize(
    ("values", "key", "words"), [case for case in CASES if case[1] in ("factor", "network_dim", "conv_dim", "unit")]
)
def test_what_slipped_through_is_said_when_the_adapter_is_made(values: dict[str, Any], key: str, words: str) -> None:
    """A model whose widths are not known before, from the hub."""
    with pytest.raises(Failure) as error:
        attached(**values)
    assert error.value.key == key
    assert error.value.reason.startswith(by_name(Settings)[key].label)


def test_widths_are_read_from_a_single_file(tmp_path: Path) -> None:
    file = tiny_single_file(tmp_path / "tiny.safetensors")
    s = Settings(pretrained_model_name_or_path=str(file), LoRA_type="LyCORIS/LoKr", factor=7)
    assert [item.key for item in problems(s)] == ["factor"]
    assert problems(s.changed(factor=8)) == []


def test_settings_of_other_types_are_no_problem(model: str) -> None:
    s = Settings(pretrained_model_name_or_path=model, factor=7, unit=3, dora_wd=True, bypass_mode=True,
                 LyCORIS_preset="nothing", conv_dim=1)  # fmt: skip
    assert problems(s) == []
    assert notes(s) == []


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        (
            {"LyCORIS_preset": "unet-convblock-only", "text_encoder_lr": 1e-4},
            "text_encoder_lr",
            "trains the U-Net alone",
        ),
        ({"rank_dropout_scale": True}, "rank_dropout_scale", "only with Rank dropout"),
        ({"LyCORIS_preset": "attn-mlp", "use_tucker": True}, "use_tucker", "no 3x3 convolution is trained"),
        ({"conv_dim": 0, "use_tucker": True}, "use_tucker", "no 3x3 convolution is trained"),
    ],
)
def test_settings_without_effect_are_said(values: dict[str, Any], key: str, words: str, model: str) -> None:
    found = notes(Settings(pretrained_model_name_or_path=model, LoRA_type="LyCORIS/LoCon", **values))
    assert [(item.key, words in item.message) for item in found] == [(key, True)]


# What the page shows

REFERENCE = {
    "factor": {"Kohya LoKr", "LyCORIS/LoKr"},
    "bypass_mode": {"LyCORIS/LoCon", "LyCORIS/LoHa", "LyCORIS/LoKr"},
    "dora_wd": {"LyCORIS/LoCon", "LyCORIS/LoHa", "LyCORIS/LoKr"},
    "use_cp": {"LyCORIS/LoKr"},
    "use_scalar": {"LyCORIS/LoCon", "LyCORIS/LoHa", "LyCORIS/LoKr"},
    "constrain": {"LyCORIS/Diag-OFT"},
    "rescaled": {"LyCORIS/Diag-OFT"},
    "decompose_both": {"LyCORIS/LoKr"},
    "train_on_input": {"LyCORIS/iA3"},
    "unit": {"Kohya DyLoRA", "LyCORIS/DyLoRA"},
    "use_tucker": {"Kohya LoHa", "Kohya LoKr", "LyCORIS/LoCon", "LyCORIS/LoHa", "LyCORIS/LoKr"},
    "train_norm": {f"LyCORIS/{name}" for name in
                   ("BOFT", "Diag-OFT", "DyLoRA", "GLoRA", "LoCon", "LoHa", "LoKr", "Native Fine-Tuning")},
    "rank_dropout_scale": {f"LyCORIS/{name}" for name in
                           ("BOFT", "Diag-OFT", "GLoRA", "LoCon", "LoHa", "LoKr", "Native Fine-Tuning")},
    "LyCORIS_preset": {name for name in ADAPTERS if name.startswith("LyCORIS/")},
}  # fmt: skip


def test_each_option_is_shown_where_it_means_something() -> None:
    """As in the Kohya GUI, but for Use Tucker decomposition, which is left out where it would do nothing."""
    assert {item.name for item in settings_of(Lycoris)} == set(REFERENCE)
    for item in settings_of(Lycoris):
        assert set(types_with(item.name)) == REFERENCE[item.name], item.name
        for name in ADAPTERS:
            assert visible(item, {"LoRA_type": name}) == (name in REFERENCE[item.name])


def test_the_sentence_beside_lora_type_depends_on_the_options() -> None:
    def said(kind: str, **options: Any) -> str:
        return readers_of(Settings(LoRA_type=kind, **options))

    assert "Every program" in said("LyCORIS/LoCon")
    assert "diffusers cannot" in said("LyCORIS/LoCon", use_tucker=True)
    assert "ComfyUI and Forge" in said("LyCORIS/LoCon", dora_wd=True)
    assert "No known program" in said("LyCORIS/LoKr", use_tucker=True)
    assert "No known program" in said("LyCORIS/LoKr", use_cp=True)
    assert "No known program" in said("LyCORIS/iA3")
    assert "Forge and diffusers cannot" in said("LyCORIS/BOFT")
    assert "Every program" in said("Standard", dora_wd=True, use_tucker=True), "which are not shown for it"
