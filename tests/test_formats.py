"""The saved file: its metadata as the ecosystem reads it, its hashes, and that it is whole or not there."""

import errno
import hashlib
import io
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.adapters.made import taught
from tests.data.made import write
from tests.tiny import tiny_model
from trainer import formats
from trainer.data.dataset import Dataset, scan
from trainer.plan import make_plan
from trainer.report import Failure
from trainer.settings import Settings

REFERENCE = [
    "ss_adaptive_noise_scale",
    "ss_base_model_version",
    "ss_batch_size_per_device",
    "ss_bucket_info",
    "ss_bucket_no_upscale",
    "ss_cache_latents",
    "ss_caption_dropout_every_n_epochs",
    "ss_caption_dropout_rate",
    "ss_caption_tag_dropout_rate",
    "ss_clip_skip",
    "ss_color_aug",
    "ss_dataset_dirs",
    "ss_debiased_estimation",
    "ss_enable_bucket",
    "ss_epoch",
    "ss_face_crop_aug_range",
    "ss_flip_aug",
    "ss_fp8_base",
    "ss_fp8_base_unet",
    "ss_full_fp16",
    "ss_gradient_accumulation_steps",
    "ss_gradient_checkpointing",
    "ss_huber_c",
    "ss_huber_scale",
    "ss_huber_schedule",
    "ss_ip_noise_gamma",
    "ss_ip_noise_gamma_random_strength",
    "ss_keep_tokens",
    "ss_learning_rate",
    "ss_loss_type",
    "ss_lowram",
    "ss_lr_scheduler",
    "ss_lr_warmup_steps",
    "ss_max_bucket_reso",
    "ss_max_grad_norm",
    "ss_max_token_length",
    "ss_max_train_steps",
    "ss_max_validation_steps",
    "ss_min_bucket_reso",
    "ss_min_snr_gamma",
    "ss_mixed_precision",
    "ss_multires_noise_discount",
    "ss_multires_noise_iterations",
    "ss_network_alpha",
    "ss_network_dim",
    "ss_network_dropout",
    "ss_network_module",
    "ss_new_sd_model_hash",
    "ss_noise_offset",
    "ss_noise_offset_random_strength",
    "ss_num_batches_per_epoch",
    "ss_num_epochs",
    "ss_num_reg_images",
    "ss_num_train_images",
    "ss_num_validation_images",
    "ss_optimizer",
    "ss_output_name",
    "ss_prior_loss_weight",
    "ss_random_crop",
    "ss_reg_dataset_dirs",
    "ss_resize_interpolation",
    "ss_resolution",
    "ss_scale_weight_norms",
    "ss_sd_model_hash",
    "ss_sd_model_name",
    "ss_sd_scripts_commit_hash",
    "ss_seed",
    "ss_session_id",
    "ss_shuffle_caption",
    "ss_steps",
    "ss_tag_frequency",
    "ss_text_encoder_lr",
    "ss_total_batch_size",
    "ss_training_comment",
    "ss_training_finished_at",
    "ss_training_started_at",
    "ss_unet_lr",
    "ss_v2",
    "ss_validate_every_n_epochs",
    "ss_validate_every_n_steps",
    "ss_validation_seed",
    "ss_validation_split",
    "ss_zero_terminal_snr",
    "modelspec.architecture",
    "modelspec.date",
    "modelspec.implementation",
    "modelspec.implementation_version",
    "modelspec.prediction_type",
    "modelspec.resolution",
    "modelspec.sai_model_spec",
    "modelspec.title",
]
"""Every key of a file that Kohya's scripts save in folder mode, without the two hashes."""


@dataclass
class Progress:
    step: int = 20
    epoch: int = 2
    started: float = field(default_factory=time.time)


