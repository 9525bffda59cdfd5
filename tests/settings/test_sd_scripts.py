"""Configs of sd-scripts: a TOML means the same settings as the equal preset of the Kohya GUI."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.settings import Settings
from trainer.settings.kohya import ABSENT, load, read
from trainer.settings.loaded import KNOWN

GUI = {
    "LoRA_type": "Kohya LoCon", "network_dim": 16, "network_alpha": 8, "conv_dim": 4, "conv_alpha": 2,
    "optimizer": "AdamW8bit", "optimizer_args": "weight_decay=0.1 betas=0.9,0.99", "learning_rate": 1e-4,
    "text_encoder_lr": 5e-5, "unet_lr": 1e-4, "lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3,
    "lr_warmup": 5, "max_resolution": "768,512", "enable_bucket": True, "min_bucket_reso": 320, "max_bucket_reso": 1536,
    "bucket_no_upscale": True, "bucket_reso_steps": 64, "train_batch_size": 2, "max_train_steps": 900, "seed": 7,
    "caption_extension": ".txt", "shuffle_caption": True, "keep_tokens": 1, "mixed_precision": "bf16",
    "save_precision": "fp16", "save_every_n_epochs": 2, "cache_latents": True, "min_snr_gamma": 5, "noise_offset": 0.05,
    "xformers": "sdpa", "sample_sampler": "euler_a", "output_name": "cat-v1", "clip_skip": 2,
}  # fmt: skip
"""What a preset of the GUI says; the three texts below say the same to sd-scripts."""

SHAPES = {
    "flat": """
        network_module = "networks.lora"
        network_dim = 16
        network_alpha = 8.0
        network_args = ["conv_dim=4", "conv_alpha=2"]
        optimizer_type = "AdamW8bit"
        optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]
        learning_rate = 1e-4
        text_encoder_lr = [5e-5, 5e-5]
        unet_lr = 0.0001
        lr_scheduler = "cosine_with_restarts"
        lr_scheduler_num_cycles = 3
        lr_warmup_steps = 0.05
        resolution = "768,512"
        enable_bucket = true
        min_bucket_reso = 320
        max_bucket_reso = 1536
        bucket_no_upscale = true
        bucket_reso_steps = 64
        train_batch_size = 2
        max_train_steps = 900
        seed = 7
        caption_extension = ".txt"
        shuffle_caption = true
        keep_tokens = 1
        mixed_precision = "bf16"
        save_precision = "fp16"
        save_every_n_epochs = 2
        cache_latents = true
        min_snr_gamma = 5
        noise_offset = 0.05
        sdpa = true
        sample_sampler = "euler_a"
        output_name = "cat-v1"
        clip_skip = 2
    """,
    "sections": """
        [network_arguments]
        network_module = "networks.lora"
        network_dim = 16
        network_alpha = 8
        network_args = ["conv_dim=4", "conv_alpha=2"]
        [optimizer_arguments]
        optimizer_type = "AdamW8bit"
        optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]
        learning_rate = 0.0001
        text_encoder_lr = 5e-5
        unet_lr = 1e-4
        lr_scheduler = "cosine_with_restarts"
        lr_scheduler_num_cycles = 3.0
        lr_warmup_steps = "5%"
        [dataset_arguments]
        resolution = [768, 512]
        enable_bucket = true
        min_bucket_reso = 320
        max_bucket_reso = 1536
        bucket_no_upscale = true
        train_batch_size = 2.0
        caption_extension = ".txt"
        shuffle_caption = true
        keep_tokens = 1
        cache_latents = true
        [training_arguments]
        max_train_steps = 900
        seed = 7
        mixed_precision = "bf16"
        save_precision = "fp16"
        save_every_n_epochs = 2
        min_snr_gamma = 5.0
        noise_offset = 0.05
        sdpa = true
        sample_sampler = "euler_a"
        output_name = "cat-v1"
        clip_skip = 2
    """,
}


def written(folder: Path, text: str, name: str = "config.toml") -> Path:
    file = folder / name
    file.write_text("\n".join(line.strip() for line in text.splitlines()), encoding="utf-8")
    return file


@pytest.mark.parametrize("shape", SHAPES)
def test_a_toml_means_what_the_equal_preset_means(tmp_path: Path, shape: str) -> None:
    found, wanted = load(written(tmp_path, SHAPES[shape])), read(GUI)
    assert not found.problems
    assert not found.ignored
    assert found.settings == wanted.settings


def test_what_a_toml_does_not_say_has_the_default_of_sd_scripts_and_is_named(tmp_path: Path) -> None:
    found = load(written(tmp_path, 'network_module = "networks.lora"\nenable_bucket = true'))
    wanted = {
        "network_dim": 4, "learning_rate": 2e-6, "optimizer": "AdamW", "lr_scheduler": "constant", "lr_warmup": 0.0,
        "max_train_steps": 1600, "caption_extension": ".caption", "mixed_precision": "no", "save_precision": "float",
        "save_every_n_epochs": 0, "seed": None, "cache_latents": False, "bucket_no_upscale": False, "max_bucket_reso": 1024,
        "sample_sampler": "ddim",
    }  # fmt: skip
    assert {key: getattr(found.settings, key) for key in wanted} == wanted
    said = {item.key: item.why for item in found.changed}
    assert set(wanted) - {"network_dim"} <= set(said)
    assert all("sd-scripts takes this" in said[key] for key in set(wanted) - {"network_dim"})
    assert set(found.values) == {*wanted, "LoRA_type", "enable_bucket"}


def test_epochs_of_a_toml_win_over_the_steps_it_does_not_name(tmp_path: Path) -> None:
    assert load(written(tmp_path, "max_train_epochs = 10")).settings.max_train_steps == 0


def test_filling_means_something_beside_what_is_said(tmp_path: Path) -> None:
    """Without buckets their limits say nothing; they stay at their defaults."""
    found = load(written(tmp_path, 'network_module = "networks.lora"'))
    assert not found.settings.enable_bucket
    assert found.settings.max_bucket_reso == KNOWN["max_bucket_reso"].default


def test_every_filled_value_is_valid() -> None:
    assert Settings(**ABSENT)


def test_a_json_or_a_toml_of_this_program_is_not_filled(tmp_path: Path) -> None:
    for name, text in (
        ("a.json", json.dumps({"network_dim": 3})),
        ("a.toml", 'LoRA_type = "Standard"\nnetwork_dim = 3'),
    ):
        assert load(written(tmp_path, text, name)).settings == Settings(network_dim=3)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("network_train_unet_only = true", {"text_encoder_lr": 0.0}),
        ("network_train_text_encoder_only = true", {"unet_lr": 0.0}),
        ("xformers = true", {"xformers": "xformers"}),
        ("mem_eff_attn = true", {"mem_eff_attn": True}),
        ("sdpa = false", {"xformers": "sdpa"}),
        ("use_8bit_adam = true", {"optimizer": "AdamW8bit"}),
        ("use_lion_optimizer = true", {"optimizer": "Lion"}),
        ("lr_warmup_steps = 50", {"lr_warmup_steps": 50}),
        ("lr_warmup_steps = 0.25", {"lr_warmup": 25.0, "lr_warmup_steps": 0}),
        ("resolution = 768", {"max_resolution": "768,768"}),
        ('resolution = "640"', {"max_resolution": "640,640"}),
        ("optimizer_args = []", {"optimizer_args": ""}),
        ("text_encoder_lr = []", {"text_encoder_lr": None}),
        ("torch_compile = true", {"dynamo_backend": "inductor"}),
        ('torch_compile = false\ndynamo_backend = "inductor"', {"dynamo_backend": "no"}),
        ("multires_noise_iterations = 6", {"multires_noise_iterations": 6, "noise_offset_type": "Multires"}),
        ("max_token_length = 225", {"max_token_length": 225}),
        ('caption_extention = ".cap"', {"caption_extension": ".cap"}),
        ('network_module = "lycoris.kohya"\nnetwork_args = ["algo=lokr", "factor=8", "preset=attn-mlp"]',
         {"LoRA_type": "LyCORIS/LoKr", "factor": 8, "LyCORIS_preset": "attn-mlp"}),
        ('resume = "me/cats/state"\nresume_from_huggingface = true', {"resume_from_huggingface": "me/cats/state", "resume": ""}),
        ("training_comment = 2024-05-01", {"training_comment": "2024-05-01"}),
        ("no_half_vae = true\ncache_text_encoder_outputs = true",
         {"sdxl_no_half_vae": True, "sdxl_cache_text_encoder_outputs": True}),
    ],
)  # fmt: skip
def test_options_that_are_something_else_here(tmp_path: Path, text: str, values: dict[str, Any]) -> None:
    found = load(written(tmp_path, text))
    assert not found.problems
    assert {key: getattr(found.settings, key) for key in values} == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cache_info = true", "always kept"),
        ("validation_split = 0.1", "no pictures are set aside"),
        ("deepspeed = true", "lowvram and fp8 base"),
        ("t5xxl = 'x'", "Stable Diffusion 3"),
        ("colour = 1", "no such setting"),
        ('huggingface_token = "hf_secret"', "never read from a file"),
    ],
)
def test_options_without_a_field_are_ignored_with_a_reason(tmp_path: Path, text: str, words: str) -> None:
    found = load(written(tmp_path, text + "\nnetwork_dim = 4"))
    (item,) = found.ignored
    assert words in item.why
    assert "hf_secret" not in repr(found)


PROMPTS = {
    "p.txt": "a cat --n blurry --w 512\n\n# resting\n",
    "p.toml": '[prompt]\nwidth = 512\nnegative_prompt = "blurry"\n[[prompt.subset]]\nprompt = "a cat"\n[[prompt.subset]]\nprompt = "a\\n dog"\nseed = 3\nscale = 7.5\nsample_steps = 20',
    "p.json": '[{"prompt": "a cat", "negative_prompt": "blurry", "width": 512, "height": 640}]',
}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("p.txt", "a cat --n blurry --w 512\n# resting"),
     ("p.toml", "a cat --n blurry --w 512\na dog --n blurry --w 512 --d 3 --l 7.5 --s 20"),
     ("p.json", "a cat --n blurry --w 512 --h 640")],
)  # fmt: skip
def test_a_file_of_sample_prompts_is_read(tmp_path: Path, name: str, meant: str) -> None:
    file = tmp_path / name
    file.write_text(PROMPTS[name], encoding="utf-8")
    config = written(tmp_path, f"sample_prompts = '{file}'")
    assert load(config).settings.sample_prompts == meant
    kept = load(config, may_read=lambda path: False)
    assert kept.settings.sample_prompts == ""
    assert any("outside of the folders" in item.why for item in kept.ignored)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.txt", None),
        ("p.json", "{"),
        ("p.json", '{"a": 1}'),
        ("p.toml", "a = "),
        ("p.toml", "[prompt]\na = 1"),
        ("p.txt", b"\xff\xfe"),
    ],
)
def test_prompts_that_cannot_be_read_are_said(tmp_path: Path, name: str, content: str | bytes | None) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = load(written(tmp_path, f"sample_prompts = '{file}'"))
    assert found.settings.sample_prompts == ""
    assert [item.key for item in found.ignored] == ["sample_prompts"]


DATASET = '[general]\ncaption_extension = ".txt"\n[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "/data/cats"\nnum_repeats = 10'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.toml", DATASET),
        ("data.json", '{"datasets": [{"resolution": 512, "subsets": [{"image_dir": "/data/cats"}]}]}'),
    ],
)
def test_a_description_of_a_data_set_is_one_setting(tmp_path: Path, name: str, text: str) -> None:
    file = written(tmp_path, text, name)
    found = load(file)
    assert found.values == {"dataset_config": str(file)}
    assert found.keeps_the_rest
    assert "describes a data set" in found.changed[0].why
