"""Loading the base model: every format gives the same parts, frozen; what cannot be loaded is a sentence."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import Listener, listener, tiny_components, tiny_configs, tiny_model, tiny_sd15, tiny_single_file
from trainer.models import Model, file_hashes, load_model
from trainer.models.configs import CONFIGS, TOKENIZER
from trainer.models.text import tokenize
from trainer.report import Failure
from trainer.settings import Settings

CPU = torch.device("cpu")


@pytest.fixture
def sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Single files are read as tiny ones, not as the full-sized model the embedded configs describe."""
    folder = tiny_configs(tmp_path / "configs")
    monkeypatch.setitem(CONFIGS, "sd15", folder)
    return folder


def load(path: Path | str, dtype: torch.dtype = torch.float32) -> Model:
    return load_model(Settings(pretrained_model_name_or_path=str(path)), listener(), CPU, dtype)


def parts(model: Model) -> dict[str, torch.Tensor]:
    modules = {"unet": model.unet, "vae": model.vae, "text": model.text_encoders[0]}
    return {f"{name}.{key}": weight for name, module in modules.items() for key, weight in module.state_dict().items()}


def assert_same(model: Model, expected: Model) -> None:
    found, wanted = parts(model), parts(expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("kind", ["folder", "tiny.safetensors", "tiny.ckpt"])
def test_every_format_gives_the_same_model(tmp_path: Path, sizes: Path, kind: str) -> None:
    path = tiny_sd15(tmp_path / kind) if kind == "folder" else tiny_single_file(tmp_path / kind)
    model = load(path)
    assert_same(model, tiny_model())
    assert (model.family, model.prediction_type, model.source) == ("sd15", "epsilon", path)
    assert model.scaling_factor == 0.18215
    assert model.scheduler_config["beta_schedule"] == "scaled_linear"
    assert len(model.tokenizers[0]) == 49408
    for module in (model.unet, model.vae, model.text_encoders[0]):
        assert not module.training
        assert not any(weight.requires_grad for weight in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_in_the_asked_type_and_the_vae_is_exact_on_the_processor(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = load(tiny_sd15(tmp_path), dtype)
    assert {weight.dtype for weight in model.unet.parameters()} == {dtype}
    assert {weight.dtype for weight in model.text_encoders[0].parameters()} == {dtype}
    assert {weight.dtype for weight in model.vae.parameters()} == {torch.float32}


def test_a_half_precision_file_loads_in_float32(tmp_path: Path, sizes: Path) -> None:
    model = load(tiny_single_file(tmp_path / "half.safetensors", dtype=torch.float16))
    expected = tiny_components()["unet"].state_dict()["conv_in.weight"].half().float()
    assert torch.equal(model.unet.conv_in.weight, expected)


def test_a_folder_without_a_tokenizer_uses_the_embedded_one(tmp_path: Path) -> None:
    model = load(tiny_sd15(tmp_path, tokenizer=False))
    ids = model.tokenizers[0]("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert model.tokenizers[0].pad_token_id == 49407


def test_a_folder_with_only_half_precision_weights_loads(tmp_path: Path) -> None:
    folder = tiny_sd15(tmp_path, tokenizer=False)
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert_same(load(folder), tiny_model())


def test_a_folder_with_bin_weights_loads(tmp_path: Path) -> None:
    folder = tiny_sd15(tmp_path, tokenizer=False)
    for file in folder.glob("*/*.safetensors"):
        name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    assert_same(load(folder), tiny_model())


def test_old_folders_name_their_text_encoder_differently(tmp_path: Path) -> None:
    folder = tiny_sd15(tmp_path, tokenizer=False)
    file = folder / "text_encoder" / "model.safetensors"
    old = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(file).items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    save_file(old, file, {"format": "pt"})
    assert_same(load(folder), tiny_model())


def test_old_single_files_name_their_text_encoder_differently(tmp_path: Path, sizes: Path) -> None:
    file = tiny_single_file(tmp_path / "a.safetensors")
    old = {key.replace("transformer.text_model.", "transformer."): value for key, value in load_file(file).items()}
    save_file(old, file)
    assert_same(load(file), tiny_model())


def test_the_demos_prediction_type_is_the_schedulers(tmp_path: Path) -> None:
    folder = tiny_sd15(tmp_path, tokenizer=False)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    assert load(folder).prediction_type == "v_prediction"


def test_loading_says_how_far_it_is(tmp_path: Path) -> None:
    heard = Listener()
    settings = Settings(pretrained_model_name_or_path=str(tiny_sd15(tmp_path, tokenizer=False)))
    load_model(settings, heard, CPU, torch.float32)  # type: ignore[arg-type]
    assert heard.phases == [("loading model", 0, 0), *(("loading model", done, 3) for done in range(3))]


# What cannot be loaded


@pytest.mark.parametrize("lost", ["conv_in.weight", "mid_block.attentions.0.proj_in.weight"])
def test_a_part_with_a_missing_weight_is_a_sentence(tmp_path: Path, lost: str) -> None:
    folder = tiny_sd15(tmp_path, tokenizer=False)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if key != lost}, file)
    with pytest.raises(Failure, match=r"could not be loaded as Stable Diffusion 1\.5") as error:
        load(folder)
    assert error.value.key == "pretrained_model_name_or_path"


@pytest.mark.parametrize("lost", ["mlp.fc1.weight", "out.2.weight", "decoder.conv_out.bias"])
def test_a_file_with_a_missing_weight_is_a_sentence(tmp_path: Path, sizes: Path, lost: str) -> None:
    file = tiny_single_file(tmp_path / "a.safetensors")
    save_file({key: value for key, value in load_file(file).items() if not key.endswith(lost)}, file)
    with pytest.raises(Failure, match=r"a\.safetensors could not be loaded .* lacks ") as error:
        load(file)
    assert error.value.advice


def test_a_file_of_another_size_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"could not be loaded as Stable Diffusion 1\.5") as error:
        load(tiny_single_file(tmp_path / "small.safetensors"))
    assert "\n" not in error.value.reason


@pytest.mark.parametrize("name", ["", "/no/such/model", "stabilityai/stable-diffusion-xl-base-1.0"])
def test_what_identify_refuses_is_refused(name: str) -> None:
    with pytest.raises(Failure) as error:
        load(name)
    assert error.value.key == "pretrained_model_name_or_path"
    assert error.value.advice


# Hashes


def test_hashes_are_those_of_the_file(tmp_path: Path, sizes: Path) -> None:
    import hashlib

    file = tiny_single_file(tmp_path / "tiny.safetensors")
    data = file.read_bytes()
    assert load(file).hashes == {
        "sd_model_hash": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8],
        "new_sd_model_hash": hashlib.sha256(data).hexdigest(),
    }
    assert set(file_hashes(tmp_path).values()) == {"IsADirectory"}
    assert set(file_hashes(tmp_path / "none").values()) == {"NOFILE"}


