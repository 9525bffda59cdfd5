"""Files of other programs, other tabs and other model families: recognised by their keys, and named."""

from collections.abc import Callable, Mapping
from typing import Any

from trainer.declare import Problem
from trainer.settings.loaded import Unreadable, is_on, label_of

Raw = dict[str, Any]
READABLE = "only settings of the Kohya GUI, of sd-scripts and of this program can be read"


# Other programs: nothing is loaded.

PROGRAMS: tuple[tuple[frozenset[str], str, str], ...] = (
    (frozenset({"training_method", "base_model_name"}), "a config of OneTrainer", ""),
    (frozenset({"training_method", "model_type"}), "a config of OneTrainer", ""),
    (frozenset({"job", "config"}), "a job of ai-toolkit", ""),
    (frozenset({"model_family", "data_backend_config"}), "a config of SimpleTuner", ""),
    (frozenset({"--model_family"}), "a config of SimpleTuner", ""),
    (frozenset({"general_args", "saving_args"}), "a config of LoRA Easy Training Scripts", ""),
    (frozenset({"data_root", "resume_ckpt"}), "a config of EveryDream", ""),
    (frozenset({"nodes", "links"}), "a workflow of ComfyUI", ""),
    (frozenset({"nodes", "edges"}), "a workflow of InvokeAI", ""),
    (frozenset({"prompt", "steps", "cfg_scale"}), "what a picture was made with in a web UI", "Its prompt goes into Sample prompts"),
    (frozenset({"activation text"}), "the card of a LoRA in AUTOMATIC1111's web UI", ""),
    (frozenset({"sd_model_checkpoint"}), "the configuration of AUTOMATIC1111's web UI", ""),
    (frozenset({"__metadata__"}), "the metadata of a finished LoRA", ""),
    (frozenset({"unet_target_module"}), "a LyCORIS preset", "Write its path into LyCORIS Preset"),
    (frozenset({"unet_target_name"}), "a LyCORIS preset", "Write its path into LyCORIS Preset"),
    (frozenset({"module_algo_map"}), "a LyCORIS preset", "Write its path into LyCORIS Preset"),
    (frozenset({"name_algo_map"}), "a LyCORIS preset", "Write its path into LyCORIS Preset"),
    (frozenset({"general_threshold", "character_threshold"}), "for a tagger (WD14)", "Tags are written under Utilities"),
    (frozenset({"compute_environment"}), "a config of accelerate", "Its numbers have fields under Accelerate launch"),
    (frozenset({"peft_type"}), "the config of an adapter of PEFT", ""),
    (frozenset({"_class_name"}), "a part of a diffusers model", "Its folder goes into Pretrained model name or path"),
    (frozenset({"tokenizer_class"}), "a part of a model", "Its folder goes into Pretrained model name or path"),
    (frozenset({"architectures", "model_type"}), "a part of a model", "Its folder goes into Pretrained model name or path"),
)  # fmt: skip
"""Keys that give a file away when all of them are there, what it is, and where it belongs."""

EVERY: tuple[tuple[Callable[[str, Any], bool], str], ...] = (
    (lambda key, value: isinstance(value, dict) and "class_type" in value, "a workflow of ComfyUI (as its API takes it)"),
    (lambda key, value: key.startswith(("ss_", "sshs_", "modelspec.")), "the metadata of a finished LoRA"),
    (lambda key, value: key.startswith(("txt2img/", "img2img/", "customscript/")), "the page's defaults of AUTOMATIC1111's web UI"),
    (lambda key, value: isinstance(value, dict) and bool({"tags", "caption"} & value.keys()), "a list of captions for fine-tuning"),
    (lambda key, value: isinstance(value, dict) and "unet_target_module" in value, "a set of LyCORIS presets"),
)  # fmt: skip
"""What holds of every key and value of a file, and what it then is."""


def refuse_other_programs(tables: Mapping[str, Any], known: frozenset[str], name: str) -> None:
    """Raises `Unreadable` for a file in which nothing is meant as a setting of a LoRA training."""
    program, goes = _program(tables)
    if program:
        goes = f" {goes}." if goes else ""
        raise Unreadable(f"{name} is {program}; {READABLE}.{goes} Nothing was loaded.")
    if "datasets" in tables:
        raise Unreadable(f"{name} describes a data set, but holds no list of them: write [[datasets]] above its parts.")
    names = set(_names(tables))
    if names and not known & names:
        some = ", ".join(sorted(names)[:3])
        raise Unreadable(f"{name} holds no settings of a LoRA training, but {some}; {READABLE}. Nothing was loaded.")


