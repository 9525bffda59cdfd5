"""Stable Diffusion 2, XL and inpainting models: every format gives the same model, judged by diffusers' own loader."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import Listener, listener, tiny_configs, tiny_folder, tiny_model, tiny_sd2, tiny_sdxl, tiny_single_file
from trainer.models import Model, load_model
from trainer.models.configs import CONFIGS, TOKENIZER
from trainer.models.text import tokenize
from trainer.report import Failure
from trainer.settings import Settings

CPU = torch.device("cpu")
KINDS = [("sd15", True), ("sd2", False), ("sdxl", False), ("sdxl", True)]


def load(path: Path | str, dtype: torch.dtype = torch.float32, report: Any = None, **values: Any) -> Model:
    settings = Settings(pretrained_model_name_or_path=str(path), **values)
    return load_model(settings, report or listener(), CPU, dtype)


def weights(model: Any) -> dict[str, torch.Tensor]:
    modules = {"unet": model.unet, "vae": model.vae} | {f"text{i}": part for i, part in enumerate(model.text_encoders)}
    return {f"{name}.{key}": weight for name, module in modules.items() for key, weight in module.state_dict().items()}


def assert_same(model: Model, expected: Model) -> None:
    found, wanted = weights(model), weights(expected)
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == []


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single files are read as tiny ones, not as the full-sized models that the embedded configs describe."""
    for family in CONFIGS:
        monkeypatch.setitem(CONFIGS, family, tiny_configs(tmp_path / "configs" / family, family))


@pytest.mark.parametrize(("family", "inpainting"), KINDS)
@pytest.mark.parametrize("kind", ["folder", "tiny.safetensors", "tiny.ckpt"])
def test_every_format_gives_the_same_model(
    tmp_path: Path, small: None, kind: str, family: str, inpainting: bool
) -> None:
    path = tmp_path / kind
    if kind == "folder":
        tiny_folder(path, family, inpainting=inpainting, tokenizer=False)
    else:
        tiny_single_file(path, family=family, inpainting=inpainting)
    model = load(path, train_inpainting=inpainting)
    assert_same(model, tiny_model(family=family, inpainting=inpainting))
    assert (model.family, model.inpainting, model.prediction_type) == (family, inpainting, "epsilon")
    assert model.scaling_factor == (0.13025 if family == "sdxl" else 0.18215)
    for module in (model.unet, model.vae, *model.text_encoders):
        assert not module.training
        assert not any(weight.requires_grad for weight in module.parameters())


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_single_files_are_those_that_diffusers_reads(tmp_path: Path, small: None, family: str) -> None:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    file = tiny_single_file(tmp_path / "tiny.safetensors", family=family)
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER), local_files_only=True)
    others = {"tokenizer_2": tokenizer} if family == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    pipeline = kind.from_single_file(
        str(file), config=str(CONFIGS[family]), tokenizer=tokenizer, local_files_only=True, **others
    )
    ours = load(file)
    theirs = {"unet": pipeline.unet, "vae": pipeline.vae, "text0": pipeline.text_encoder}
    theirs |= {"text1": pipeline.text_encoder_2} if family == "sdxl" else {}
    for key, weight in weights(ours).items():
        name, _, inner = key.partition(".")
        assert torch.equal(weight, theirs[name].state_dict()[inner]), key


def test_the_last_layer_of_stable_diffusion_2_is_left_out(tmp_path: Path, small: None) -> None:
    file = tiny_single_file(tmp_path / "tiny.safetensors", family="sd2")
    in_file = {key.split(".")[4] for key in load_file(file) if ".resblocks." in key}
    assert (len(in_file), len(load(file).text_encoders[0].encoder.layers)) == (4, 3)


@pytest.mark.parametrize(("kind", "velocity", "expected"), [
    ("folder", False, "v_prediction"), ("file", False, "epsilon"), ("file", True, "v_prediction"),
])  # fmt: skip
def test_what_a_file_cannot_say_the_tick_says(
    tmp_path: Path, small: None, kind: str, velocity: bool, expected: str
) -> None:
    path = tiny_sd2(tmp_path / "folder") if kind == "folder" else tiny_single_file(tmp_path / "a.ckpt", family="sd2")
    model = load(path, v_parameterization=velocity)
    assert model.prediction_type == model.scheduler_config["prediction_type"] == expected
    assert model.size == (768 if expected == "v_prediction" else 512)


def test_ticks_that_contradict_the_model_are_overruled_with_a_note(tmp_path: Path) -> None:
    heard = Listener()
    model = load(tiny_sdxl(tmp_path), report=heard, v2=True, v_parameterization=True, sdxl=True)
    assert (model.family, model.prediction_type) == ("sdxl", "epsilon")
    assert heard.notes == [
        "v2 is ticked, but its configs say Stable Diffusion XL. The model is believed.",
        "v_param is ticked, but it predicts noise: its scheduler says so. The model is believed.",
    ]


