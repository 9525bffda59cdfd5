"""The options of sd-scripts' `train_network.py` and `sdxl_train_network.py`, and what each of them is here.

An option is a setting of the same name, a setting of another name (`CALLED`), becomes something else (`BECOMES`), needs
no setting because it is always so here (`ALWAYS`), or is not offered (`NOT_HERE`).
"""

import re
from collections.abc import Mapping
from typing import Any

MANY: tuple[str, ...] = ()
"""The default of an option that takes several words."""

DEFAULTS: Mapping[str, Any] = {
    # the model
    "v2": False, "v_parameterization": False, "pretrained_model_name_or_path": None, "tokenizer_cache_dir": None, "vae": None,
    "disable_mmap_load_safetensors": False, "no_half_vae": False,
    # the data set
    "train_data_dir": None, "reg_data_dir": None, "dataset_config": None, "cache_info": False, "in_json": None,
    "dataset_repeats": 1, "dataset_class": None, "debug_dataset": False, "conditioning_data_dir": None, "masked_loss": False,
    "alpha_mask": False, "resolution": None, "enable_bucket": False, "min_bucket_reso": 256, "max_bucket_reso": 1024,
    "bucket_reso_steps": 64, "bucket_no_upscale": False, "resize_interpolation": None, "color_aug": False, "flip_aug": False,
    "random_crop": False, "face_crop_aug_range": None, "cache_latents": False, "cache_latents_to_disk": False,
    "skip_cache_check": False, "vae_batch_size": 1, "cache_text_encoder_outputs": False,
    "cache_text_encoder_outputs_to_disk": False, "max_data_loader_n_workers": 8, "persistent_data_loader_workers": False,
    "train_inpainting": False,
    # captions
    "caption_extension": ".caption", "caption_extention": None, "caption_separator": ",", "shuffle_caption": False,
    "keep_tokens": 0, "keep_tokens_separator": "", "secondary_separator": None, "enable_wildcard": False,
    "caption_prefix": None, "caption_suffix": None, "caption_dropout_rate": 0.0, "caption_dropout_every_n_epochs": 0,
    "caption_tag_dropout_rate": 0.0, "token_warmup_min": 1, "token_warmup_step": 0, "weighted_captions": False,
    "max_token_length": None, "clip_skip": None,
    # the network
    "network_module": None, "network_args": MANY, "network_dim": None, "network_alpha": 1.0, "network_dropout": None,
    "network_weights": None, "dim_from_weights": False, "scale_weight_norms": None, "network_train_unet_only": False,
    "network_train_text_encoder_only": False, "base_weights": MANY, "base_weights_multiplier": MANY,
    # how long and how fast
    "train_batch_size": 1, "max_train_steps": 1600, "max_train_epochs": None, "gradient_accumulation_steps": 1, "seed": None,
    "learning_rate": 2e-6, "unet_lr": None, "text_encoder_lr": MANY, "optimizer_type": "AdamW", "optimizer_args": MANY,
    "use_8bit_adam": False, "use_lion_optimizer": False, "max_grad_norm": 1.0, "fused_backward_pass": False,
    "lr_scheduler": "constant", "lr_scheduler_type": "", "lr_scheduler_args": MANY, "lr_warmup_steps": 0, "lr_decay_steps": 0,
    "lr_scheduler_num_cycles": 1, "lr_scheduler_power": 1.0, "lr_scheduler_timescale": None, "lr_scheduler_min_lr_ratio": None,
    # noise and loss
    "noise_offset": None, "noise_offset_random_strength": False, "adaptive_noise_scale": None,
    "multires_noise_iterations": None, "multires_noise_discount": 0.3, "ip_noise_gamma": None,
    "ip_noise_gamma_random_strength": False, "zero_terminal_snr": False, "min_timestep": None, "max_timestep": None,
    "loss_type": "l2", "huber_schedule": "snr", "huber_c": 0.1, "huber_scale": 1.0, "min_snr_gamma": None,
    "scale_v_pred_loss_like_noise_pred": False, "v_pred_like_loss": None, "debiased_estimation_loss": False,
    "prior_loss_weight": 1.0,
    # memory and speed
    "mixed_precision": "no", "full_fp16": False, "full_bf16": False, "fp8_base": False, "fp8_base_unet": False,
    "gradient_checkpointing": False, "cpu_offload_checkpointing": False, "xformers": False, "sdpa": False,
    "mem_eff_attn": False, "torch_compile": False, "dynamo_backend": "inductor", "lowram": False, "highvram": False,
    "ddp_timeout": None, "ddp_gradient_as_bucket_view": False, "ddp_static_graph": False, "deepspeed": False, "zero_stage": 2,
    "offload_optimizer_device": None, "offload_optimizer_nvme_path": None, "offload_param_device": None,
    "offload_param_nvme_path": None, "zero3_init_flag": False, "zero3_save_16bit_model": False,
    "fp16_master_weights_and_gradients": False,
    # what is saved
    "output_dir": None, "output_name": "last", "save_model_as": "safetensors", "save_precision": "float",
    "save_every_n_epochs": None, "save_every_n_steps": None, "save_n_epoch_ratio": None, "save_last_n_epochs": None,
    "save_last_n_steps": None, "save_last_n_epochs_state": None, "save_last_n_steps_state": None, "save_state": False,
    "save_state_on_train_end": False, "resume": None, "skip_until_initial_step": False, "initial_epoch": None,
    "initial_step": None, "training_comment": None, "no_metadata": False, "metadata_title": None, "metadata_author": None,
    "metadata_description": None, "metadata_license": None, "metadata_tags": None, "huggingface_repo_id": None,
    "huggingface_repo_type": None, "huggingface_path_in_repo": None, "huggingface_token": None,
    "huggingface_repo_visibility": None, "save_state_to_huggingface": False, "resume_from_huggingface": False,
    "async_upload": False,
    # what is seen on the way
    "sample_every_n_steps": None, "sample_every_n_epochs": None, "sample_at_first": False, "sample_prompts": None,
    "sample_sampler": "ddim", "logging_dir": None, "log_with": None, "log_prefix": None, "log_tracker_name": None,
    "log_tracker_config": None, "log_config": False, "wandb_run_name": None, "wandb_api_key": None,
    "console_log_level": None, "console_log_file": None, "console_log_simple": False, "validation_seed": None,
    "validation_split": 0.0, "validate_every_n_steps": None, "validate_every_n_epochs": None, "max_validation_steps": None,
    # files of settings
    "config_file": None, "output_config": False,
}  # fmt: skip
"""What sd-scripts does where nothing is said; None: it is off, or there is no usual value. `False` marks a flag, which
takes no value."""

