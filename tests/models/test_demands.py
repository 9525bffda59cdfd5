"""What a model asks of the settings: each contradiction is a sentence under its label, with a fix that cures it."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_folder, tiny_single_file
from trainer import hardware
from trainer.declare import Problem
from trainer.hardware import Hardware
from trainer.models.demands import NOTES, NOTES_OF_PICTURES, OF_PICTURES, PROBLEMS
from trainer.settings import Settings

KINDS: dict[str, dict[str, Any]] = {
    "sd15": {}, "sd2": {"family": "sd2"}, "sd2 v": {"family": "sd2", "prediction": "v_prediction"},
    "sdxl": {"family": "sdxl"}, "inpainting": {"inpainting": True},
}  # fmt: skip
TICKS: dict[str, dict[str, Any]] = {
    "sd15": {}, "sd2": {"v2": True}, "sd2 v": {"v2": True, "v_parameterization": True, "max_resolution": "768,768"},
    "sdxl": {"sdxl": True, "max_resolution": "1024,1024", "sdxl_no_half_vae": True}, "inpainting": {"train_inpainting": True, "cache_latents": False},
}  # fmt: skip
CACHED = {"sdxl_cache_text_encoder_outputs": True, "text_encoder_lr": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    made = {kind: tiny_folder(root / kind, **which, tokenizer=False) for kind, which in KINDS.items()}
    made["file"] = tiny_single_file(root / "v2-1.safetensors", family="sd2")
    made["named"] = tiny_single_file(root / "noob-vpred.safetensors", family="sdxl")
    return made


@pytest.fixture(autouse=True)
def _a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "hardware", lambda: Hardware("cuda", "a card", {}, 8 << 30))


def settings(models: dict[str, Path], kind: str, **values: Any) -> Settings:
    return Settings(pretrained_model_name_or_path=str(models[kind]), **{**TICKS.get(kind, {}), **values})


EVERY_NOTE = (*NOTES, *NOTES_OF_PICTURES)


def found(s: Settings, checks: Any = (*PROBLEMS, *OF_PICTURES)) -> list[Problem]:
    return [problem for check in checks for problem in check(s)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_suits_the_model_is_not_spoken_of(models: dict[str, Path], kind: str) -> None:
    s = settings(models, kind)
    assert [*found(s), *found(s, EVERY_NOTE)] == []


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("sd15", {"scale_v_pred_loss_like_noise_pred": True}, "Scale v prediction loss: it is for models that predict velocity"),
        ("sd2 v", {"v_pred_like_loss": 0.3}, "V Pred like loss: it is for models that predict noise"),
        ("sdxl", {"v2": True}, "v2: it is ticked, but its configs say Stable Diffusion XL."),
        ("sd15", {"sdxl": True}, "SDXL: it is ticked, but its configs say Stable Diffusion 1.5."),
        ("sd2", {"v_parameterization": True}, "v_param: it is ticked, but it predicts noise: its scheduler says so."),
        ("file", {"sdxl": True}, "SDXL: it is ticked, but the file's tensors say Stable Diffusion 2."),
        ("inpainting", {"train_inpainting": False}, "Train inpainting model: tick it: its configs say Stable Diffusion 1.5 "),
        ("sd15", {"train_inpainting": True}, "Train inpainting model: it is ticked, but "),
        ("sdxl", CACHED | {"text_encoder_lr": None}, "Cache text encoder outputs: the text encoders are dropped "),
        ("sdxl", CACHED | {"shuffle_caption": True}, "Cache text encoder outputs: captions are read once, so Shuffle caption "),
        ("sdxl", CACHED | {"caption_dropout_rate": 0.1}, "Cache text encoder outputs: captions are read once, so Rate of "),
        ("sdxl", CACHED | {"caption_dropout_every_n_epochs": 2}, "Cache text encoder outputs: captions are read once"),
        ("sdxl", CACHED | {"caption_tag_dropout_rate": 0.1}, "Cache text encoder outputs: captions are read once, so Rate of "),
        ("sdxl", CACHED | {"token_warmup_step": 0.1}, "Cache text encoder outputs: captions are read once, so Token "),
        ("sdxl", CACHED | {"enable_wildcard": True}, "Cache text encoder outputs: captions are read once, so Enable "),
        ("sdxl", {"bucket_reso_steps": 8}, "Bucket resolution steps: must be a multiple of 32 for Stable Diffusion XL; 8 "),
        ("sdxl", {"bucket_reso_steps": 72}, "Bucket resolution steps: must be a multiple of 32"),
        ("sdxl", {"enable_bucket": False, "max_resolution": "1000,1024"}, "Max resolution: width and height must be multi"),
        ("sd15", {"vae": "/no/such/vae.pt"}, "VAE: there is no file or folder /no/such/vae.pt."),
    ],
)  # fmt: skip
def test_problems_and_their_fixes(models: dict[str, Path], kind: str, values: dict[str, Any], said: str) -> None:
    s = settings(models, kind, **values)
    (problem,) = found(s)
    assert str(problem).startswith(said)
    assert problem.fix_label
    assert found(s.changed(**(problem.fix or {}))) == []


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("sdxl", {"sdxl": False}, "SDXL: its configs say Stable Diffusion XL. It is trained so, ticked or not."),
        ("sd2 v", {"v_parameterization": False}, "v_param: it predicts velocity: its scheduler says so. It is trained so"),
        ("file", {"v2": True}, "v_param: does this model predict velocity? Its file does not say; models for 768 pixels do"),
        ("named", {"sdxl": True, "sdxl_no_half_vae": True, "max_resolution": "1024,1024"},
         "v_param: does this model predict velocity? Its file does not say; noob-vpred.safetensors sounds as if"),
        ("sdxl", {"max_resolution": "512,512"}, "Max resolution: Stable Diffusion XL was made for pictures of 1024"),
        ("sd2 v", {"max_resolution": "512,512"}, "Max resolution: Stable Diffusion 2 was made for pictures of 768"),
        ("sdxl", {"clip_skip": 2}, "Clip skip: has no effect"),
        ("sdxl", {"sdxl_no_half_vae": False}, "No half VAE: SDXL's own VAE overflows in fp16."),
        ("inpainting", {"cache_latents": True}, "Cache latents: is off in this run: with Train inpainting model"),
        ("sd15", {"sdxl_no_half_vae": True}, "No half VAE: has no effect: its configs say Stable Diffusion 1.5."),
        ("sd15", {"zero_terminal_snr": True}, "Zero terminal SNR: is for models that predict velocity"),
    ],
)  # fmt: skip
def test_notes_and_their_fixes(models: dict[str, Path], kind: str, values: dict[str, Any], said: str) -> None:
    s = settings(models, kind, **values)
    assert found(s) == []
    (note,) = found(s, EVERY_NOTE)
    assert str(note).startswith(said)
    assert found(s.changed(**(note.fix or {})), (*PROBLEMS, *OF_PICTURES, *EVERY_NOTE)) in ([], _size(s, note))


def _size(s: Settings, note: Problem) -> list[Problem]:
    """Ticking v_param makes a model one for 768 pixels, which is worth a word of its own."""
    return found(s.changed(**(note.fix or {})), EVERY_NOTE) if note.key == "v_parameterization" else []


def test_a_lora_with_text_does_not_go_with_dropped_text_encoders(models: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for name, count in (("lora_unet_x", 0), ("lora_te1_x", 1)):
        file = tmp_path / f"{name}.safetensors"
        save_file({f"{name}.lora_down.weight": torch.zeros(1, 1)}, file)
        problems = found(settings(models, "sdxl", **CACHED, network_weights=str(file)))
        assert [problem.key for problem in problems] == ["network_weights"] * count


def test_the_name_of_a_vae_may_say_more_than_its_file(models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = load_file(tiny_single_file(tmp_path / "whole.safetensors"))
    tensors = {key.split("model.", 1)[1]: value for key, value in whole.items() if key.startswith("first_stage_model.")}
    for name, kind, odd in (("sdxl_vae", "sd15", True), ("sdxl_vae", "sdxl", False),
                            ("vae-ft-mse-840000", "sdxl", True), ("vae-ft-mse-840000", "sd15", False)):  # fmt: skip
        save_file(tensors, tmp_path / f"{name}.safetensors")
        s = settings(models, kind, vae=str(tmp_path / f"{name}.safetensors"))
        assert found(s) == []
        assert [note.key for note in found(s, EVERY_NOTE)] == ["vae"] * odd


def test_a_model_that_cannot_be_used_asks_nothing(tmp_path: Path) -> None:
    s = Settings(pretrained_model_name_or_path=str(tmp_path / "none"), sdxl=True, clip_skip=2)
    assert [*found(s), *found(s, EVERY_NOTE)] == []
