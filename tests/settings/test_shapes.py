"""Every key and every shape of value met in presets in circulation, and what becomes of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.settings import Settings
from trainer.settings.kohya import load, read
from trainer.settings.loaded import KNOWN

# Shapes of values, in a file by hand, and the whole report.

AWKWARD: dict[str, Any] = {
    "LoRA_type": "LoCon",
    "LyCORIS_preset": "full",
    "additional_parameters": '--lr_scheduler_type "CosineAnnealingLR" --lr_scheduler_args "T_max=1000" "eta_min=0e-0" '
    "--network_train_unet_only --max_grad_norm=0 --log_prefix=xl-loha --colour",
    "caption_extension": ".txt2",
    "conv_dims": "1,2",
    "conv_alphas": "",
    "enable_bucket": "false",
    "epoch": "1.0",
    "flip_aug": "1",
    "gradient_accumulation_steps": 1.0,
    "keep_tokens": "0",
    "learning_rate": "1e-4, 1e-5",
    "lora_network_weights": "D:/lycoris/sdxl\\sdxl-kill bill.safetensors",
    "lr_scheduler_num_cycles": "",
    "max_token_length": "225",
    "max_train_epochs": "",
    "model_list": "custom",
    "network_alpha": 0,
    "network_dim": 100000,
    "no_token_padding": False,
    "optimizer_args": '"weight_decay=0.1" "betas=0.9,0.99"',
    "save_as_bool": False,
    "save_model_as": "same as source model",
    "seed": "",
    "stop_text_encoder_training_pct": 0,
    "text_encoder_lr": [1e-4, 1e-5],
    "train_data_dir": "put your image folder here",
    "unet_lr": "5e-05",
    "use_wandb": True,
    "wandb_api_key": "secret-key",
    "xformers": True,
    "bucket_reso_steps": 1,
    "clip_skip": {"a": 1},
}

VALUES = {
    "LoRA_type": "LyCORIS/LoCon", "LyCORIS_preset": "full", "lr_scheduler_type": "CosineAnnealingLR",
    "lr_scheduler_args": "T_max=1000 eta_min=0e-0", "text_encoder_lr": 0.0, "max_grad_norm": 0.0,
    "log_prefix": "xl-loha",
    "caption_extension": ".txt2", "conv_block_dims": "1,2", "enable_bucket": False, "epoch": 1, "flip_aug": True,
    "gradient_accumulation_steps": 1, "keep_tokens": 0, "network_weights": "D:/lycoris/sdxl\\sdxl-kill bill.safetensors",
    "lr_scheduler_num_cycles": 1.0, "max_token_length": 225, "max_train_epochs": 0, "network_alpha": 100000.0,
    "network_dim": 100000, "optimizer_args": '"weight_decay=0.1" "betas=0.9,0.99"', "save_model_as": "safetensors",
    "seed": None, "stop_text_encoder_training": 0, "train_data_dir": "put your image folder here", "unet_lr": 5e-5,
    "xformers": "xformers", "bucket_reso_steps": 8, "log_with": "wandb",
}  # fmt: skip
"""What every key above comes to; what is not here is at its default."""

CHANGED = {
    "LoRA_type": "it is called LyCORIS/LoCon now",
    "lr_scheduler_type": "moved here from Additional parameters",
    "lr_scheduler_args": "moved here from Additional parameters",
    "max_grad_norm": "moved here from Additional parameters",
    "log_prefix": "moved here from Additional parameters",
    "text_encoder_lr": "network_train_unet_only is Text Encoder learning rate 0 here",
    "conv_block_dims": "conv_dims is called conv_block_dims here",
    "network_weights": "lora_network_weights is called network_weights here",
    "stop_text_encoder_training": "stop_text_encoder_training_pct is called stop_text_encoder_training here",
    "network_alpha": "0 meant: the same as the rank",
    "seed": "0 or empty meant a new seed each time, which is an empty field here",
    "xformers": "the tick became a choice of CrossAttention",
    "save_model_as": "a LoRA is saved as safetensors or ckpt",
    "bucket_reso_steps": "pictures are encoded in blocks of 8 pixels",
    "log_with": "use_wandb became a choice of Logging",
}
IGNORED = {
    "additional_parameters --colour": "there is no such setting here; did you mean color_aug?",
    "conv_alphas": "conv_alphas is called conv_block_alphas now; it was empty",
    "model_list": "the name of the model says it all",
    "no_token_padding": "no longer a setting of the Kohya GUI either",
    "save_as_bool": "saved there by accident",
    "wandb_api_key": "secrets are never read from a file",
}
PROBLEMS = {
    "learning_rate": "holds several rates; write one here, and others into Unet learning rate and Text Encoder learning rate.",
    "clip_skip": "must be a number; {'a': 1} is not one.",
}


def test_the_report_of_a_file_with_every_awkward_shape(tmp_path: Path) -> None:
    file = tmp_path / "awkward.json"
    file.write_text(json.dumps(AWKWARD), encoding="utf-8")
    found = load(file)
    assert found.values == VALUES
    assert {item.key: item.why for item in found.changed} == CHANGED
    assert {item.key: item.why for item in found.ignored} == IGNORED
    assert {item.key: item.message for item in found.problems} == PROBLEMS
    assert sorted(found.loaded) == sorted(set(VALUES) - set(CHANGED))
    assert found.settings == Settings(**VALUES)
    assert "secret-key" not in repr(found)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("D:/lycoris/sdxl\\x.safetensors", "D:/lycoris/sdxl\\x.safetensors"),
        ("put the full path to ae.sft here", "put the full path to ae.sft here"),
    ],
)
def test_a_path_of_another_machine_is_kept_and_found_missing(written: str, meant: str) -> None:
    from trainer.checks import check

    s = read({"network_weights": written}).settings
    assert s.network_weights == meant
    assert any(item.key == "network_weights" and written in item.message for item in check(s))


def test_a_file_without_a_model_family_leaves_none_behind() -> None:
    """An SD 1.5 preset after an SDXL one, and a preset without steps: both from the defaults."""
    assert read({"epoch": 160, "LoRA_type": "Standard"}).settings == Settings(epoch=160)
    assert (Settings().sdxl, Settings().max_train_steps) == (False, 0)


# The zero trap: the Kohya GUI leaves out what is 0, and sd-scripts' own value counts.


@pytest.mark.parametrize(
    ("raw", "there"),
    [
        ({"max_grad_norm": 0}, "1"),
        ({"max_grad_norm": "0.0"}, "1"),
        ({"prior_loss_weight": 0, "reg_data_dir": "reg"}, "1"),
        ({"learning_rate": 0}, "2e-06"),
        ({"lr_scheduler_power": 0, "lr_scheduler": "polynomial"}, "1"),
        ({"multires_noise_discount": 0, "noise_offset_type": "Multires", "multires_noise_iterations": 6}, "0.3"),
    ],
)
def test_a_zero_is_zero_and_what_it_was_elsewhere_is_said(raw: dict[str, Any], there: str) -> None:
    key = next(iter(raw))
    found = read({**raw, "LoRA_type": "Standard"})
    assert getattr(found.settings, key) == 0
    (change,) = [item for item in found.changed if item.key == key]
    assert change.why == f"0 is 0 here; the Kohya GUI leaves it out and trains with {there}"
    assert key not in found.loaded


@pytest.mark.parametrize(
    "raw",
    [
        {"prior_loss_weight": 0, "reg_data_dir": ""},
        {"learning_rate": 0, "unet_lr": 1e-4, "text_encoder_lr": 5e-5},
        {"lr_scheduler_power": 0, "lr_scheduler": "cosine"},
        {"multires_noise_discount": 0, "noise_offset_type": "Original"},
        {"lr_scheduler_power": "", "lr_scheduler": "polynomial"},
        {"max_grad_norm": 1, "additional_parameters": "--max_grad_norm=0"},
        {"max_grad_norm": 0, "overwrite_output": False},
    ],
)
def test_a_zero_that_makes_no_difference_is_not_spoken_of(raw: dict[str, Any]) -> None:
    found = read({**raw, "LoRA_type": "Standard"})
    assert not any("leaves it out" in item.why for item in found.changed)


@pytest.mark.parametrize(("written", "least"), [(1, 32), (16, 32), (48, 32), (100, 96), (64, 64)])
def test_bucket_steps_that_sdxl_cannot_have(written: int, least: int) -> None:
    found = read({"sdxl": True, "bucket_reso_steps": written})
    assert found.settings.bucket_reso_steps == least
    assert [item.why for item in found.changed] == ["SDXL's sides are multiples of 32"] * (written != least)
    assert read({"sdxl": False, "bucket_reso_steps": 1}).settings.bucket_reso_steps == 8


# Keys in circulation, with an example of every type they are written in.

MET: dict[str, tuple[tuple[Any, Any], ...]] = {
    "adaptive_noise_scale": ((0, 0.0), (0.005, 0.005), (0.00357, 0.00357)),
    "async_upload": ((False, False),),
    "block_alphas": (("", ""),), "block_dims": (("", ""),), "block_lr_zero_threshold": (("", ""),),
    "bucket_no_upscale": ((True, True), (False, False)),
    "bucket_reso_steps": ((64, 64), (32, 32), (1, 8), (64.0, 64)),
    "bypass_mode": ((False, False),), "cache_latents": ((True, True),), "cache_latents_to_disk": ((True, True),),
    "caption_dropout_every_n_epochs": ((0.0, 0), (0, 0)),
    "caption_dropout_rate": ((0, 0.0), (0.05, 0.05), (0.5, 0.5)),
    "caption_extension": ((".txt", ".txt"), (".none-use-foldername", ".none-use-foldername"), (".txt2", ".txt2"), (".txt-no", ".txt-no")),
    "clip_skip": (("1", 1), (1, 1), (2, 2)),
    "color_aug": ((False, False),), "constrain": ((0, 0.0), (0.0, 0.0)),
    "conv_alpha": ((1, 1.0), (64, 64.0)), "conv_dim": ((1, 1), (100000, 100000), (64, 64)),
    "conv_block_alphas": (("", ""),), "conv_block_dims": (("", ""),),
    "debiased_estimation_loss": ((False, False), (True, True)), "decompose_both": ((False, False), (True, True)),
    "dim_from_weights": ((False, False), (True, True)), "dora_wd": ((False, False),), "down_lr_weight": (("", ""),),
    "dynamo_backend": (("no", "no"),), "dynamo_mode": (("default", "default"),),
    "dynamo_use_dynamic": ((False, False),), "dynamo_use_fullgraph": ((False, False),),
    "enable_bucket": ((True, True), (False, False)), "epoch": ((1, 1), (160, 160)),
    "extra_accelerate_launch_args": (("", ""),), "factor": ((-1, -1), (6, 6)), "flip_aug": ((False, False),),
    "fp8_base": ((False, False), (True, True)), "full_bf16": ((False, False), (True, True)), "full_fp16": ((False, False),),
    "gpu_ids": (("", ""),), "gradient_accumulation_steps": ((1, 1), (1.0, 1), ("1", 1), (4, 4)),
    "gradient_checkpointing": ((True, True), (False, False)), "highvram": ((False, False),), "huber_c": ((0.1, 0.1),),
    "huber_schedule": (("snr", "snr"),), "huggingface_path_in_repo": (("", ""),), "huggingface_repo_id": (("", ""),),
    "huggingface_repo_type": (("", ""),), "huggingface_repo_visibility": (("", ""),),
    "ip_noise_gamma": ((0, 0.0),), "ip_noise_gamma_random_strength": ((False, False),),
    "keep_tokens": (("0", 0), (1, 1), (0, 0)), "learning_rate": ((1.0, 1.0), (0.0001, 1e-4), ("0.0001", 1e-4)),
    "log_config": ((False, False),), "log_tracker_config": (("", ""),), "log_tracker_name": (("", ""),),
    "log_with": (("", ""), ("wandb", "wandb")), "logging_dir": (("./test/logs-saruman", "./test/logs-saruman"),),
    "LoRA_type": (("Standard", "Standard"), ("LyCORIS/LoKr", "LyCORIS/LoKr"), ("LyCORIS/LoHa", "LyCORIS/LoHa"), ("LyCORIS/iA3", "LyCORIS/iA3")),
    "loraplus_lr_ratio": ((0, 0.0),), "loraplus_text_encoder_lr_ratio": ((0, 0.0),), "loraplus_unet_lr_ratio": ((0, 0.0),),
    "loss_type": (("l2", "l2"),), "lowvram": ((False, False),),
    "lr_scheduler": tuple((name, name) for name in ("constant", "cosine", "adafactor", "cosine_with_restarts")),
    "lr_scheduler_args": (("", ""),), "lr_scheduler_num_cycles": (("", 1.0), ("1", 1.0), (1, 1.0)),
    "lr_scheduler_power": (("", 1.0), (1, 1.0)), "lr_scheduler_type": (("", ""),),
    "lr_warmup": ((0, 0.0), ("0", 0.0), (5, 5.0)), "LyCORIS_preset": (("full", "full"),),
    "main_process_port": ((0, 0),), "masked_loss": ((False, False),), "max_bucket_reso": ((2048, 2048),),
    "max_data_loader_n_workers": (("0", 0), ("1", 1), (0, 0)), "max_grad_norm": ((1, 1.0),),
    "max_resolution": (("1024,1024", "1024,1024"), ("512,650", "512,650")), "max_timestep": ((1000, 1000), (900, 900)),
    "max_token_length": (("75", 75), ("225", 225), (75, 75)), "max_train_epochs": (("", 0), ("100", 100), (1, 1)),
    "max_train_steps": (("", 0), ("320", 320), (1, 1)), "mem_eff_attn": ((False, False), (True, True)),
    "metadata_author": (("", ""),), "metadata_description": (("", ""),), "metadata_license": (("", ""),),
    "metadata_tags": (("", ""),), "metadata_title": (("", ""),), "mid_lr_weight": (("", ""),),
    "min_bucket_reso": ((256, 256), (64, 64)), "min_snr_gamma": ((5, 5.0), (0, 0.0)), "min_timestep": ((0, 0), (100, 100)),
    "mixed_precision": (("bf16", "bf16"), ("fp16", "fp16")), "module_dropout": ((0, 0.0), (0.1, 0.1)),
    "multi_gpu": ((False, False),), "multires_noise_discount": ((0, 0.0), (0.2, 0.2)),
    "multires_noise_iterations": ((0, 0), (8, 8)), "network_alpha": ((32, 32.0),), "network_dim": ((32, 32), (100000, 100000)),
    "network_dropout": ((0, 0.0), (0.3, 0.3)), "network_weights": (("", ""),),
    "noise_offset": ((0, 0.0), (0.0357, 0.0357), ("0.05", 0.05)), "noise_offset_random_strength": ((False, False),),
    "noise_offset_type": (("Original", "Original"), ("Multires", "Multires")), "num_cpu_threads_per_process": ((2, 2),),
    "num_machines": ((1, 1),), "num_processes": ((1, 1),),
    "optimizer": tuple((name, name) for name in ("Prodigy", "AdamW8bit", "AdamW", "Adafactor", "DAdaptAdam")),
    "optimizer_args": (('"d0=1e-5" "d_coef=1.0"', '"d0=1e-5" "d_coef=1.0"'), ("scale_parameter=False", "scale_parameter=False")),
    "output_dir": (("put the full path to output folder here",) * 2,), "output_name": (("name-goes-here-v1",) * 2,),
    "persistent_data_loader_workers": ((False, False),), "pretrained_model_name_or_path": (("x.safetensors",) * 2,),
    "prior_loss_weight": ((1.0, 1.0), (1, 1.0)), "random_crop": ((False, False),), "rank_dropout": ((0, 0.0), (0.1, 0.1)),
    "rank_dropout_scale": ((False, False), (True, True)), "reg_data_dir": (("", ""),), "rescaled": ((False, False),),
    "resume": (("", ""),), "resume_from_huggingface": (("", ""),), "sample_every_n_epochs": ((0, 0),),
    "sample_every_n_steps": ((0, 0),), "sample_prompts": (("saruman posing --w 512",) * 2,), "sample_sampler": (("euler", "euler"),),
    "save_every_n_epochs": ((1, 1), (0, 0)), "save_every_n_steps": ((0, 0), (50, 50)), "save_last_n_steps": ((0, 0),),
    "save_last_n_steps_state": ((0, 0), (1, 1)), "save_model_as": (("safetensors", "safetensors"),),
    "save_precision": (("bf16", "bf16"), ("fp16", "fp16")), "save_state": ((False, False),),
    "save_state_on_train_end": ((False, False),), "save_state_to_huggingface": ((False, False),),
    "scale_v_pred_loss_like_noise_pred": ((False, False),), "scale_weight_norms": ((0, 0.0), (2.5, 2.5)),
    "sdxl": ((True, True), (False, False)), "sdxl_cache_text_encoder_outputs": ((False, False), (True, True)),
    "sdxl_no_half_vae": ((True, True),), "seed": (("", None), ("12345", 12345), (1, 1)),
    "shuffle_caption": ((False, False), (True, True)), "stop_text_encoder_training": ((0, 0),),
    "text_encoder_lr": ((1.0, 1.0), (1, 1.0), ("5e-05", 5e-5)), "train_batch_size": ((1, 1), (8, 8)),
    "train_data_dir": (("put your image folder here",) * 2,), "train_norm": ((False, False), (True, True)),
    "train_on_input": ((True, True), (False, False)), "training_comment": (("", ""), ("trigger: lxndrn woman",) * 2),
    "unet_lr": ((1.0, 1.0), ("0.0001", 1e-4)), "unit": ((1, 1),), "up_lr_weight": (("", ""),),
    "use_cp": ((False, False), (True, True)), "use_scalar": ((False, False),), "use_tucker": ((False, False),),
    "v2": ((False, False),), "v_parameterization": ((False, False),), "v_pred_like_loss": ((0, 0.0),), "vae": (("", ""),),
    "vae_batch_size": ((0, 0),), "wandb_run_name": (("", ""),), "weighted_captions": ((False, False),),
    "xformers": ((True, "xformers"), ("xformers", "xformers"), ("sdpa", "sdpa")),
    "dataset_config": (("", ""),), "additional_parameters": (("", ""),),
}  # fmt: skip
"""key -> (as written, as meant), of 31 presets."""

ELSEWHERE = (
    "ae", "apply_t5_attn_mask", "clip_l", "discrete_flow_shift", "flux1_cache_text_encoder_outputs",
    "flux1_cache_text_encoder_outputs_to_disk", "guidance_scale", "mem_eff_save", "model_prediction_type", "model_list",
    "no_token_padding", "save_as_bool", "split_mode", "t5xxl", "t5xxl_max_token_length", "timestep_sampling", "train_blocks",
    "huggingface_token", "wandb_api_key",
)  # fmt: skip
"""Keys of these presets that are no settings here; each has a reason."""


@pytest.mark.parametrize("key", MET)
def test_a_key_in_circulation_is_read_in_every_form(key: str) -> None:
    for written, meant in MET[key]:
        found = read({key: written})
        assert not found.problems
        assert not found.ignored
        assert getattr(found.settings, key) == meant
        assert type(getattr(found.settings, key)) is type(meant)


@pytest.mark.parametrize("key", ELSEWHERE)
def test_a_key_that_means_nothing_here_is_said(key: str) -> None:
    found = read({key: "x"})
    assert (found.values, [item.key for item in found.ignored]) == ({}, [key])
    assert "no such setting" not in found.ignored[0].why


def test_every_key_is_one_or_the_other() -> None:
    assert set(MET) <= set(KNOWN)
    assert not set(ELSEWHERE) & (set(MET) | set(KNOWN) - {"wandb_api_key", "huggingface_token"})