def prepared(tmp_path: Path, **settings: Any) -> tuple[Settings, Dataset, Any]:
    """Two folders of pictures with captions, one of regularisation pictures."""
    shapes = write(tmp_path / "img" / "10_shape", a=(128, 128), b=(192, 64))
    (shapes / "a.txt").write_text("a red Circle, flat drawing, , sks style")
    (shapes / "b.txt").write_text("a green circle, flat drawing")
    write(tmp_path / "img" / "3_other", c=(64, 100))
    write(tmp_path / "reg" / "1_circle", d=(128, 128))
    chosen = Settings(
        train_data_dir=str(tmp_path / "img"), max_resolution="128,128", min_bucket_reso=64, max_bucket_reso=256,
        output_name="t", **settings,
    )  # fmt: skip
    dataset = scan(chosen)
    return chosen, dataset, make_plan(chosen, dataset)


def about(tmp_path: Path, adapter: Any = None, progress: Progress | None = None, **settings: Any) -> dict[str, str]:
    chosen, dataset, plan = prepared(tmp_path, **settings)
    model = tiny_model()
    model.name = str(model.source)
    return formats.metadata(chosen, model, dataset, plan, progress or Progress(), adapter)


def test_every_key_of_the_reference_and_no_other(tmp_path: Path) -> None:
    found = about(tmp_path)
    assert set(found) == set(REFERENCE)
    assert all(isinstance(value, str) for value in found.values())


