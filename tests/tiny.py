"""A Stable Diffusion 1.5 of a few hundred thousand weights, built in a moment: real module names, random weights."""

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


def tiny_components(seed: int = 0) -> dict[str, Any]:
    """U-Net, VAE and text encoder with the same random float32 weights for the same seed, in eval mode."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**UNET)
        vae = AutoencoderKL(**VAE)
        text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))
        # Small random weights leave every picture alike; these make captions and positions matter.
        with torch.no_grad():
            for weight in text_encoder.parameters():
                if weight.ndim == 2:
                    weight.normal_(std=0.2)
    return {"unet": unet.eval(), "vae": vae.eval(), "text_encoder": text_encoder.eval()}


def tiny_model(seed: int = 0) -> Model:
    """The model as `load_model` would give it, on the processor in float32, without touching the disk."""
    parts = tiny_components(seed)
    for part in parts.values():
        part.requires_grad_(False)
    return Model(
        family="sd15",
        unet=parts["unet"],
        vae=parts["vae"],
        text_encoders=[parts["text_encoder"]],
        tokenizers=[_tokenizer()],
        scheduler_config=SCHEDULER,
        prediction_type="epsilon",
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


def tiny_configs(folder: Path) -> Path:
    """The model without weights and tokenizer: model_index.json and one small JSON a component."""
    files = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER}
    names = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    for name, config in files.items():
        kind = {"_class_name": names[name]} if name in names else {"model_type": "clip_text_model"}
        _write(folder / name / "config.json", {**kind, **config})
    _write(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write(folder / "model_index.json", MODEL_INDEX)
    return folder


def tiny_sd15(folder: Path, seed: int = 0, tokenizer: bool = True) -> Path:
    """Write the model as a diffusers folder and return it."""
    tiny_configs(folder)
    for name, component in tiny_components(seed).items():
        component.save_pretrained(folder / name)
    if tokenizer:
        shutil.copytree(TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)
    return folder


def tiny_single_file(path: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write the same model as one file with the key names of original SD1.5 checkpoints; .ckpt or .safetensors.

    `path` may be a folder: the file is then `tiny.safetensors` in it. Load it with the configs of `tiny_configs`.
    """
    from safetensors.torch import save_file

    path = path / "tiny.safetensors" if path.suffix not in {".ckpt", ".safetensors"} else path
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.to(dtype).contiguous() for key, value in original_state_dict(tiny_components(seed)).items()}
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 1}, path)
    else:
        save_file(tensors, path)
    return path


def original_state_dict(components: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of unet, vae and text_encoder under the names of the original (CompVis) checkpoints."""
    tensors: dict[str, Tensor] = {}
    for key, value in components["unet"].state_dict().items():
        tensors["model.diffusion_model." + _unet_key(key)] = value
    for key, value in components["vae"].state_dict().items():
        name = _vae_key(key)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", name)
        tensors["first_stage_model." + name] = value[..., None, None] if is_projection else value
    for key, value in components["text_encoder"].state_dict().items():
        tensors["cond_stage_model.transformer.text_model." + key.removeprefix("text_model.")] = value
    return tensors


RESNET = {
    "norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.", "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection.",
}  # fmt: skip
ENDS = {
    "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
}  # fmt: skip


def _unet_key(key: str) -> str:
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
        return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}.{rest}"
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