# Real size


def test_the_embedded_configs_describe_the_full_model() -> None:
    from trainer.models.configs import SD15

    for name in ("unet", "vae", "text_encoder"):
        assert (SD15 / name / "config.json").is_file()
    assert sum(file.stat().st_size for file in SD15.rglob("*.json")) < 10_000


@pytest.mark.slow
@pytest.mark.skipif(
    "LOOM_LARGE_TESTS" not in os.environ, reason="takes 2 GB of disk and of memory: set LOOM_LARGE_TESTS"
)
def test_a_file_of_real_size_loads_offline(tmp_path: Path) -> None:
    """2 GB of random half-precision weights with the key names of Stable Diffusion 1.5."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.tiny import original_state_dict
    from trainer.adapters import attach
    from trainer.models.configs import SD15

    with torch.device("meta"):
        full = {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(SD15), subfolder="unet")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(str(SD15), subfolder="vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(str(SD15), subfolder="text_encoder")),
        }
    shapes = {key: value.shape for key, value in original_state_dict(full).items()}
    file = tmp_path / "real.safetensors"
    save_file({key: torch.full(shape, 0.01, dtype=torch.float16) for key, shape in shapes.items()}, file)
    del full

    model = load(file, torch.float16)
    assert sum(weight.numel() for weight in model.unet.parameters()) == 859_520_964
    assert sum(weight.numel() for weight in model.text_encoders[0].parameters()) == 123_060_480
    assert sum(weight.numel() for weight in model.vae.parameters()) == 83_653_863
    adapter = attach(model, Settings(LoRA_type="Kohya LoCon", network_dim=4, conv_dim=4), listener())
    assert len(adapter.state_dict()) == 350 * 3
    assert len([key for key in adapter.state_dict() if re.match("lora_te_text_model_", key)]) == 72 * 3


def test_the_demo_is_a_model_like_any_other() -> None:
    model = load("demo")
    assert (model.family, model.name, model.prediction_type) == ("sd15", "demo", "epsilon")
    assert model.unet.config.layers_per_block == 2


def test_a_tokenizer_of_two_text_files_reads_the_same(tmp_path: Path) -> None:
    """Models of 2022 have vocab.json and merges.txt instead of tokenizer.json."""
    folder = tiny_sd15(tmp_path, tokenizer=False)
    old = folder / "tokenizer"
    old.mkdir()
    whole = json.loads((TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["merges"]]
    (old / "vocab.json").write_text(json.dumps(whole["vocab"]), encoding="utf-8")
    (old / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    token = {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "normalized": True, "rstrip": False,
             "single_word": False}  # fmt: skip
    settings = {"add_prefix_space": False, "bos_token": {**token, "content": "<|startoftext|>"}, "do_lower_case": True,
                "eos_token": token, "errors": "replace", "model_max_length": 77, "pad_token": "<|endoftext|>",
                "tokenizer_class": "CLIPTokenizer", "unk_token": token}  # fmt: skip
    (old / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    words = {"bos_token": settings["bos_token"], "eos_token": token, "pad_token": "<|endoftext|>", "unk_token": token}
    (old / "special_tokens_map.json").write_text(json.dumps(words), encoding="utf-8")
    captions = ["A photo of Café, 3 cats!", "sks dog <|endoftext|> naïve 日本語 🎨", "(masterpiece:1.2), 8k"]
    found, expected = load(folder), tiny_model()
    assert encoded(found, captions) == encoded(expected, captions)
    assert found.tokenizers[0].pad_token_id == 49407


def encoded(model: Model, captions: list[str]) -> list[list[int]]:
    return [row.flatten().tolist() for row in tokenize(model, captions, Settings(max_token_length=150)).ids]