def test_values_of_a_plain_run(tmp_path: Path) -> None:
    found = about(tmp_path, progress=Progress(step=7, epoch=1, started=1795167136.41), seed=42, train_batch_size=2)
    expected = {
        "ss_base_model_version": "sd_v1", "ss_network_module": "networks.lora", "ss_network_dim": "8",
        "ss_network_alpha": "1.0", "ss_resolution": "(128, 128)", "ss_seed": "42", "ss_epoch": "1", "ss_steps": "7",
        "ss_learning_rate": "0.0001", "ss_text_encoder_lr": "None", "ss_unet_lr": "None", "ss_v2": "False",
        "ss_enable_bucket": "True", "ss_clip_skip": "None", "ss_max_token_length": "None", "ss_min_snr_gamma": "None",
        "ss_noise_offset": "None", "ss_scale_weight_norms": "None", "ss_network_dropout": "None",
        "ss_training_comment": "None", "ss_training_started_at": "1795167136.41", "ss_output_name": "t",
        "ss_batch_size_per_device": "2", "ss_total_batch_size": "2", "ss_num_train_images": "23",
        "ss_num_reg_images": "0", "ss_num_epochs": "1", "ss_max_train_steps": "12", "ss_num_batches_per_epoch": "12",
        "ss_lr_warmup_steps": "1", "ss_lr_scheduler": "cosine", "ss_huber_schedule": "snr",
        "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit", "ss_prior_loss_weight": "1.0",
        "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "epsilon", "modelspec.resolution": "128x128", "modelspec.title": "t",
        "modelspec.sai_model_spec": "1.0.1",
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected


def test_values_of_a_run_with_everything_on(tmp_path: Path) -> None:
    found = about(
        tmp_path, LoRA_type="Kohya LoCon", network_dim=6, network_alpha=3, conv_dim=2, conv_alpha=5, clip_skip=2,
        max_token_length=225, min_snr_gamma=5, noise_offset=0.05, scale_weight_norms=1, network_dropout=0.1,
        rank_dropout=0.2, module_dropout=0.3, training_comment="trigger: sks ü", text_encoder_lr=5e-5, unet_lr=0,
        optimizer="AdamW", optimizer_args="weight_decay=0.1 betas=0.9,0.99", reg_data_dir=str(tmp_path / "reg"),
        max_grad_norm=0.5,
    )  # fmt: skip
    expected = {
        "ss_network_dim": "6", "ss_network_alpha": "3.0", "ss_clip_skip": "2", "ss_max_token_length": "225",
        "ss_min_snr_gamma": "5.0", "ss_noise_offset": "0.05", "ss_scale_weight_norms": "1.0",
        "ss_network_dropout": "0.1", "ss_training_comment": "trigger: sks ü", "ss_text_encoder_lr": "5e-05",
        "ss_unet_lr": "0.0", "ss_num_reg_images": "23", "modelspec.encoder_layer": "2", "ss_max_grad_norm": "0.5",
        "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.1,betas=0.9,0.99)",
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert json.loads(found["ss_network_args"]) == {
        "conv_dim": "2", "conv_alpha": "5.0", "rank_dropout": "0.2", "module_dropout": "0.3", "dropout": 0.1,
    }  # fmt: skip
    assert json.loads(found["ss_reg_dataset_dirs"]) == {"1_circle": {"n_repeats": 1, "img_count": 1}}


def test_what_people_tell_comes_back_from_the_file(tmp_path: Path) -> None:
    told = {
        "title": "Meine Katze 🐈", "author": "A. Nonymous", "description": 'Sits. Say "sks cat";\nsecond line: ä, ü',
        "license": "CC-BY-4.0", "tags": "cat, animal,  photo", "trigger_phrase": "sks cat, sitting",
    }  # fmt: skip
    chosen: dict[str, Any] = {f"metadata_{name}": text for name, text in told.items()}
    found = about(tmp_path, **chosen)
    path = formats.save(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, found)
    with safe_open(path, "pt") as file:
        assert {name: file.metadata()[f"modelspec.{name}"] for name in told} == told
    assert found["ss_output_name"] == "t"
    assert set(found) - set(about(tmp_path)) == {f"modelspec.{name}" for name in told if name != "title"}


@pytest.mark.parametrize("blank", ["", "  "])
def test_what_is_not_told_is_left_out(tmp_path: Path, blank: str) -> None:
    names = ("title", "author", "description", "license", "tags", "trigger_phrase")
    chosen: dict[str, Any] = {f"metadata_{name}": blank for name in names}
    found = about(tmp_path, **chosen)
    assert set(found) == set(REFERENCE)
    assert found["modelspec.title"] == "t"


def test_noise_and_loss_of_a_run(tmp_path: Path) -> None:
    plain = about(tmp_path)
    expected = {
        "ss_loss_type": "l2", "ss_huber_schedule": "snr", "ss_huber_c": "0.1", "ss_huber_scale": "1.0",
        "ss_debiased_estimation": "False", "ss_ip_noise_gamma": "None", "ss_ip_noise_gamma_random_strength": "False",
        "ss_noise_offset": "None", "ss_noise_offset_random_strength": "False", "ss_adaptive_noise_scale": "None",
        "ss_multires_noise_iterations": "None", "ss_multires_noise_discount": "0.3",
    }  # fmt: skip
    assert {key: plain[key] for key in expected} == expected
    chosen: dict[str, Any] = {
        "loss_type": "huber", "huber_schedule": "exponential", "huber_c": 0.2, "huber_scale": 2.0,
        "debiased_estimation_loss": True, "ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True,
        "noise_offset": 0.05, "noise_offset_random_strength": True, "adaptive_noise_scale": 0.01,
        "multires_noise_iterations": 6, "multires_noise_discount": 0.2, "min_timestep": 100,
    }  # fmt: skip
    found = about(tmp_path, **chosen)
    expected |= {
        "ss_loss_type": "huber", "ss_huber_schedule": "exponential", "ss_huber_c": "0.2", "ss_huber_scale": "2.0",
        "ss_debiased_estimation": "True", "ss_ip_noise_gamma": "0.1", "ss_ip_noise_gamma_random_strength": "True",
        "modelspec.timestep_range": "100,1000",
    }  # fmt: skip
    original = {
        "ss_noise_offset": "0.05", "ss_noise_offset_random_strength": "True", "ss_adaptive_noise_scale": "0.01",
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected | original
    found = about(tmp_path, **chosen, noise_offset_type="Multires")
    multires = {"ss_multires_noise_iterations": "6", "ss_multires_noise_discount": "0.2"}
    assert {key: found[key] for key in expected} == expected | multires


def test_folders_tags_and_buckets(tmp_path: Path) -> None:
    found = about(tmp_path)
    assert json.loads(found["ss_dataset_dirs"]) == {
        "10_shape": {"n_repeats": 10, "img_count": 2}, "3_other": {"n_repeats": 3, "img_count": 1},
    }  # fmt: skip
    assert json.loads(found["ss_tag_frequency"]) == {
        "10_shape": {"a red circle": 1, "flat drawing": 2, "sks style": 1, "a green circle": 1}, "3_other": {"other": 1},
    }  # fmt: skip
    info = json.loads(found["ss_bucket_info"])
    assert info["buckets"] == {
        "0": {"resolution": [64, 64], "count": 3}, "1": {"resolution": [128, 128], "count": 10},
        "2": {"resolution": [192, 64], "count": 10},
    }  # fmt: skip
    assert info["mean_img_ar_error"] == pytest.approx((1 - 64 / 100) / 3)


def test_how_captions_are_varied_is_told_and_tags_are_counted_as_they_stand(tmp_path: Path) -> None:
    varied: dict[str, Any] = {
        "caption_prefix": "sks", "caption_suffix": "in oil", "caption_separator": ";", "enable_wildcard": True,
        "keep_tokens_separator": "|||", "secondary_separator": "//", "token_warmup_min": 2, "token_warmup_step": 0.5,
        "caption_tag_dropout_rate": 0.1,
    }  # fmt: skip
    found = about(tmp_path, **varied)
    assert set(found) - set(REFERENCE) == {f"ss_{name}" for name in varied} - {"ss_caption_tag_dropout_rate"}
    assert {name: found[f"ss_{name}"] for name in varied} == {name: str(value) for name, value in varied.items()}
    chosen, _, plan = prepared(tmp_path, enable_wildcard=True)
    (tmp_path / "img" / "10_shape" / "b.txt").write_text("a {green|blue} circle\nflat drawing, new")
    found = formats.metadata(chosen, tiny_model(), scan(chosen), plan, Progress())
    tags = json.loads(found["ss_tag_frequency"])["10_shape"]
    assert tags == {"a red circle": 1, "flat drawing": 2, "sks style": 1, "a {green|blue} circle": 1, "new": 1}


def test_rank_and_alpha_are_the_adapters(tmp_path: Path) -> None:
    _, adapter = taught(LoRA_type="Kohya LoCon", network_dim=6, network_alpha=3, conv_dim=2, conv_alpha=5)
    found = about(tmp_path, adapter, LoRA_type="Kohya LoCon", network_dim=99, dim_from_weights=True)
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("6", "3.0")
    assert json.loads(found["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "5.0"}


def test_each_save_has_its_own_time_and_the_run_one_number(tmp_path: Path) -> None:
    progress = Progress()
    first = about(tmp_path, progress=progress)
    progress.step, progress.epoch = 30, 3
    second = about(tmp_path, progress=progress)
    assert (second["ss_steps"], second["ss_epoch"]) == ("30", "3")
    assert float(second["ss_training_finished_at"]) >= float(first["ss_training_finished_at"]) >= progress.started
    assert first["ss_session_id"] == second["ss_session_id"]
    assert first["ss_session_id"] != about(tmp_path, progress=Progress(started=1))["ss_session_id"]


def test_a_model_of_the_hub_has_a_name_and_no_hash(tmp_path: Path) -> None:
    chosen, dataset, plan = prepared(tmp_path)
    model = tiny_model()
    model.name = "CompVis/stable-diffusion-v1-4"
    found = formats.metadata(chosen, model, dataset, plan, Progress())
    assert found["ss_sd_model_name"] == "CompVis/stable-diffusion-v1-4"
    assert "ss_sd_model_hash" not in found
    model.name = str(model.source)
    found = formats.metadata(chosen, model, dataset, plan, Progress())
    assert found["ss_sd_model_name"] == model.source.name
    assert found["ss_new_sd_model_hash"] == hashlib.sha256(model.source.read_bytes()).hexdigest()


def test_a_v_prediction_model_is_called_so(tmp_path: Path) -> None:
    chosen, dataset, plan = prepared(tmp_path)
    model = tiny_model()
    model.prediction_type = "v_prediction"
    found = formats.metadata(chosen, model, dataset, plan, Progress())
    assert (found["ss_base_model_version"], found["modelspec.prediction_type"]) == ("sd_v1_v", "v")


# Files


def restated_hashes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> tuple[str, str]:
    """Both hashes as web UIs compute them from a file that has only the `ss_*` metadata."""
    import safetensors.torch

    only = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    file = io.BytesIO(safetensors.torch.save(tensors, only))
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    file.seek(length + 8)
    model_hash = hashlib.sha256()
    while block := file.read(1024 * 1024):
        model_hash.update(block)
    file.seek(0x100000)
    legacy_hash = hashlib.sha256()
    legacy_hash.update(file.read(0x10000))
    return model_hash.hexdigest(), legacy_hash.hexdigest()[:8]


@pytest.mark.parametrize("megabytes", [0.1, 1.02, 3])
def test_hashes_are_those_web_uis_compute(tmp_path: Path, megabytes: float) -> None:
    tensors = {"a": torch.rand(int(megabytes * 2**18)), "b": torch.rand(10).half()}
    metadata = {"ss_x": "1" * 500, "modelspec.title": "not in the hash"}
    path = formats.save(tmp_path / "a.safetensors", tensors, metadata)
    found = formats.read_metadata(path)
    model_hash, legacy_hash = restated_hashes(tensors, metadata)
    assert (found["sshs_model_hash"], found["sshs_legacy_hash"]) == (model_hash, legacy_hash)
    assert (legacy_hash == "e3b0c442") == (megabytes < 1)
    data = path.read_bytes()
    assert hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest() == model_hash


def test_a_file_comes_back_with_its_metadata(tmp_path: Path) -> None:
    _, adapter = taught()
    state, metadata = adapter.state_dict(torch.float16), about(tmp_path)
    path = formats.save(tmp_path / "ä ö" / "meine 🎨 LoRA.safetensors", state, metadata)
    found = load_file(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    with safe_open(path, "pt") as file:
        assert file.metadata() == formats.read_metadata(path)
    assert {key: formats.read_metadata(path)[key] for key in metadata} == metadata
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name]


def test_a_ckpt_loads_where_only_tensors_are_allowed(tmp_path: Path) -> None:
    state = taught()[1].state_dict()
    path = formats.save(tmp_path / "a.ckpt", state, {"ss_x": "y"}, as_ckpt=True)
    found = torch.load(path, weights_only=True)
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_a_file_without_metadata_has_none(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert formats.read_metadata(tmp_path / "a.safetensors") == {}


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("moment", ["write", "sync", "rename"])
def test_a_full_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, existing: bool
) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.rand(1000)}
    if existing:
        path.write_bytes(b"the file of yesterday")

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "write":
        real = Path.open

        def opened(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            file = real(self, mode, *args, **options)
            return Overfull(file) if "w" in mode else file

        monkeypatch.setattr(Path, "open", opened)
    elif moment == "sync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(Failure, match="The disk is full") as error:
        formats.save(path, tensors, {})
    assert error.value.key == "output_dir"
    monkeypatch.undo()
    assert [item.name for item in tmp_path.iterdir()] == ([path.name] if existing else [])
    if existing:
        assert path.read_bytes() == b"the file of yesterday"


class Overfull:
    """A file on a disk with room for a hundred bytes."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "Overfull":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.EACCES, "may not be written to"), (errno.EROFS, "is read-only"), (errno.EIO, "could not be written")],
)
def test_a_folder_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(Failure, match=words) as error:
        formats.save(tmp_path / "x" / "a.safetensors", {"a": torch.zeros(2)}, {})
    assert error.value.advice


def test_a_file_in_the_place_of_a_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure):
        formats.save(tmp_path / "file" / "a.safetensors", {"a": torch.zeros(2)}, {})
