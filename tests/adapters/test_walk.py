"""The layers an adapter goes on, and their names, on the tiny and on the full-sized model."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny import tiny_model
from trainer.adapters.walk import targets
from trainer.models.configs import SD15


def full_size() -> Any:
    """Stable Diffusion 1.5 without its weights: shapes only."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(SD15), subfolder="unet"))
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(str(SD15), subfolder="text_encoder"))
    return SimpleNamespace(family="sd15", unet=unet, text_encoders=[text])


@pytest.fixture(scope="module")
def full() -> Any:
    return full_size()


def expected_names() -> tuple[set[str], set[str]]:
    """The names of Stable Diffusion 1.5, spelt out: those of every LoRA, and those that convolutions add."""
    blocks = [f"{side}_blocks_{i}_attentions_{j}" for side, numbers, count in (("down", (0, 1, 2), 2), ("up", (1, 2, 3), 3))
              for i in numbers for j in range(count)] + ["mid_block_attentions_0"]  # fmt: skip
    inner = [f"attn{k}_{part}" for k in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out_0")]
    inner += ["ff_net_0_proj", "ff_net_2"]
    unet = {f"lora_unet_{block}_{end}" for block in blocks for end in ("proj_in", "proj_out")}
    unet |= {f"lora_unet_{block}_transformer_blocks_0_{part}" for block in blocks for part in inner}
    parts = [f"self_attn_{name}_proj" for name in ("q", "k", "v", "out")] + ["mlp_fc1", "mlp_fc2"]
    text = {f"lora_te_text_model_encoder_layers_{i}_{part}" for i in range(12) for part in parts}

    resnets = [f"down_blocks_{i}_resnets_{j}" for i in range(4) for j in range(2)]
    resnets += [f"up_blocks_{i}_resnets_{j}" for i in range(4) for j in range(3)]
    resnets += [f"mid_block_resnets_{j}" for j in range(2)]
    shortcuts = [f"down_blocks_{i}_resnets_0" for i in (1, 2)]
    shortcuts += [f"up_blocks_{i}_resnets_{j}" for i in range(4) for j in range(3)]
    convolutions = {f"{resnet}_{part}" for resnet in resnets for part in ("conv1", "conv2", "time_emb_proj")}
    convolutions |= {f"{resnet}_conv_shortcut" for resnet in shortcuts}
    convolutions |= {f"down_blocks_{i}_downsamplers_0_conv" for i in range(3)}
    convolutions |= {f"up_blocks_{i}_upsamplers_0_conv" for i in range(3)}
    return unet | text, {f"lora_unet_{name}" for name in convolutions}


def test_the_full_model_has_kohyas_names(full: Any) -> None:
    plain, convolutions = expected_names()
    assert len(plain) == 264
    assert len(convolutions) == 86
    assert {target.name for target in targets(full, convolutions=False)} == plain
    assert {target.name for target in targets(full, convolutions=True)} == plain | convolutions


def test_each_layer_comes_once(full: Any) -> None:
    found = targets(full, convolutions=True)
    assert len(found) == len({target.name for target in found}) == len({(target.part, target.path) for target in found})
    assert all(target.root.get_submodule(target.path) is target.layer for target in found)


def test_only_larger_convolutions_are_spatial(full: Any) -> None:
    spatial = {target.name for target in targets(full, convolutions=True) if target.is_spatial}
    assert len(spatial) == 22 * 2 + 3 + 3
    assert all(re.search(r"_conv[12]$|samplers_0_conv$", name) for name in spatial)


def test_the_tiny_models_unet_has_the_same_names(full: Any) -> None:
    tiny = tiny_model()
    for convolutions in (False, True):
        names = [{t.name for t in targets(model, convolutions) if t.part == "unet"} for model in (tiny, full)]
        assert names[0] == names[1]
