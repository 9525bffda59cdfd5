"""Stable Diffusion 1.5, 2, XL and inpainting models of a few hundred thousand weights, built in a moment: real module
names, random weights."""

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.models import Model
from trainer.models.configs import TOKENIZER

HIDDEN = 16
"""Width of the text encoder's states; the U-Net's cross-attention reads them."""

UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16, 24, 24),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": HIDDEN,
    "norm_num_groups": 4,
}
VAE = {
    "sample_size": 64,
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.18215,
}
TEXT_ENCODER = {
    "vocab_size": 49408,
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "projection_dim": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
}


SECOND = 24
"""Width of SDXL's second text encoder, which differs from the first one's."""

POOLED = 20
"""Width of the pooled text that SDXL's second encoder gives."""

UNETS: dict[str, dict[str, Any]] = {
    "sd15": UNET,
    "sd2": {**UNET, "attention_head_dim": (2, 4, 4, 4), "use_linear_projection": True},
    "sdxl": {
        **UNET,
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (2, 2, 4),
        "cross_attention_dim": HIDDEN + SECOND,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": POOLED + 6 * 8,
    },
}
OPEN_CLIP = {**TEXT_ENCODER, "hidden_act": "gelu", "pad_token_id": 0}
TEXT_ENCODERS: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {"text_encoder": TEXT_ENCODER},
    "sd2": {"text_encoder": OPEN_CLIP},
    "sdxl": {
        "text_encoder": TEXT_ENCODER,
        "text_encoder_2": {
            **OPEN_CLIP, "hidden_size": SECOND, "intermediate_size": 2 * SECOND, "num_hidden_layers": 4,
            "projection_dim": POOLED, "pad_token_id": 1,
        },
    },
}  # fmt: skip
SCALES = {"sd15": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


def unet_config(family: str = "sd15", inpainting: bool = False) -> dict[str, Any]:
    """The U-Net's configuration; an inpainting model sees nine channels."""
    return {**UNETS[family], **({"in_channels": 9} if inpainting else {})}


def tiny_components(seed: int = 0, family: str = "sd15", inpainting: bool = False) -> dict[str, Any]:
    """U-Net, VAE and text encoders with the same random float32 weights for the same seed, in eval mode."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**unet_config(family, inpainting))
        vae = AutoencoderKL(**{**VAE, "scaling_factor": SCALES[family]})
        kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
        encoders = {name: kinds[name](CLIPTextConfig(**config)) for name, config in TEXT_ENCODERS[family].items()}
        # Small random weights leave every picture alike; these make captions and positions matter.
        with torch.no_grad():
            for encoder in encoders.values():
                for weight in encoder.parameters():
                    if weight.ndim == 2:
                        weight.normal_(std=0.2)
    parts = {"unet": unet, "vae": vae, **encoders}
    return {name: part.eval() for name, part in parts.items()}


def tiny_model(seed: int = 0, family: str = "sd15", prediction: str = "epsilon", inpainting: bool = False) -> Model:
    """The model as `load_model` would give it, on the processor in float32, without touching the disk."""
    parts = tiny_components(seed, family, inpainting)
    for part in parts.values():
        part.requires_grad_(False)
    return Model(
        family=family,
        unet=parts["unet"],
        vae=parts["vae"],
        text_encoders=[parts[name] for name in TEXT_ENCODERS[family]],
        tokenizers=[_tokenizer()],
        scheduler_config={**SCHEDULER, "prediction_type": prediction},
        prediction_type=prediction,
        source=Path(__file__),
        name="tiny",
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


@cache
def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(TOKENIZER), local_files_only=True)


class Listener:
    """Stands for a `Reporter`: remembers what it is told and asks for nothing."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[tuple[str, int, int]] = []

    def note(self, text: str, level: str = "info", key: str = "") -> None:
        self.notes.append(text)

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        self.phases.append((name, done, total))


def listener() -> Any:
    """A `Listener`, of a type that goes wherever a `Reporter` goes."""
    return Listener()


def tiny_configs(folder: Path, family: str = "sd15", prediction: str = "epsilon", inpainting: bool = False) -> Path:
    """The model without weights and tokenizer: model_index.json and one small JSON a component."""
    vae = {**VAE, "scaling_factor": SCALES[family]}
    files = {"unet": unet_config(family, inpainting), "vae": vae, **TEXT_ENCODERS[family]}
    names = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    for name, config in files.items():
        kind = {"_class_name": names[name]} if name in names else {"model_type": "clip_text_model"}
        _write(folder / name / "config.json", {**kind, **config})
    _write(folder / "scheduler" / "scheduler_config.json", {**SCHEDULER, "prediction_type": prediction})
    _write(folder / "model_index.json", _index(family, inpainting))
    return folder


def _index(family: str, inpainting: bool) -> dict[str, Any]:
    kind = f"StableDiffusion{'XL' if family == 'sdxl' else ''}{'Inpaint' if inpainting else ''}Pipeline"
    if family != "sdxl":
        return {**MODEL_INDEX, "_class_name": kind, "_diffusers_version": "0.30.0"}
    plain = {key: value for key, value in MODEL_INDEX.items() if "safety" not in key}
    second = {
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": MODEL_INDEX["tokenizer"],
    }
    return {**plain, **second, "_class_name": kind, "force_zeros_for_empty_prompt": False}


def tiny_folder(
    folder: Path, family: str = "sd15", prediction: str = "epsilon", inpainting: bool = False, seed: int = 0,
    tokenizer: bool = True,
) -> Path:  # fmt: skip
    """Write a model of any family as a diffusers folder and return it."""
    tiny_configs(folder, family, prediction, inpainting)
    for name, component in tiny_components(seed, family, inpainting).items():
        component.save_pretrained(folder / name)
    if tokenizer and family != "sd2":
        shutil.copytree(TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)
    if tokenizer and family != "sd15":
        _open_clip_tokenizer(folder / ("tokenizer" if family == "sd2" else "tokenizer_2"))
    return folder


def _open_clip_tokenizer(folder: Path) -> None:
    """The tokenizers of Stable Diffusion 2 and of SDXL's second encoder pad with "!", whose id is 0."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER), local_files_only=True, pad_token="!")
    tokenizer.save_pretrained(str(folder))


def tiny_sd15(folder: Path, seed: int = 0, tokenizer: bool = True) -> Path:
    """Write Stable Diffusion 1.5 as a diffusers folder and return it."""
    return tiny_folder(folder, seed=seed, tokenizer=tokenizer)


def tiny_sd2(folder: Path, seed: int = 0, prediction: str = "v_prediction") -> Path:
    """Write Stable Diffusion 2 as a diffusers folder and return it."""
    return tiny_folder(folder, "sd2", prediction, seed=seed)


def tiny_sdxl(folder: Path, seed: int = 0, prediction: str = "epsilon") -> Path:
    """Write Stable Diffusion XL as a diffusers folder and return it."""
    return tiny_folder(folder, "sdxl", prediction, seed=seed)


def tiny_inpainting(folder: Path, seed: int = 0, family: str = "sd15") -> Path:
    """Write an inpainting model as a diffusers folder and return it."""
    return tiny_folder(folder, family, inpainting=True, seed=seed)


def tiny_single_file(
    path: Path, seed: int = 0, dtype: torch.dtype = torch.float32, family: str = "sd15", inpainting: bool = False,
    more: dict[str, Tensor] | None = None,
) -> Path:  # fmt: skip
    """Write the same model as one file with the key names of original checkpoints; .ckpt or .safetensors.

    `path` may be a folder: the file is then `tiny.safetensors` in it. Load it with the configs of `tiny_configs`.
    """
    from safetensors.torch import save_file

    path = path / "tiny.safetensors" if path.suffix not in {".ckpt", ".safetensors"} else path
    path.parent.mkdir(parents=True, exist_ok=True)
    found = original_state_dict(tiny_components(seed, family, inpainting), family)
    tensors = {key: value.to(dtype).contiguous() for key, value in found.items()} | (more or {})
    first = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
    if family in first:
        tensors[f"{first[family]}text_model.embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 1}, path)
    else:
        save_file({key: value.clone() for key, value in tensors.items()}, path)
    return path


def original_state_dict(components: dict[str, Any], family: str = "sd15") -> dict[str, Tensor]:
    """Tensors of unet, vae and text encoders under the names of the original checkpoints."""
    tensors: dict[str, Tensor] = {}
    kinds = components["unet"].config.up_block_types
    for key, value in components["unet"].state_dict().items():
        tensors["model.diffusion_model." + _unet_key(key, ["Attn" in kind for kind in kinds])] = value
    for key, value in components["vae"].state_dict().items():
        name = _vae_key(key)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", name)
        tensors["first_stage_model." + name] = value[..., None, None] if is_projection else value
    texts = {name: component.state_dict() for name, component in components.items() if name.startswith("text")}
    if family == "sd2":
        states = {key.removeprefix("text_model."): value for key, value in texts["text_encoder"].items()}
        # Files of Stable Diffusion 2 hold one layer more than is used.
        count = 1 + max(int(key.split(".")[2]) for key in states if key.startswith("encoder.layers."))
        unused = {
            key.replace(f".{count - 1}.", f".{count}."): value + 1
            for key, value in states.items()
            if f"layers.{count - 1}." in key
        }
        tensors |= _open_clip("cond_stage_model.model.", states | unused)
        return tensors
    prefix = "conditioner.embedders.0.transformer." if family == "sdxl" else "cond_stage_model.transformer."
    for key, value in texts["text_encoder"].items():
        tensors[f"{prefix}text_model.{key.removeprefix('text_model.')}"] = value
    if family == "sdxl":
        tensors |= _open_clip("conditioner.embedders.1.model.", texts["text_encoder_2"])
        tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    return tensors


OPEN_CLIP_NAMES = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.": "ln_final.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.": "attn.",
    "encoder.layers.": "transformer.resblocks.",
}


def _open_clip(prefix: str, states: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder under OpenCLIP's names: query, key and value in one, the projection turned round."""
    tensors: dict[str, Tensor] = {}
    for key, value in states.items():
        name = key.removeprefix("text_model.")
        if name == "text_projection.weight":
            tensors[prefix + "text_projection"] = value.T
            continue
        if ".k_proj." in name or ".v_proj." in name:
            continue
        packed = ".q_proj." in name
        if packed:
            value = torch.cat([states[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
        for ours, original in OPEN_CLIP_NAMES.items():
            name = name.replace(ours, original)
        tensors[prefix + re.sub(r"\.q_proj\.", ".in_proj_", name)] = value
    return tensors


RESNET = {
    "norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.", "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection.",
}  # fmt: skip
ENDS = {
    "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.", "add_embedding.linear_2.": "label_emb.0.2.",
}  # fmt: skip


def _unet_key(key: str, with_attention: list[bool]) -> str:
    for ours, original in ENDS.items():
        if key.startswith(ours):
            return original + key.removeprefix(ours)
    place, part, index, rest = re.fullmatch(
        r"(down_blocks\.\d|mid_block|up_blocks\.\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", key
    ).groups()  # type: ignore[union-attr]
    side, block, layer = place[:2], int(place[-1]) if place[-1].isdigit() else 0, int(index)
    if part == "downsamplers":
        return f"input_blocks.{3 * block + 3}.0.op.{rest.removeprefix('conv.')}"
    if part == "upsamplers":
        return f"output_blocks.{3 * block + 2}.{2 if with_attention[block] else 1}.{rest}"
    if part == "resnets":
        for ours, original in RESNET.items():
            rest = original + rest.removeprefix(ours) if rest.startswith(ours) else rest
    kind = 0 if part == "resnets" else 1
    if side == "mi":
        return f"middle_block.{1 if kind else 2 * layer}.{rest}"
    if side == "do":
        return f"input_blocks.{3 * block + layer + 1}.{kind}.{rest}"
    return f"output_blocks.{3 * block + layer}.{kind}.{rest}"


def _vae_key(key: str) -> str:
    key = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{3 - int(found[1])}", key)
    key = re.sub(r"down_blocks\.(\d)", r"down.\1", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
    key = re.sub(r"(?<=\d)\.resnets\.", ".block.", key)
    for ours, original in {
        "mid_block.attentions.0.": "mid.attn_1.", "downsamplers.0.": "downsample.", "upsamplers.0.": "upsample.",
        "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", "group_norm": "norm",
        "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    }.items():  # fmt: skip
        key = key.replace(ours, original)
    return key


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")
