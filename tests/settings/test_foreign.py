"""Files that are for something else: each is recognised, and its sentence says what it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.settings import Settings
from trainer.settings.foreign import FAMILIES, OF_TABS, TELLING, TYPES
from trainer.settings.kohya import load, read
from trainer.settings.loaded import KNOWN, Unreadable

NODE = {"class_type": "KSampler", "inputs": {"seed": 1}}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"training_method": "LORA", "base_model_name": "x", "learning_rate": 1e-4}, "is a config of OneTrainer"),
        ({"training_method": "LORA", "model_type": "SDXL", "epochs": 1}, "is a config of OneTrainer"),
        ({"job": "extension", "config": {}}, "is a job of ai-toolkit"),
        ({"model_family": "sdxl", "data_backend_config": "x", "learning_rate": 1e-4}, "is a config of SimpleTuner"),
        ({"--model_family": "sdxl", "--lora_rank": 4}, "is a config of SimpleTuner"),
        ({"data_root": "x", "resume_ckpt": "y", "lr_scheduler": "constant"}, "is a config of EveryDream"),
        ({"nodes": [], "links": [], "version": 0.4}, "is a workflow of ComfyUI"),
        ({"3": NODE, "4": NODE}, "is a workflow of ComfyUI"),
        ({"nodes": {}, "edges": []}, "is a workflow of InvokeAI"),
        ({"prompt": "a cat", "steps": 20, "cfg_scale": 7, "seed": 1}, "Its prompt goes into Sample prompts"),
        ({"activation text": "sks", "description": "", "notes": ""}, "the card of a LoRA in AUTOMATIC1111's web UI"),
        ({"sd_model_checkpoint": "x", "samples_save": True}, "the configuration of AUTOMATIC1111's web UI"),
        ({"txt2img/Prompt/visible": True, "img2img/Seed/value": 1}, "the page's defaults of AUTOMATIC1111's web UI"),
        ({"ss_network_dim": "8", "sshs_model_hash": "x", "modelspec.title": "y"}, "the metadata of a finished LoRA"),
        ({"__metadata__": {"ss_network_dim": "8"}}, "the metadata of a finished LoRA"),
        ({"enable_conv": True, "unet_target_module": ["A"]}, "is a LyCORIS preset.* Write its path into LyCORIS Preset"),
        ({"mine": {"unet_target_module": ["A"]}}, "is a set of LyCORIS presets"),
        ({"repo_id": "x", "general_threshold": 0.3, "character_threshold": 0.8}, "for a tagger"),
        ({"img/a.png": {"tags": "cat"}, "img/b.png": {"caption": "a cat"}}, "a list of captions for fine-tuning"),
        ({"compute_environment": "LOCAL_MACHINE", "mixed_precision": "fp16"}, "fields under Accelerate launch"),
        ({"peft_type": "LORA", "r": 8}, "an adapter of PEFT"),
        ({"_class_name": "UNet2DConditionModel"}, "a part of a diffusers model.* Its folder goes into Pretrained model"),
        ({"tokenizer_class": "CLIPTokenizer"}, "is a part of a model"),
        ({"architectures": ["CLIPTextModel"], "model_type": "clip"}, "is a part of a model"),
        ({"name": "x", "version": "1"}, "no settings of a LoRA training, but name, version"),
        ({"description": "mine"}, "no settings of a LoRA training, but description"),
        ({"datasets": {"subsets": []}}, r"write \[\[datasets\]\] above its parts"),
    ],
)  # fmt: skip
def test_files_of_other_programs_are_named_and_change_nothing(tmp_path: Path, raw: dict[str, Any], words: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(Unreadable, match=words):
        load(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[project]\nname = "x"', "no settings of a LoRA training, but name, project"),
        ("network_dim = ", "not valid TOML"),
        ('enable_conv = true\n[name_algo_map.x]\nalgo = "lokr"', "is a LyCORIS preset"),
        ("[general_args.args]\nmax_token_length = 75\n[saving_args.args]\n[network_args.args]\nnetwork_dim = 8", "LoRA Easy Tr"),
        ('[[datasets.subsets]]\nimage_dir = "x"', "describes a data set, but holds no list of them"),
    ],
)  # fmt: skip
def test_tables_of_other_programs_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Unreadable, match=words):
        load(file)


def test_a_file_of_which_most_is_unknown_is_read_and_doubted(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"seed": 3, "max_epochs": 3, "data": "x", "unknown": 1}), encoding="utf-8")
    found = load(file)
    assert found.settings == Settings(seed=3)
    assert [str(problem) for problem in found.problems] == [
        "Most of a.json is unknown here: is it of another program? What could be used was read."
    ]
    file.write_text(json.dumps({"seed": 3, "max_epochs": 3}), encoding="utf-8")
    assert load(file).problems == []


# Other tabs: files as the Kohya GUI saves them, with what its LoRA tab has too.

COMMON = {"pretrained_model_name_or_path": "m.safetensors", "epoch": 3, "optimizer": "AdamW", "learning_rate": 1e-5}
DREAMBOOTH = {
    "learning_rate_te": 1e-5, "learning_rate_te1": 1e-5, "learning_rate_te2": 0.0, "no_token_padding": False,
    "disable_mmap_load_safetensors": False, "fused_backward_pass": False, "fused_optimizer_groups": 0, "flux1_clip_l": "",
    "flux1_t5xxl": "", "blockwise_fused_optimizers": False, "flux_fused_backward_pass": False,
}  # fmt: skip
FINETUNING = {
    "sdxl_checkbox": True, "train_dir": "out", "image_folder": "in", "batch_size": "4", "caption_metadata_filename": "meta_cap.json",
    "latent_metadata_filename": "meta_lat.json", "full_path": True, "dataset_repeats": "40", "train_text_encoder": True,
    "create_caption": True, "create_buckets": True, "block_lr": "", "use_latent_files": "Yes",
}  # fmt: skip
TEXTUAL = {
    "token_string": "sks",
    "init_word": "cat",
    "num_vectors_per_token": 8,
    "weights": "w.pt",
    "template": "style",
}


@pytest.mark.parametrize(
    ("own", "tab"),
    [
        (DREAMBOOTH, "Dreambooth"),
        ({**DREAMBOOTH, **FINETUNING}, "Finetuning"),
        ({**DREAMBOOTH, **TEXTUAL}, "Textual Inversion"),
    ],
    ids=["dreambooth", "finetuning", "textual inversion"],
)
def test_a_file_of_another_tab_is_named_and_what_both_have_is_read(own: dict[str, Any], tab: str) -> None:
    found = read({**COMMON, **own})
    assert [str(problem) for problem in found.problems] == [
        f"This is a file of the {tab} tab; LoRA settings are needed. What both have in common was read."
    ]
    assert found.values == COMMON
    assert {item.key for item in found.ignored} == set(own)
    assert not any("no such setting" in item.why for item in found.ignored)


@pytest.mark.parametrize("key", sorted({*DREAMBOOTH, *FINETUNING, *TEXTUAL}))
def test_a_key_of_another_tab_in_a_lora_file_is_ignored_with_a_reason(key: str) -> None:
    found = read({"LoRA_type": "Standard", key: "x"})
    assert found.problems == []
    assert [item.key for item in found.ignored] == [key]
    assert "no such setting" not in found.ignored[0].why


@pytest.mark.parametrize("key", TELLING)
def test_each_telling_key_tells(key: str) -> None:
    (problem,) = read({key: "x", "epoch": 1}).problems
    assert OF_TABS[key] in problem.message


def test_no_setting_of_ours_is_taken_for_another_tab_s() -> None:
    assert not {*OF_TABS, *FAMILIES} & set(KNOWN)


# Other model families.


@pytest.mark.parametrize("key", FAMILIES)
@pytest.mark.parametrize("tick", [True, "true", 1, "True"])
def test_a_file_for_another_model_family_is_named(key: str, tick: Any) -> None:
    found = read({key: tick, "LoRA_type": "Standard", "epoch": 2})
    (problem,) = found.problems
    assert problem.key == "pretrained_model_name_or_path"
    assert f"this file is for {FAMILIES[key]}; only Stable Diffusion 1.5, 2 and XL" in problem.message
    assert [item.why.split(",")[0] for item in found.ignored] == ["it is for Flux.1"]
    assert read({key: False, "LoRA_type": "Standard"}).problems == []


@pytest.mark.parametrize("kind", TYPES)
def test_a_lora_type_of_another_family_is_named(kind: str) -> None:
    key = "network_module" if kind.startswith("networks.") else "LoRA_type"
    found = read({key: kind, "network_args": ["train_blocks=all"], "network_dim": 4})
    (problem,) = found.problems
    assert str(problem).startswith(f"LoRA type: {kind} is for {TYPES[kind]}; only Stable Diffusion 1.5, 2 and XL")
    assert found.settings.LoRA_type == "Standard"


@pytest.mark.parametrize(
    "key",
    [
        "flux1_checkbox",
        "flux1_t5xxl",
        "sd3_text_encoder_batch_size",
        "hunyuan_image_x",
        "anima_x",
        "lumina_x",
        "t5xxl",
        "ae",
    ],
)
def test_keys_of_other_families_have_a_reason(key: str) -> None:
    found = read({"LoRA_type": "Standard", key: "x"})
    assert [item.why for item in found.ignored] == [
        "it is for Flux.1, Stable Diffusion 3 and their like, which are not trained here"
    ]
    assert found.problems == []


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"LoRA_type": "Standart"}, "did you mean Standard?"),
        ({"learning_rate": "1e-4, 1e-5"}, "Learning rate: holds several rates"),
    ],
)
def test_values_that_nothing_here_means(raw: dict[str, Any], words: str) -> None:
    assert any(words in str(item) for item in read(raw).problems)
