"""Blocks: which layer is in which, curves and lists as people write them, ranks, alphas and rates of every layer."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.judges import READERS
from tests.adapters.made import attached, drawn, read, taught
from tests.adapters.test_walk import of_real_size as build
from tests.tiny import tiny_folder, tiny_model
from trainer import formats
from trainer.adapters import readers_of
from trainer.adapters.blocks import CURVES, SD, XL, Place, blocks_of, complaints, curve, place_of, rates_in
from trainer.adapters.demands import NOTES, PROBLEMS
from trainer.adapters.lora import LoRA
from trainer.adapters.walk import targets
from trainer.declare import Problem
from trainer.report import Failure
from trainer.settings import Settings


@cache
def of_real_size(family: str) -> Any:
    """A model's layers without their weights."""
    return build(family)


def listed(*values: float) -> str:
    return ",".join(f"{value:g}" for value in values)


# Places


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("lora_unet_down_blocks_0_resnets_0_conv1", 1), ("lora_unet_down_blocks_0_attentions_1_proj_in", 2),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", 3), ("lora_unet_down_blocks_2_attentions_1_proj_out", 8),
        ("lora_unet_down_blocks_3_resnets_1_conv2", 11), ("lora_unet_mid_block_attentions_0_proj_in", 12),
        ("lora_unet_mid_block_resnets_1_conv1", 12), ("lora_unet_up_blocks_0_resnets_0_conv_shortcut", 13),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", 15), ("lora_unet_up_blocks_3_attentions_2_proj_in", 24),
    ],
)  # fmt: skip
def test_the_block_of_a_layer(name: str, index: int) -> None:
    place = place_of(name)
    assert place is not None
    assert SD.index(place) == index


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("lora_unet_input_blocks_1_0_in_layers_2", 2), ("lora_unet_input_blocks_8_1_proj_in", 9),
        ("lora_unet_middle_block_0_in_layers_2", 10), ("lora_unet_middle_block_1_proj_in", 11),
        ("lora_unet_middle_block_2_out_layers_3", 12), ("lora_unet_output_blocks_0_1_proj_in", 13),
        ("lora_unet_output_blocks_8_0_skip_connection", 21),
    ],
)  # fmt: skip
def test_the_block_of_a_layer_of_xl(name: str, index: int) -> None:
    place = place_of(name)
    assert place is not None
    assert XL.index(place) == index


def test_text_encoders_and_ends_are_in_no_block() -> None:
    assert place_of("lora_te_text_model_encoder_layers_0_mlp_fc1") is None
    assert place_of("lora_te1_text_model_encoder_layers_0_mlp_fc1") is None
    assert place_of("lora_unet_time_embedding_linear_1") is None


def test_lists_have_25_and_23_places() -> None:
    assert (SD.count, XL.count) == (25, 23)
    assert [SD.called(index) for index in (0, 11, 12, 13, 24)] == ["down 0", "down 11", "mid", "up 0", "up 11"]
    assert [XL.called(index) for index in (1, 9, 10, 12, 13, 21)] == ["down 0", "down 8", "mid 0", "mid 2", "up 0", "up 8"]


@pytest.mark.parametrize(("family", "layout"), [("sd15", SD), ("sd2", SD), ("sdxl", XL)])
def test_every_layer_of_a_real_unet_is_in_a_block(family: str, layout: Any) -> None:
    """The blocks in which something is adapted, spelt out: attention everywhere but at the deepest, resnets in all."""
    model = of_real_size(family)
    found: dict[bool, set[str]] = {}
    for convolutions in (False, True):
        names = [target.name for target in targets(model, convolutions) if target.part == "unet"]
        places = [place_of(name) for name in names]
        assert None not in places
        found[convolutions] = {layout.called(layout.index(place)) for place in places if place is not None}
    if layout is SD:
        attention = {f"down {n}" for n in (1, 2, 4, 5, 7, 8)} | {"mid"} | {f"up {n}" for n in range(3, 12)}
        every = {f"down {n}" for n in range(1, 12)} | {"mid"} | {f"up {n}" for n in range(12)}
    else:
        attention = {f"down {n}" for n in (4, 5, 7, 8)} | {"mid 1"} | {f"up {n}" for n in range(6)}
        every = {f"down {n}" for n in range(1, 9)} | {f"mid {n}" for n in range(3)} | {f"up {n}" for n in range(9)}
    assert found == {False: attention, True: every}


# Curves and lists