@pytest.mark.parametrize(("inpainting", "ticked"), [(True, False), (False, True)])
def test_masks_are_for_inpainting_models(tmp_path: Path, inpainting: bool, ticked: bool) -> None:
    with pytest.raises(Failure) as error:
        load(tiny_folder(tmp_path, inpainting=inpainting, tokenizer=False), train_inpainting=ticked)
    assert error.value.key == "train_inpainting"
    assert ("Tick " in error.value.advice) == inpainting


def test_the_vae_of_xl_stays_exact_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card it would be in half precision; the device here is a stand-in that only counts as one."""
    from trainer.models import sd

    asked: list[dict[str, torch.dtype]] = []

    def read(identity: Any, dtypes: Any, report: Any) -> Any:
        asked.append(dict(dtypes))
        raise ZeroDivisionError

    monkeypatch.setattr(sd, "_from_folder", read)
    path = str(tiny_configs(tmp_path, "sdxl"))
    tiny_sdxl(tmp_path)
    for exact in (False, True):
        settings = Settings(pretrained_model_name_or_path=path, sdxl_no_half_vae=exact)
        with pytest.raises(ZeroDivisionError):
            load_model(settings, listener(), torch.device("meta"), torch.float16)
    half, full = torch.float16, torch.float32
    assert asked == [{"unet": half, "vae": vae, "text_encoder": half, "text_encoder_2": half} for vae in (half, full)]


@pytest.mark.parametrize("lost", ["text_projection", "resblocks.0.attn.in_proj_weight", "label_emb.0.2.bias"])
def test_a_file_with_a_missing_weight_is_a_sentence(tmp_path: Path, small: None, lost: str) -> None:
    file = tiny_single_file(tmp_path / "a.safetensors", family="sdxl")
    save_file({key: value for key, value in load_file(file).items() if not key.endswith(lost)}, file)
    with pytest.raises(Failure, match=r"a\.safetensors could not be loaded as Stable Diffusion XL: .* lacks ") as error:
        load(file)
    assert error.value.advice


def test_a_folder_of_xl_without_its_second_encoder_is_a_sentence(tmp_path: Path) -> None:
    import shutil

    shutil.rmtree(tiny_sdxl(tmp_path) / "text_encoder_2")
    with pytest.raises(Failure, match="its part text_encoder_2 is missing"):
        load(tmp_path)


# Tokens


def test_an_exclamation_mark_is_no_padding(tmp_path: Path) -> None:
    """The tokenizer that comes with Stable Diffusion 2 pads with "!" and takes each "!" of a caption for it."""
    from transformers import CLIPTokenizer

    folder = tiny_sd2(tmp_path)
    theirs = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    assert 0 in theirs("wow! a cat").input_ids
    ids = tokenize(load(folder), ["wow! a cat"], Settings()).ids[0, 0].tolist()
    assert ids[:6] == [49406, 2781, 256, 320, 2368, 49407]
    assert ids[6:] == [0] * 71


# Real size


@pytest.mark.parametrize(
    ("family", "unet", "texts"),
    [
        ("sd15", 859_520_964, [123_060_480]),
        ("sd2", 865_910_724, [340_387_840]),
        ("sdxl", 2_567_463_684, [123_060_480, 694_659_840]),
    ],
)
def test_the_embedded_configs_describe_the_full_models(family: str, unet: int, texts: list[int]) -> None:
    full = full_size(family)
    assert sum(weight.numel() for weight in full.unet.parameters()) == unet
    assert [sum(weight.numel() for weight in part.parameters()) for part in full.text_encoders] == texts
    assert sum(weight.numel() for weight in full.vae.parameters()) == 83_653_863
    assert sum(file.stat().st_size for file in CONFIGS[family].rglob("*.json")) < 10_000
    index = json.loads((CONFIGS[family] / "model_index.json").read_text(encoding="utf-8"))
    assert {"unet", "vae", "text_encoder"} <= index.keys()


def full_size(family: str) -> Any:
    """A model of real size without its weights: shapes only."""
    from types import SimpleNamespace

    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = str(CONFIGS[family])
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder, subfolder="vae"))
        texts = [
            kind(CLIPTextConfig.from_pretrained(folder, subfolder=name))
            for name, kind in kinds.items()
            if (CONFIGS[family] / name).is_dir()
        ]
    return SimpleNamespace(family=family, unet=unet, vae=vae, text_encoders=texts)
