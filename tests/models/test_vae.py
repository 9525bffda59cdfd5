"""A VAE of one's own: every format gives the same, and what cannot be used is a sentence."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import listener, tiny_components, tiny_configs, tiny_folder, tiny_sd15, tiny_single_file
from trainer.data.latents import identity
from trainer.models import Model, load_model
from trainer.models.configs import CONFIGS
from trainer.models.vae import INSIDE, identify_vae
from trainer.report import Failure
from trainer.settings import Settings

OTHER = 7
"""The seed of a model whose VAE is another one."""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(CONFIGS, "sd15", tiny_configs(tmp_path / "configs"))
    return tiny_sd15(tmp_path / "model", tokenizer=False)


def load(model: Path, vae: Path | str) -> Model:
    settings = Settings(pretrained_model_name_or_path=str(model), vae=str(vae))
    return load_model(settings, listener(), torch.device("cpu"), torch.float32)


def written(folder: Path, kind: str) -> Path:
    """Another VAE, in one of the forms people have."""
    if kind == "whole model":
        return tiny_single_file(folder / "whole.safetensors", seed=OTHER)
    if kind == "model folder":
        return tiny_folder(folder / "whole", seed=OTHER, tokenizer=False)
    if kind.startswith("diffusers"):
        tiny_components(OTHER)["vae"].save_pretrained(folder / "vae")
        file = folder / "vae" / "diffusion_pytorch_model.safetensors"
        return file if kind == "diffusers file" else folder / "vae"
    whole = load_file(tiny_single_file(folder / "whole.safetensors", seed=OTHER))
    tensors = {key.removeprefix(INSIDE): value for key, value in whole.items() if key.startswith(INSIDE)}
    if kind == "original.safetensors":
        save_file(tensors, folder / kind)
    else:
        torch.save({"state_dict": tensors | {"loss.logvar": torch.zeros(())}}, folder / kind)
    return folder / kind


@pytest.mark.parametrize("kind", ["original.safetensors", "original.ckpt", "original.pt", "whole model", "diffusers folder",
                                  "diffusers file", "model folder"])  # fmt: skip
def test_every_format_gives_the_same(tmp_path: Path, model: Path, kind: str) -> None:
    path = written(_made(tmp_path), kind)
    found = load(model, path)
    expected = tiny_components(OTHER)["vae"].state_dict()
    assert [key for key, value in found.vae.state_dict().items() if not torch.equal(value, expected[key])] == []
    assert not any(weight.requires_grad for weight in found.vae.parameters())
    assert found.vae_source in (path, path / "vae")
    assert torch.equal(found.unet.conv_in.weight, load(model, "").unet.conv_in.weight)


def _made(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def test_without_one_the_models_own_is_used(model: Path) -> None:
    found = load(model, "")
    assert found.vae_source is None
    assert torch.equal(found.vae.encoder.conv_in.weight, tiny_components()["vae"].encoder.conv_in.weight)


def test_the_cache_of_latents_knows_the_vae(tmp_path: Path, model: Path) -> None:
    """Other weights, or another scaling factor, are another VAE; the decoder has no part in encoding."""
    own, other = load(model, ""), load(model, written(_made(tmp_path), "diffusers folder"))
    assert identity(own.vae) != identity(other.vae)
    again = load(model, "")
    assert identity(own.vae) == identity(again.vae)
    again.vae.register_to_config(scaling_factor=0.13025)
    assert identity(own.vae) != identity(again.vae)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "VAE: there is no file or folder "),
        ("lora", "is a LoRA, not a VAE."),
        ("cut", "is cut off: it needs "),
        ("channels", "is a VAE with 16 latent channels (Flux and Stable Diffusion 3)"),
        ("encoder", "is only a part of a VAE: its decoder is missing."),
        ("unet", "holds UNet2DConditionModel, not the VAE of a Stable Diffusion model"),
        ("empty", "has no config.json, so it is no VAE"),
        ("scale", "is a VAE of Stable Diffusion XL (scaling factor 0.13025); the model is Stable Diffusion 1.5."),
        ("size", "could not be loaded: "),
        ("web", "is a web page"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(tmp_path: Path, model: Path, kind: str, said: str) -> None:
    folder = _made(tmp_path)
    path = written(folder, "original.safetensors")
    tensors = load_file(path)
    if kind == "missing":
        path = folder / "nowhere.safetensors"
    elif kind == "lora":
        save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, path)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "channels":
        save_file(tensors | {"decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)}, path)
    elif kind == "encoder":
        save_file({key: value for key, value in tensors.items() if key.startswith("encoder.")}, path)
    elif kind == "unet":
        path = model / "unet"
    elif kind == "empty":
        path = folder
    elif kind == "scale":
        path = tiny_folder(folder / "xl", "sdxl", tokenizer=False) / "vae"
    elif kind == "size":
        save_file(tensors | {"encoder.conv_in.weight": torch.zeros(12, 3, 3, 3)}, path)
    elif kind == "web":
        path.write_text("<!DOCTYPE html>")
    with pytest.raises(Failure) as error:
        load(model, path)
    assert said in error.value.reason
    assert error.value.reason.startswith("VAE: ")
    assert (error.value.key, "\n" in error.value.reason) == ("vae", False)
    if kind != "size":
        assert identify_vae(str(path), "sd15").problem


def test_a_folder_without_weights_is_named(tmp_path: Path, model: Path) -> None:
    folder = _made(tmp_path) / "vae"
    shutil.copytree(model / "vae", folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    assert identify_vae(str(folder)).problem == "vae has a config.json but no weights."
    (folder / "config.json").write_text("{")
    assert identify_vae(str(folder)).problem == "vae has a config.json that cannot be read."