def test_curves_are_the_references() -> None:
    """sine rises as sin(pi/2 · i/(n-1)), cosine is its mirror image; the number after + is added to each."""
    n = 12
    for i in range(n):
        rise = math.sin(math.pi * (i / (n - 1)) / 2)
        assert curve("sine", n)[i] == pytest.approx(rise)
        assert curve("cosine", n)[n - 1 - i] == pytest.approx(rise)
        assert curve("linear", n)[i] == pytest.approx(i / 11)
        assert curve("reverse_linear", n)[i] == pytest.approx(1 - i / 11)
        assert rates_in("sine+.25", n)[i] == pytest.approx(rise + 0.25)
    assert rates_in("zeros + 0.5", 9) == (0.5,) * 9
    assert all(len(curve(name, 9)) == 9 for name in CURVES)


@pytest.mark.parametrize("text", ["0,0.5,1", " 0, .5 ,1.0 ", "[0, 0.5, 1]", '"0,0.5,1"'])
def test_lists_in_every_spelling(text: str) -> None:
    assert rates_in(text, 3) == (0, 0.5, 1)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("down_lr_weight", "1,1", "12 numbers separated by commas; these are 2"),
        ("down_lr_weight", "1", "12 numbers separated by commas; this is 1"),
        ("up_lr_weight", "cosinus", "no curve cosinus; write 12 numbers separated by commas, or one of sine, cosine"),
        ("up_lr_weight", "sine+x", "x cannot be added to sine"),
        ("up_lr_weight", "sine+", "nothing cannot be added to sine"),
        ("up_lr_weight", "1,1,1,1,1,1,1,1,1,1,,1", "nothing in place 11 is not a number"),
        ("mid_lr_weight", "1,2", "one number; these are 2"),
        ("block_lr_zero_threshold", "a lot", "a lot in place 1 is not a number"),
        ("block_dims", listed(*[4] * 23), "25 numbers separated by commas; these are 23"),
        ("block_dims", listed(*[4] * 24, 1.5), "1.5 in place 25 must be a whole number"),
        ("block_dims", listed(*[4] * 24, -1), "-1 in place 25 is not possible; 0 is the least"),
        ("block_alphas", "nan," + listed(*[4] * 24), "nan in place 1 is not a number"),
        ("conv_block_dims", "3", "25 numbers"),
        ("conv_block_alphas", "3,3", "25 numbers"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(key: str, text: str, said: str) -> None:
    ((found, message),) = complaints(Settings(LoRA_type="Kohya LoCon", **{key: text}), SD)
    assert found == key
    assert said in message
    with pytest.raises(Failure, match=r"LR|Block|Conv"):
        attached(**{"LoRA_type": "Kohya LoCon", key: text})  # type: ignore[arg-type]


def test_other_types_have_no_blocks() -> None:
    """What is left in a hidden field does not count."""
    s = Settings(LoRA_type="Kohya LoHa", block_dims="nonsense", up_lr_weight="zeros")
    assert not list(complaints(s, SD))
    assert blocks_of(s, SD).rates is None


# Ranks and alphas


def sizes(family: str, **values: Any) -> dict[str, tuple[int, float]]:
    s, model = Settings(**values), of_real_size(family)
    found = LoRA.sizes_of(LoRA.targets_of(model, s), s)
    return {target.name: (size.rank, size.alpha) for target, size in found.items()}


def index_of(name: str, layout: Any) -> int:
    place = place_of(name)
    assert isinstance(place, Place)
    return int(layout.index(place))


@pytest.mark.parametrize(("family", "layout", "modules"), [("sd15", SD, 264), ("sdxl", XL, 722 + 264)])
def test_every_layer_of_the_real_model_has_its_blocks_rank_and_alpha(family: str, layout: Any, modules: int) -> None:
    dims, alphas = range(1, layout.count + 1), [0.5 * n for n in range(layout.count)]
    found = sizes(family, network_dim=99, network_alpha=9, block_dims=listed(*dims), block_alphas=listed(*alphas))
    assert len(found) == modules
    for name, size in found.items():
        if name.startswith("lora_te"):
            assert size == (99, 9)
        else:
            index = index_of(name, layout)
            assert size == (index + 1, 0.5 * index)


@pytest.mark.parametrize(("family", "layout"), [("sd15", SD), ("sdxl", XL)])
def test_convolutions_have_their_own(family: str, layout: Any) -> None:
    n = layout.count
    dims, conv = [3] * n, [0, 7] * (n // 2) + [0]
    found = sizes(family, LoRA_type="Kohya LoCon", network_dim=99, network_alpha=2, conv_dim=50, conv_alpha=5,
                  block_dims=listed(*dims), conv_block_dims=listed(*conv), conv_block_alphas=listed(*[0] * n))  # fmt: skip
    spatial = {t.name for t in targets(of_real_size(family), convolutions=True) if t.is_spatial}
    assert {name for name in spatial if conv[index_of(name, layout)]} == spatial & found.keys()
    assert {found[name] for name in spatial & found.keys()} == {(7, 7.0)}, "an alpha of 0 is the rank"
    assert {size for name, size in found.items() if name not in spatial and "_te" not in name} == {(3, 2.0)}


def test_convolutions_of_blocks_make_a_standard_lora_a_locon() -> None:
    """As in the reference: with a rank for the convolutions of blocks, resnets and samplers are adapted too."""
    found = sizes("sd15", network_dim=4, conv_block_dims=listed(*[2] * 25))
    assert len(found) == 350
    assert sizes("sd15", LoRA_type="Kohya LoCon", network_dim=4, conv_dim=2) == found


def test_a_rank_of_zero_leaves_a_block_out() -> None:
    found = sizes("sd15", block_dims=listed(*[0] * 12, 4, *[4] * 12))
    assert len(found) == 264 - 6 * 12
    assert not any("_down_blocks_" in name for name in found)


# Rates


def test_blocks_at_or_below_the_threshold_are_left_out() -> None:
    """Down 1 and 2 are the attentions of the first stage; 0.1 is at the threshold, 0.2 above it."""
    weights = {"down_lr_weight": listed(1, 0.1, 0.2, *[1] * 9), "block_lr_zero_threshold": "0.1"}
    found = sizes("sd15", **weights)
    assert len(found) == 264 - 12
    assert not any("down_blocks_0_attentions_0" in name for name in found)
    assert any("down_blocks_0_attentions_1" in name for name in found)
    # A threshold says nothing about sides that are not written.
    assert len(sizes("sd15", down_lr_weight=listed(*[5] * 12), block_lr_zero_threshold="2")) == 264


def test_zeros_and_negative_weights_leave_out() -> None:
    assert len(sizes("sd15", up_lr_weight="zeros")) == 264 - 9 * 12
    assert len(sizes("sd15", mid_lr_weight="-1")) == 264 - 12
    assert len(sizes("sdxl", mid_lr_weight="1,0,1")) == 722 + 264 - (2 + 10 * 10)
    assert len(sizes("sd15", LoRA_type="Kohya LoCon", mid_lr_weight="0")) == 350 - 12 - 6


@pytest.mark.parametrize(("family", "layout"), [("sd15", SD), ("sdxl", XL)])
@pytest.mark.parametrize("kind", ["Kohya LoCon", "LoRA-FA", "Kohya DyLoRA"])
def test_groups_learn_at_the_rates_of_their_blocks(family: str, layout: Any, kind: str) -> None:
    _, adapter = attached(
        LoRA_type=kind, family=family, network_dim=2, conv_dim=2, down_lr_weight="linear+0.5", mid_lr_weight=listed(*[0.25] * layout.mid),
        up_lr_weight="reverse_linear", loraplus_unet_lr_ratio=4, loraplus_lr_ratio=8,
    )  # fmt: skip
    groups = {group.name: group for group in adapter.groups()}
    halves = ("plus",) if kind == "LoRA-FA" else ("", "plus")
    last = layout.down - 1
    expected = {f"down {n}": n / last + 0.5 for n in range(1, layout.down)}  # nothing is adapted in the first
    expected |= {"mid": 0.25} if layout.mid == 1 else {f"mid {n}": 0.25 for n in range(layout.mid)}
    expected |= {f"up {n}": 1 - n / last for n in range(layout.up - 1)}  # the last has rate 0 and is left out
    for name, rate in expected.items():
        for half in halves:
            assert groups[f"unet {name} {half}".strip()].scale == pytest.approx(rate * (4 if half else 1))
    texts = {f"textencoder {half}".strip() for half in halves}
    assert groups.keys() == {f"unet {name} {half}".strip() for name in expected for half in halves} | texts
    assert groups["textencoder plus"].scale == 8, "the text encoder has no ratio of its own"
    assert {group.part for group in groups.values() if group.name in texts} == {"text"}
    every = [parameter for group in groups.values() for parameter in group.parameters]
    assert len({id(parameter) for parameter in every}) == len(every)
    assert {id(p) for p in every} == {id(p) for p in (*adapter.unet_parameters, *adapter.text_parameters)}
    assert all(parameter.requires_grad for parameter in every)


def test_without_blocks_and_ratios_there_is_a_group_for_each_part() -> None:
    _, adapter = attached()
    assert [(group.name, group.part, group.scale) for group in adapter.groups()] == [
        ("unet", "unet", 1), ("textencoder", "text", 1),
    ]  # fmt: skip
    assert [len(group.parameters) for group in adapter.groups()] == [2 * 192, 2 * 18]


def test_the_ratio_of_a_part_wins() -> None:
    _, adapter = attached(loraplus_lr_ratio=16, loraplus_text_encoder_lr_ratio=2)
    assert {group.name: group.scale for group in adapter.groups()} == {
        "unet": 1, "unet plus": 16, "textencoder": 1, "textencoder plus": 2,
    }  # fmt: skip


def test_blocks_that_come_from_a_file_and_have_no_rate_stay_as_they_are(tmp_path: Path) -> None:
    """As in the reference: a file's layers are all kept, and those of blocks with rate 0 are not trained."""
    _, source = taught(network_dim=2)
    file = formats.save(tmp_path / "a.safetensors", source.state_dict(), {})
    _, adapter = attached(network_weights=str(file), dim_from_weights=True, up_lr_weight="zeros", mid_lr_weight="0")
    assert adapter.layers.keys() == source.layers.keys()
    resting = [name for name in adapter.layers if "_up_blocks_" in name or "_mid_" in name]
    assert len(resting) == 10 * 12
    for name in adapter.layers:
        assert all(weight.requires_grad == (name not in resting) for weight in adapter.weights(name).values())
    assert not any("up" in group.name or "mid" in group.name for group in adapter.groups())


def test_nothing_left_to_train_is_a_failure() -> None:
    zeros: dict[str, Any] = {"down_lr_weight": "zeros", "mid_lr_weight": "0", "up_lr_weight": "zeros", "text_encoder_lr": 0}
    with pytest.raises(Failure, match="Nothing would be trained"):
        attached(**zeros)
    with pytest.raises(Failure, match="Nothing would be trained"):
        attached(family="sdxl", **{**zeros, "mid_lr_weight": "0,0,0"})


# Files


MIXED: dict[str, Any] = {
    "network_dim": 3, "network_alpha": 2, "block_dims": listed(*[2] * 12, 4, *[1, 5, 3] * 4),
    "block_alphas": listed(*[1.5] * 12, 0, *[2] * 12), "conv_block_dims": listed(*[1, 2] * 12, 0),
    "conv_block_alphas": listed(*[3] * 25), "down_lr_weight": listed(*[1] * 5, 0, *[1] * 6),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "alphas"), [("Standard", True), ("Standard", False), ("LoRA-FA", False), ("Kohya DyLoRA", False)]
)
def test_a_file_of_mixed_ranks_is_read(kind: str, alphas: bool, tmp_path: Path) -> None:
    """By everybody if blocks differ in rank alone. diffusers has one alpha for all attention layers of a U-Net."""
    options = {key: value for key, value in MIXED.items() if alphas or key != "block_alphas"}
    model, adapter = taught(LoRA_type=kind, **options, conv_dim=0)
    adapter.train(False)
    file = formats.save(tmp_path / "a.safetensors", adapter.state_dict(), {})
    plain, text = drawn(tiny_model().unet), read(tiny_model().text_encoders[0])
    live, said = drawn(model.unet), read(model.text_encoders[0])
    assert (live - plain).abs().max() > 0.05
    assert (said - text).abs().max() > 0.05
    merged = tiny_model()
    adapter.merge_into(merged)
    loaded = {"merged": merged, **{name: reader(file, tiny_model()) for name, reader in READERS.items()}}
    right = {name for name, other in loaded.items() if torch.allclose(drawn(other.unet), live, atol=1e-4, rtol=1e-4)}
    assert right == loaded.keys() - ({"diffusers"} if alphas else set())
    for other in loaded.values():
        torch.testing.assert_close(read(other.text_encoders[0]), said, atol=1e-4, rtol=1e-4)
    assert ("diffusers gives" in readers_of(Settings(LoRA_type=kind, **options))) == alphas


@pytest.mark.parametrize("kind", ["Standard", "LoRA-FA", "Kohya DyLoRA"])
def test_it_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    _, adapter = taught(LoRA_type=kind, **{**MIXED, "conv_dim": 0})
    state = adapter.state_dict()
    file = formats.save(tmp_path / "a.safetensors", state, {})
    own = {**MIXED, "conv_dim": 0}
    for options in (own, {"dim_from_weights": True} | ({"LoRA_type": "Kohya LoCon"} if kind == "Standard" else {})):
        _, again = attached(seed=9, **{"LoRA_type": kind, "network_weights": str(file), **options})
        found = again.state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in found)


