"""Everything that would go wrong is said before the start, under the label of the setting, with the way out."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainer import checks, hardware
from trainer.declare import Problem
from trainer.hardware import Hardware
from trainer.settings import Settings


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings without a problem, on a graphics card that does everything."""
    monkeypatch.setattr(hardware, "hardware", lambda: Hardware("cuda", "a card"))
    monkeypatch.setattr(checks, "model", lambda s: iter(()))
    folder = tmp_path / "bilder ä 'x' 🐈" / "2_cat"
    folder.mkdir(parents=True)
    Image.new("RGB", (512, 512), "red").save(folder / "a.png")
    return {"train_data_dir": str(folder.parent), "output_dir": str(tmp_path / "out"), "optimizer": "AdamW"}


def said(values: dict[str, Any], find: Any = None) -> list[str]:
    """The sentences about settings with these values."""
    find = find or (lambda s: [problem for check in CHECKS for problem in check(s)])
    return [str(problem) for problem in find(Settings(**values))]


CHECKS = tuple(check for check in checks.CHECKS if check is not checks.model)


def test_good_settings_have_no_problem(good: dict[str, Any]) -> None:
    assert said(good) == []
    assert not Path(good["output_dir"]).exists(), "a check writes nothing"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"train_data_dir": ""}, "Image folder:"),
        ({"train_data_dir": "/no/such/folder"}, "Image folder:"),
        ({"reg_data_dir": "/no/such/folder"}, "Regularisation directory:"),
        ({"output_name": " "}, "Trained Model output name: give the LoRA a name."),
        ({"output_name": "../evil"}, "Trained Model output name: a file name cannot hold /"),
        ({"output_name": "x" * 300}, "Trained Model output name: a file name cannot"),
        ({"network_weights": "/no/such.safetensors"}, "LoRA network weights: there is no file /no/such.safetensors."),
        ({"dim_from_weights": True}, "DIM from weights: needs a file in LoRA network weights."),
        ({"resume": "/no/such/state"}, "Resume from saved training state: there is no folder /no/such/state."),
        ({"color_aug": True}, "Color augmentation: pictures that change each time cannot be cached; untick Cache latents."),
        ({"random_crop": True}, "Random crop instead of center crop: pictures that change each time cannot be cached"),
        ({"random_crop": True, "cache_latents": False, "cache_latents_to_disk": True}, "Random crop instead of center crop: "),
        ({"masked_loss": True, "conditioning_data_dir": "/none"}, "Mask folder: there is no folder"),
        ({"huggingface_repo_id": "me/my lora"}, "Huggingface repo id: me/my lora is not a repository's name"),
        ({"resume_from_huggingface": "me/lora"}, "Resume from huggingface: is written as user/name/folder"),
        ({"learning_rate": 0}, "Learning rate: every rate is 0"),
        ({"learning_rate": 0, "text_encoder_lr": 1e-4, "stop_text_encoder_training": -1}, "Learning rate: every rate is 0"),
        ({"optimizer_args": "weight_decay"}, "Optimizer extra arguments:"),
        ({"optimizer_args": "wieght_decay=0.1"}, "Optimizer extra arguments: AdamW has no argument 'wieght_decay'"),
        ({"enable_bucket": False, "max_resolution": "500,512"}, "Max resolution: width and height must be multiples of 8"),
        ({"bucket_reso_steps": 60}, "Bucket resolution steps: must be a multiple of 8"),
        ({"bucket_no_upscale": False, "min_bucket_reso": 1024}, "Minimum bucket resolution: 1024 is more"),
        ({"min_timestep": 500, "max_timestep": 500}, "Min Timestep: must be less than Max Timestep; nothing from 500 on"),
    ],
)  # fmt: skip
def test_each_problem_is_a_sentence_under_its_label(
    good: dict[str, Any], values: dict[str, Any], sentence: str
) -> None:
    found = said({**good, **values})
    assert any(text.startswith(sentence) for text in found), found


