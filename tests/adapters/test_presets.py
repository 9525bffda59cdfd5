"""LyCORIS presets: the layers they mean on the full-sized models, and files that people write."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.adapters.made import attached, drawn
from tests.tiny import listener, tiny_model
from trainer.adapters import attach
from trainer.adapters.lycoris.chosen import Chosen, chosen
from trainer.adapters.lycoris.presets import PRESETS, find_preset
from trainer.adapters.walk import targets
from trainer.models import configs
from trainer.report import Failure
from trainer.settings import Settings


@pytest.fixture(scope="module")
def full() -> Any:
    """Stable Diffusion 1.5 and XL without their weights: shapes only."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    found = {}
    for family, texts in {
        "sd15": [("text_encoder", CLIPTextModel)],
        "sdxl": [("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)],
    }.items():
        folder = str(Path(configs.__file__).parent / family)
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
            encoders = [kind(CLIPTextConfig.from_pretrained(folder, subfolder=name)) for name, kind in texts]
        found[family] = SimpleNamespace(family=family, unet=unet, text_encoders=encoders)
    return found


def meant(model: Any, name: str, **settings: Any) -> list[Chosen]:
    return chosen(model, find_preset(name), "locon", Settings(**settings))


COUNTS = {
    # (linear layers and 1x1 convolutions, larger convolutions) of the U-Net, and layers of the text encoders
    ("sd15", "full"): (192 + 22 + 14 + 2, 44 + 6 + 2, 72),
    ("sd15", "full-lin"): (192 + 22 + 14 + 2, 0, 72),
    ("sd15", "attn-mlp"): (192, 0, 72),
    ("sd15", "attn-only"): (128, 0, 48),
    ("sd15", "unet-transformer-only"): (192, 0, 0),
    ("sd15", "unet-convblock-only"): (22 + 14, 44 + 6 + 2, 0),
    ("sdxl", "full"): (722 + 17 + 11, 34 + 4, 264),
    ("sdxl", "full-lin"): (722 + 17 + 11, 0, 264),
    ("sdxl", "attn-mlp"): (722, 0, 264),
    ("sdxl", "attn-only"): (560, 0, 176),
    ("sdxl", "unet-transformer-only"): (722, 0, 0),
    ("sdxl", "unet-convblock-only"): (17 + 11, 34 + 4, 0),
}


@pytest.mark.parametrize(("family", "name"), COUNTS)
def test_layers_of_each_preset(full: Any, family: str, name: str) -> None:
    """Counted by hand from the models: 16 and 11 transformers, 22 and 17 resnets, 14 and 11 of them with a shortcut."""
    found = meant(full[family], name)
    unet = [target for target in found if target.part == "unet"]
    spatial = [target for target in unet if target.is_spatial]
    assert (len(unet) - len(spatial), len(spatial), len(found) - len(unet)) == COUNTS[family, name]
    assert len({target.name for target in found}) == len(found), "each once"


def test_the_lora_and_locon_of_kohya_are_in_full(full: Any) -> None:
    for model in full.values():
        names = {target.name for target in meant(model, "full")}
        kohya = {target.name for target in targets(model, convolutions=True)}
        assert kohya <= names
        more = {"conv_in", "conv_out", "time_embedding_linear_1", "time_embedding_linear_2"}
        assert names - kohya == ({f"lora_unet_{name}" for name in more} if model.family == "sd15" else set())
        plain = {target.name for target in targets(model, convolutions=False)}
        assert {target.name for target in meant(model, "attn-mlp")} == plain


def test_norms_are_those_of_the_blocks(full: Any) -> None:
    """A GroupNorm and three LayerNorms in each transformer, two GroupNorms in each resnet."""
    for family, transformers, blocks, resnets in (("sd15", 16, 16, 22), ("sdxl", 11, 70, 17)):
        found = meant(full[family], "full", LoRA_type="LyCORIS/LoCon", train_norm=True)
        norms = [target for target in found if target.algo == "norm"]
        assert len(norms) == transformers + 3 * blocks + 2 * resnets
        assert all(target.part == "unet" for target in norms)
    names = {target.name for target in meant(full["sdxl"], "full", LoRA_type="LyCORIS/LoCon", train_norm=True)}
    assert {"lora_unet_input_blocks_1_0_in_layers_0", "lora_unet_input_blocks_4_1_norm"} <= names


def test_the_presets_of_lycoris_mean_the_same_layers() -> None:
    """Its own walk over the same model, whose class names are those of diffusers."""
    from lycoris.config import PRESET
    from lycoris.kohya import LycorisNetworkKohya
    from lycoris.logging import logger

    logger.setLevel("ERROR")
    model = tiny_model()
    before = {name: value for name, value in vars(LycorisNetworkKohya).items() if name.isupper()}
    try:
        for name in ("full", "full-lin", "attn-mlp", "unet-transformer-only", "unet-convblock-only"):
            preset = dict(PRESET[name])
            # A class of another model family, by which 4.1.3 finds the time embedding a second time and gives up.
            preset["unet_target_module"] = [
                word for word in preset["unet_target_module"] if word != "TimestepEmbedding"
            ]
            LycorisNetworkKohya.apply_preset(preset)
            network = LycorisNetworkKohya([], model.unet, 1.0, lora_dim=2, conv_lora_dim=2, warn_on_unmatched=False)
            theirs = Counter(module.lora_name for module in network.unet_loras)
            assert theirs == Counter(t.name for t in meant(model, name) if t.part == "unet"), name
    finally:
        for name, value in before.items():
            setattr(LycorisNetworkKohya, name, value)


# Files


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_chooses_layers_and_their_settings(tmp_path: Path) -> None:
    """Blocks by class, layers by pattern, others left out, and settings of their own for some."""
    name = write(
        tmp_path / "mine.toml",
        """
        enable_conv = false
        unet_target_module = ["Transformer2DModel"]
        unet_target_name = ["conv_in"]
        text_encoder_target_module = []
        exclude_name = [".*attn2.*"]
        [module_algo_map.FeedForward]
        algo = "lokr"
        dim = 1
        factor = 4
        [name_algo_map."conv_in"]
        dim = 3
        alpha = 1.5
        """,
    )
    settings: dict[str, Any] = {"LyCORIS_preset": name, "network_dim": 4, "network_alpha": 2}
    model, adapter = attached(LoRA_type="LyCORIS/LoHa", **settings)
    assert not any("attn2" in name or "lora_te" in name for name in adapter.layers)
    state = adapter.state_dict()
    kinds = {name: {key.split(".", 1)[1][:4] for key in state if key.startswith(f"{name}.")} for name in adapter.layers}
    assert all(
        ("lokr" if "_ff_net_" in name else "hada") in next(iter(kinds[name] - {"alph"})) for name in adapter.layers
    )
    assert (adapter.sizes["lora_unet_conv_in"].rank, adapter.sizes["lora_unet_conv_in"].alpha) == (3, 1.5)
    assert {size.rank for name, size in adapter.sizes.items() if "attn1" in name} == {4}
    assert torch.equal(drawn(model.unet), drawn(tiny_model().unet))


def test_patterns_with_stars(tmp_path: Path) -> None:
    name = write(
        tmp_path / "stars.toml",
        'use_fnmatch = true\nunet_target_module = []\nunet_target_name = ["down_blocks.?.*attn1.to_q"]\n'
        'text_encoder_target_module = []\ntext_encoder_target_name = ["text_model.*.1.mlp.fc1"]',
    )
    _, adapter = attached(LoRA_type="LyCORIS/LoCon", LyCORIS_preset=name)
    assert sum("lora_te" in name for name in adapter.layers) == 1
    assert all(
        name.startswith("lora_unet_down") and name.endswith("attn1_to_q")
        for name in adapter.layers
        if "te_" not in name
    )
    assert len(adapter.layers) == 6 + 1


def test_paths_of_xl_are_those_of_its_files(tmp_path: Path) -> None:
    name = write(
        tmp_path / "xl.toml",
        'unet_target_module = []\nunet_target_name = ["middle_block.*to_k"]\ntext_encoder_target_module = []',
    )
    _, adapter = attached(family="sdxl", LoRA_type="LyCORIS/LoCon", LyCORIS_preset=name)
    assert adapter.layers
    assert all(name.startswith("lora_unet_middle_block_1_") and name.endswith("to_k") for name in adapter.layers)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enable_conv = ", "is not valid TOML"),
        ("enable_conv = 1", "enable_conv must be true or false"),
        ('unet_target_module = "x"', "unet_target_module must be a list of texts"),
        ("unet_targets = []", "holds unet_targets, which is no key of a preset"),
        ('unet_target_name = ["(conv"]', "is not a regular expression"),
        ('[name_algo_map.conv_in]\nalgo = "magic"', "there is no algo 'magic'"),
        ("[module_algo_map.CLIPMLP]\nrank = 4", "rank is no option of a layer"),
        ("module_algo_map = 3", "module_algo_map must be a table"),
    ],
)
def test_mistakes_in_a_file_are_sentences(tmp_path: Path, text: str, words: str) -> None:
    name = write(tmp_path / "mine.toml", text)
    with pytest.raises(ValueError, match=r"mine\.toml") as error:
        find_preset(name)
    assert words in str(error.value)
    with pytest.raises(Failure) as failure:
        attached(LoRA_type="LyCORIS/LoCon", LyCORIS_preset=name)
    assert failure.value.key == "LyCORIS_preset"
    assert failure.value.reason.startswith("LyCORIS Preset: ")


def test_a_value_out_of_range_and_a_preset_without_layers(tmp_path: Path) -> None:
    for text, words in (
        ('unet_target_name = ["conv_in"]\n[name_algo_map.conv_in]\ndim = -3', "must be at least 1"),
        ("unet_target_module = []\nunet_target_name = []\ntext_encoder_target_module = []", "means no layer"),
    ):
        name = write(tmp_path / "mine.toml", text)
        with pytest.raises(Failure, match=words) as failure:
            attach(tiny_model(), Settings(LoRA_type="LyCORIS/LoCon", LyCORIS_preset=name), listener())
        assert failure.value.key == "LyCORIS_preset"


def test_what_is_no_preset() -> None:
    with pytest.raises(ValueError, match="there is no preset and no file nothing; the presets are attn-mlp"):
        find_preset("nothing")
    assert find_preset(' "full" ') is PRESETS["full"]