CALLED: Mapping[str, str] = {
    "resolution": "max_resolution", "optimizer_type": "optimizer", "cache_text_encoder_outputs": "sdxl_cache_text_encoder_outputs",
    "no_half_vae": "sdxl_no_half_vae", "caption_extention": "caption_extension", "reso_steps": "bucket_reso_steps",
}  # fmt: skip
"""Options that are settings of another name."""

BECOMES: Mapping[str, str] = {
    "network_module": "LoRA_type", "network_args": "LoRA_type", "network_train_unet_only": "text_encoder_lr",
    "network_train_text_encoder_only": "unet_lr", "use_8bit_adam": "optimizer", "use_lion_optimizer": "optimizer",
    "sdpa": "xformers", "torch_compile": "dynamo_backend", "alpha_mask": "masked_loss",
    "cache_text_encoder_outputs_to_disk": "sdxl_cache_text_encoder_outputs", "lr_decay_steps": "lr_scheduler_args",
    "lr_scheduler_timescale": "lr_scheduler_args", "lr_scheduler_min_lr_ratio": "lr_scheduler_args",
}  # fmt: skip
"""Options whose meaning is a value of a setting."""

ALWAYS: Mapping[str, str] = {
    "tokenizer_cache_dir": "the tokenizers come with the program",
    "lowram": "a model's file is mapped, never read into memory as a whole",
    "disable_mmap_load_safetensors": "how a model's file is read makes no difference here",
    "cache_info": "what was found out about pictures is always kept",
    "debug_dataset": "what was found in the folders is shown before anything starts",
    "dataset_repeats": "it is for data sets listed in a JSON file; folders say their own repeats, such as 10_cat",
    "console_log_level": "a run's log is the file log.txt in its folder",
    "console_log_file": "a run's log is the file log.txt in its folder",
    "console_log_simple": "a run's log is the file log.txt in its folder",
    "skip_until_initial_step": "a resumed run always goes on with the pictures it had not seen",
    "initial_epoch": "a training state knows its epoch",
    "initial_step": "a training state knows its step",
    "ddp_timeout": "processes that wait for each other notice when one has died",
    "ddp_gradient_as_bucket_view": "gradients of a LoRA are added up in one piece",
    "ddp_static_graph": "gradients of a LoRA are added up in one piece",
    "output_config": "every run keeps its settings in its folder, and Save as … keeps them under a name",
    "max_validation_steps": "there are no validation steps; watch the sample pictures",
    "validation_seed": "there are no validation steps; watch the sample pictures",
}
"""Options that need no setting: what they ask for is so in every run, or makes no difference."""