def _program(tables: Mapping[str, Any]) -> tuple[str, str]:
    for keys, program, goes in PROGRAMS:
        if keys <= tables.keys():
            return program, goes
    for holds, program in EVERY:
        if tables and all(holds(key, value) for key, value in tables.items()):
            return program, ""
    return "", ""


def _names(tables: Mapping[str, Any]) -> list[str]:
    """The keys at the top and those of sections."""
    return [*tables, *(name for table in tables.values() if isinstance(table, dict) for name in _names(table))]


# Other tabs of the Kohya GUI: what both have in common is read.

TELLING: Mapping[str, str] = {
    "token_string": "Textual Inversion", "init_word": "Textual Inversion", "num_vectors_per_token": "Textual Inversion",
    "image_folder": "Finetuning", "train_dir": "Finetuning", "caption_metadata_filename": "Finetuning",
    "latent_metadata_filename": "Finetuning", "use_latent_files": "Finetuning", "train_text_encoder": "Finetuning",
    "block_lr": "Finetuning", "learning_rate_te": "Dreambooth", "learning_rate_te1": "Dreambooth", "learning_rate_te2": "Dreambooth",
}  # fmt: skip
"""Settings of other tabs that tell a file of theirs; a file of the first has those of the last too."""

OF_TABS: Mapping[str, str] = {
    **TELLING, "weights": "Textual Inversion", "template": "Textual Inversion", "sdxl_checkbox": "Finetuning",
    "full_path": "Finetuning", "create_caption": "Finetuning", "create_buckets": "Finetuning", "batch_size": "Finetuning",
    "fused_optimizer_groups": "Dreambooth", "blockwise_fused_optimizers": "Dreambooth",
}  # fmt: skip
"""All settings that only other tabs have, and the tab."""


def other_tab(raw: Raw) -> list[Problem]:
    """A file of another tab, or of the script of sd-scripts that it runs."""
    tab = next((tab for key, tab in TELLING.items() if key in raw), "")
    if not tab or "LoRA_type" in raw or "network_module" in raw:
        return []
    message = f"This is a file of the {tab} tab; LoRA settings are needed. What both have in common was read."
    return [Problem("", "", message)]


# Other model families.

FAMILIES: Mapping[str, str] = {
    "flux1_checkbox": "Flux.1", "sd3_checkbox": "Stable Diffusion 3", "hunyuan_image_checkbox": "HunyuanImage",
    "anima_checkbox": "Anima", "lumina_checkbox": "Lumina",
}  # fmt: skip
"""Ticks of the Kohya GUI for families that are not trained here."""

TYPES: Mapping[str, str] = {
    "Flux1": "Flux.1", "Flux1 OFT": "Flux.1", "HunyuanImage-2.1": "HunyuanImage", "Anima": "Anima", "Lumina": "Lumina",
    "networks.lora_flux": "Flux.1", "networks.oft_flux": "Flux.1", "networks.lora_sd3": "Stable Diffusion 3",
    "networks.lora_hunyuan_image": "HunyuanImage", "networks.lora_anima": "Anima", "networks.lora_lumina": "Lumina",
}  # fmt: skip
"""LoRA types and network modules for them."""

OF_FAMILIES = ("flux1_", "flux_", "sd3_", "hunyuan_image_", "anima_", "lumina_")
"""How the names of their settings begin."""

ONLY = "only Stable Diffusion 1.5, 2 and XL can be trained"


def other_family(raw: Raw) -> list[Problem]:
    """Families that are ticked, or whose LoRA type is chosen."""
    found = []
    ticked = [family for key, family in FAMILIES.items() if is_on(raw.get(key))]
    if ticked:
        model = "pretrained_model_name_or_path"
        message = f"this file is for {' and '.join(ticked)}; {ONLY}. Choose a model and a preset of one of these."
        found.append(Problem(model, label_of(model), message))
    for key in ("LoRA_type", "network_module"):
        kind = raw.get(key)
        if isinstance(kind, str) and kind in TYPES:
            raw.pop(key)
            message = f"{kind} is for {TYPES[kind]}; {ONLY}. Choose a type of the list, such as Standard."
            found.append(Problem("LoRA_type", label_of("LoRA_type"), message))
    return found


RECOGNISERS: tuple[Callable[[Raw], list[Problem]], ...] = (other_tab, other_family)
"""Each takes the raw keys of a file and says what it is, where it is for something else."""