# Before the start


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    made = {family: tiny_folder(root / family, family=family, tokenizer=False) for family in ("sd15", "sdxl")}
    return {"unknown": "somebody/some-model", **{family: str(path) for family, path in made.items()}}


def found(s: Settings, checks: Any = PROBLEMS) -> list[Problem]:
    return [problem for check in checks for problem in check(s)]


TWELVE, NINE = listed(*[1] * 12), listed(*[1] * 9)


@pytest.mark.parametrize(
    ("model", "values", "said"),
    [
        ("sd15", {"down_lr_weight": NINE}, "Down LR weights: for Stable Diffusion 1.5 and 2, write 12 numbers"),
        ("sdxl", {"up_lr_weight": TWELVE}, "Up LR weights: for Stable Diffusion XL, write 9 numbers"),
        ("sdxl", {"block_dims": listed(*[4] * 25)}, "Block dims: for Stable Diffusion XL, write 23 numbers"),
        ("unknown", {"down_lr_weight": "1,2"}, "Down LR weights: "),
        ("sd15", {"up_lr_weight": "sinus"}, "Up LR weights: for Stable Diffusion 1.5 and 2, there is no curve sinus"),
        ("sd15", {"block_lr_zero_threshold": "x"}, "Blocks LR zero threshold: x in place 1 is not a number"),
        ("sd15", {"LoRA_type": "Kohya DyLoRA", "unit": 2, "network_dim": 4, "conv_dim": 0, "block_dims": listed(*[2] * 24, 3)},
         "does not divide every rank in Block dims"),
        ("sd15", {"LoRA_type": "Kohya DyLoRA", "unit": 3, "network_dim": 4, "conv_dim": 0}, "3 does not divide Network Rank"),
        ("sd15", {"up_lr_weight": "zeros", "down_lr_weight": "zeros", "mid_lr_weight": "0", "text_encoder_lr": 0},
         "no block learns"),
        ("sd15", {"optimizer": "Prodigy", "learning_rate": 1, "loraplus_lr_ratio": 16}, "LoRA+ learning rate ratio: Prodigy"),
        ("sd15", {"optimizer": "Adafactor", "loraplus_unet_lr_ratio": 2}, "LoRA+ Unet learning rate ratio: Adafactor"),
        ("sd15", {"optimizer": "DAdaptAdam", "up_lr_weight": "sine"}, "Up LR weights: DAdaptAdam"),
    ],
)  # fmt: skip
def test_each_problem_is_a_sentence_whose_fix_cures_it(
    models: dict[str, str], model: str, values: dict[str, Any], said: str
) -> None:
    s = Settings(pretrained_model_name_or_path=models[model], **values)
    problems = found(s)
    assert len(problems) == 1
    assert said in str(problems[0])
    assert problems[0].fix
    cured = s.changed(**problems[0].fix)
    assert said not in " ".join(map(str, found(cured)))


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("sd15", {"down_lr_weight": TWELVE, "mid_lr_weight": "1", "block_dims": listed(*[4] * 25)}),
        ("sdxl", {"up_lr_weight": NINE, "mid_lr_weight": "1,1,1", "block_dims": listed(*[4] * 23)}),
        ("unknown", {"up_lr_weight": NINE}), ("unknown", {"up_lr_weight": TWELVE}),
        ("sd15", {"optimizer": "Prodigy", "learning_rate": 1, "up_lr_weight": "zeros"}),
        ("sd15", {"optimizer": "Adafactor", "optimizer_args": "relative_step=False", "loraplus_lr_ratio": 2}),
        ("sd15", {"LoRA_type": "Kohya LoHa", "up_lr_weight": "nonsense"}),
    ],
)  # fmt: skip
def test_what_can_be_meant_is_not_spoken_of(models: dict[str, str], model: str, values: dict[str, Any]) -> None:
    s = Settings(pretrained_model_name_or_path=models[model], **values)
    assert [*found(s), *found(s, NOTES)] == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"block_lr_zero_threshold": "0.1"}, "Blocks LR zero threshold: has an effect only with one of Down LR weights"),
        ({"up_lr_weight": "sine", "unet_lr": 0}, "Up LR weights: has no effect: Unet learning rate is 0"),
        ({"conv_block_alphas": listed(*[1] * 25)}, "Conv alphas: has an effect only with Conv dims"),
        ({"loraplus_text_encoder_lr_ratio": 4, "text_encoder_lr": 0}, "Text Encoder learning rate is 0"),
    ],
)
def test_what_has_no_effect_is_said(models: dict[str, str], values: dict[str, Any], said: str) -> None:
    s = Settings(pretrained_model_name_or_path=models["sd15"], **values)
    assert said in " ".join(map(str, found(s, NOTES)))
    assert not found(s)