DEEPSPEED = "DeepSpeed is for models that do not fit one card; lowvram and fp8 base save memory here"
VALIDATION = "no pictures are set aside for validation here; watch the sample pictures"
NOT_HERE: Mapping[str, str] = {
    "in_json": "captions are read from text files beside the pictures, not from a JSON file",
    "dataset_class": "code of other programs is not run; put the pictures in folders such as 10_cat",
    "face_crop_aug_range": "faces are not looked for; crop the pictures beforehand",
    "resize_interpolation": "pictures are shrunk by area and enlarged by Lanczos",
    "base_weights": "merge those LoRAs into the model first, or go on from one with Network weights",
    "base_weights_multiplier": "merge those LoRAs into the model first, or go on from one with Network weights",
    "fused_backward_pass": "it saves the memory of gradients in full fine-tuning; a LoRA's gradients are small",
    "cpu_offload_checkpointing": "use Gradient checkpointing, and lowvram where memory is still short",
    "deepspeed": DEEPSPEED, "zero_stage": DEEPSPEED, "offload_optimizer_device": DEEPSPEED,
    "offload_optimizer_nvme_path": DEEPSPEED, "offload_param_device": DEEPSPEED, "offload_param_nvme_path": DEEPSPEED,
    "zero3_init_flag": DEEPSPEED, "zero3_save_16bit_model": DEEPSPEED, "fp16_master_weights_and_gradients": DEEPSPEED,
    "save_n_epoch_ratio": "say how often with Save every N epochs",
    "no_metadata": "a file always says how it was made; programs that use LoRAs read it",
    "validation_split": VALIDATION, "validate_every_n_steps": VALIDATION, "validate_every_n_epochs": VALIDATION,
    "config_file": "settings files are opened with Open … at the top of the page",
}  # fmt: skip
"""Options that ask for something this program does not do."""

OTHER_MODELS: tuple[str, ...] = (
    "ae", "clip_l", "clip_g", "t5xxl", "t5xxl_device", "t5xxl_dtype", "t5xxl_max_token_length", "apply_t5_attn_mask",
    "apply_lg_attn_mask", "blocks_to_swap", "guidance_scale", "discrete_flow_shift", "timestep_sampling", "sigmoid_scale",
    "model_prediction_type", "weighting_scheme", "logit_mean", "logit_std", "mode_scale", "training_shift", "split_mode",
    "train_blocks", "mem_eff_save", "clip_l_dropout_rate", "clip_g_dropout_rate", "t5_dropout_rate", "gemma2",
)  # fmt: skip
FOR_OTHER_MODELS = "it is for Flux.1, Stable Diffusion 3 and their like, which are not trained here"

WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
"""Quotes hold spaces together; backslashes are part of paths."""
SECRET_FLAGS = re.compile(
    r"""["']?[-–—]+(?:huggingface[_-]token|wandb[_-]api[_-]key)\b(?:[\s=]+(?:"[^"]*"|'[^']*'|(?!-)\S+))?["']?""",
    re.IGNORECASE,
)
"""Flags whose values are secrets, with them."""
CONTINUED = re.compile(r"(?<=\s)[\\^`][ \t]*(?=\r?\n|$)")
"""What ends a line of a command that goes on in the next one, in the shells of the three systems."""
DASHES = re.compile(r"""(?<![^\s"'])[–—](?=[A-Za-z])""")
"""What text editors make of two hyphens."""
TICKS = ("true", "false", "1", "0", "yes", "no", "on", "off")


def refusal(option: str) -> str:
    """Why an option is no setting here, "" when it is one (or unknown)."""
    return ALWAYS.get(option) or NOT_HERE.get(option) or (FOR_OTHER_MODELS if option in OTHER_MODELS else "")


def takes_many(option: str) -> bool:
    """Whether an option takes several words, each of its own."""
    return option in DEFAULTS and DEFAULTS[option] == MANY


def words(text: str) -> list[str]:
    """The words of a command line as people paste it; raises `ValueError` that shows a quote which is not closed."""
    text = DASHES.sub("--", CONTINUED.sub("", text))
    rest = WORD.sub(lambda word: " " * len(word[0]), text)
    if rest.strip():
        at = len(rest) - len(rest.lstrip())
        raise ValueError(f"the quote before {text[at + 1 : at + 21].strip() or 'the end'} is not closed")
    return [re.sub(r"""["']""", "", word) for word in WORD.findall(text)]


def _spelled(name: str) -> str:
    """An option's name from one with hyphens or capitals, as other programs write theirs."""
    plain = name.replace("-", "_").lower()
    return plain if plain in DEFAULTS else name


def flags(text: str) -> tuple[dict[str, list[str]], list[str]]:
    """({option: its words}, words that belong to no option) of a command line; the last of several equal options counts.

    Raises `ValueError` with a sentence where a quote is not closed.
    """
    found: dict[str, list[str]] = {}
    stray: list[str] = []
    name = ""
    for word in words(text):
        if word.startswith("--") and len(word) > 2:
            name, sign, value = word[2:].partition("=")
            name = _spelled(name)
            found.pop(name, None)
            found[name] = [value] if sign else []
        elif not name or (DEFAULTS.get(name) is False and word.lower() not in TICKS):
            stray.append(word)
        else:
            found[name].append(word)
    return found, stray