def test_every_fix_cures_its_problem(good: dict[str, Any]) -> None:
    wrong: list[dict[str, Any]] = [
        {"output_name": "a/b"}, {"color_aug": True}, {"random_crop": True, "cache_latents_to_disk": True}, {"learning_rate": 0}, {"enable_bucket": False, "max_resolution": "500,512"},
        {"bucket_reso_steps": 60}, {"bucket_no_upscale": False, "min_bucket_reso": 1024}, {"dim_from_weights": True},
        {"train_data_dir": str(Path(good["train_data_dir"]) / "2_cat")}, {"resume": "/no/such/state"},
        {"min_timestep": 800, "max_timestep": 500},
    ]  # fmt: skip
    for values in wrong:
        settings = Settings(**{**good, **values})
        problems: list[Problem] = [problem for check in CHECKS for problem in check(settings)]
        assert problems, values
        assert problems[0].fix, values
        assert problems[0].fix_label, values
        mended = settings.changed(**problems[0].fix)
        assert not [problem for check in CHECKS for problem in check(mended)], values


def test_regularisation_images_are_not_the_subjects(good: dict[str, Any]) -> None:
    again = good | {"reg_data_dir": good["train_data_dir"] + "/2_cat/.."}
    (sentence,) = said(again, checks.pictures)
    assert sentence.startswith("Regularisation directory: this is Image folder too;")


def test_an_existing_file_is_never_overwritten_unasked(good: dict[str, Any]) -> None:
    out = Path(good["output_dir"])
    out.mkdir()
    (out / "last.safetensors").write_bytes(b"precious")
    found = said(good)
    assert len(found) == 1
    assert "exists already" in found[0]
    assert said({**good, "overwrite_output": True}) == []
    assert said({**good, "save_model_as": "ckpt"}) == []


@pytest.mark.parametrize(
    ("there", "name", "free"),
    [
        (["cat"], "cat", "cat-2"),
        (["cat", "cat-2"], "cat", "cat-3"),
        (["cat-v1"], "cat-v1", "cat-v2"),
        (["x9", "x10"], "x9", "x11"),
    ],
)
def test_the_next_free_name(tmp_path: Path, there: list[str], name: str, free: str) -> None:
    for stem in there:
        (tmp_path / f"{stem}.safetensors").touch()
    assert checks.next_name(tmp_path / f"{name}.safetensors") == free


def test_folders_that_cannot_be_written(good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "is a file, not a folder" in said({**good, "output_dir": str(file / "x")})[0]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert any("cannot be written to" in text for text in said(good))
    monkeypatch.undo()
    monkeypatch.setattr(checks, "FREE_DISK", 1 << 62)
    assert any("the disk of" in text and "is full" in text for text in said(good, checks.output))


def test_a_state_folder_one_level_too_high_is_offered(good: dict[str, Any], tmp_path: Path) -> None:
    state = tmp_path / "cat-000002-state"
    state.mkdir()
    (state / "train_state.json").write_text("{}", encoding="utf-8")
    problem = next(checks.resume(Settings(**good, resume=str(tmp_path))))
    assert problem.fix == {"resume": str(state)}
    assert not list(checks.resume(Settings(**good, resume=str(state))))


def test_precision_that_the_card_refuses(good: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    old = Hardware("cuda", "an old card", {"bf16": "bf16 is not supported by an old card"})
    monkeypatch.setattr(hardware, "hardware", lambda: old)
    problem = next(checks.precision(Settings(**good, mixed_precision="bf16")))
    assert str(problem) == "Mixed precision: bf16 is not supported by an old card; use fp16."
    assert not list(checks.precision(Settings(**good, mixed_precision="fp16")))


def test_the_processor_picks_what_works_and_says_so(good: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "hardware", lambda: Hardware("cpu", refuses={"fp16": "fp16 needs a graphics card"}))
    settings = Settings(**good, mixed_precision="fp16")
    assert not list(checks.precision(settings))
    assert "on the processor this run uses no" in str(next(checks.on_the_processor(settings)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max_train_epochs": 2, "max_train_steps": 9}, "Max train steps: has no effect beside Max train epoch"),
        ({"max_train_steps": 9, "epoch": 3}, "Max train steps: wins over Epoch: the run ends after 9 steps."),
        ({"sample_prompts": "a cat"}, "Sample prompts: no pictures will be made until"),
        ({"sample_every_n_epochs": 1}, "Sample every n epochs: write a prompt in Sample prompts"),
        ({"epoch": 4, "save_every_n_epochs": 0}, "Save every N epochs: 0 means only the last file is kept."),
        ({"metadata_tags": "cat", "save_model_as": "ckpt"}, "Metadata tags: a ckpt file has no place for it"),
        ({"async_upload": True}, "Async upload: has an effect only with Huggingface repo id."),
        ({"save_state_to_huggingface": True}, "Save state to huggingface: has an effect only with Huggingface repo id."),
        ({"save_last_n_steps": 9}, "Save last N steps: has an effect only with Save every N steps."),
        (
            {"save_last_n_epochs": 0, "save_last_n_epochs_state": 2, "save_every_n_epochs": 1},
            "Save last N epochs state: has an effect only with Save training state.",
        ),
        ({"keep_tokens": 1}, "Keep n tokens: has an effect only with Shuffle caption, "),
        ({"masked_loss": True}, "Masked loss: no picture has a mask in Mask folder or transparent parts"),
        ({"multires_noise_iterations": 6}, "Noise offset type: Original leaves out Multires noise iterations (6)"),
        (
            {"noise_offset_type": "Multires", "multires_noise_iterations": 6, "noise_offset": 0.05},
            "Noise offset type: Multires leaves out Noise offset (0.05)",
        ),
        ({"noise_offset_type": "Multires"}, "Multires noise iterations: 0 adds no noise"),
        ({"adaptive_noise_scale": 0.01}, "Adaptive noise scale: has an effect only with Noise offset."),
        ({"noise_offset_random_strength": True}, "Noise offset random strength: has an effect only with Noise offset."),
        ({"ip_noise_gamma_random_strength": True}, "IP noise gamma random strength: has an effect only with IP noise"),
        ({"debiased_estimation_loss": True, "min_snr_gamma": 5}, "Debiased Estimation loss: Min SNR gamma makes"),
        ({"resume": "x", "network_weights": "y"}, "LoRA network weights: has no effect beside"),
    ],
)
def test_surprises_are_said_too(good: dict[str, Any], values: dict[str, Any], sentence: str) -> None:
    found = said({**good, **values}, checks.notes)
    assert any(text.startswith(sentence) for text in found), found


def test_pictures_that_are_left_out_are_named(good: dict[str, Any]) -> None:
    (Path(good["train_data_dir"]) / "2_cat" / "broken.png").touch()
    found = said(good, checks.notes)
    assert any("1 file will be left out: broken.png (is empty" in text for text in found), found


def test_noise_that_fits_together_is_not_spoken_of(good: dict[str, Any]) -> None:
    original = {"noise_offset": 0.05, "adaptive_noise_scale": 0.005, "noise_offset_random_strength": True}
    multires = {"noise_offset_type": "Multires", "multires_noise_iterations": 6, "adaptive_noise_scale": 0.005}
    for values in (original, multires, {"ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True}):
        assert said({**good, **values}, checks.noise) == []


@pytest.mark.parametrize("known", ["", "hf_x"])
def test_an_upload_needs_a_token(good: dict[str, Any], known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: known or None)
    found = said({**good, "huggingface_repo_id": "me/lora"})
    assert [text.partition(";")[0] for text in found] == ([] if known else ["Huggingface token: there is no token"])
    assert said({**good, "huggingface_repo_id": "me/lora", "huggingface_token": "hf_y"}) == []
