"""The layers an adapter goes on, and their names, on the tiny and on the full-sized model."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny import tiny_model
from trainer.adapters.walk import original_path, targets, unet_namer
from trainer.models.configs import CONFIGS, SD15


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


# Other families


def of_real_size(family: str) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder, kinds = str(CONFIGS[family]), (CLIPTextModel, CLIPTextModelWithProjection)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
        texts = [
            kind(CLIPTextConfig.from_pretrained(folder, subfolder=name))
            for name, kind in zip(("text_encoder", "text_encoder_2"), kinds, strict=True)
            if (CONFIGS[family] / name).is_dir()
        ]
    return SimpleNamespace(family=family, unet=unet, text_encoders=texts)


@pytest.fixture(scope="module")
def xl() -> Any:
    return of_real_size("sdxl")


def xl_names() -> tuple[set[str], set[str], set[str]]:
    """The names of Stable Diffusion XL, spelt out: the U-Net's, those that convolutions add, and the text encoders'."""
    depths = {f"input_blocks_{n}_1": 2 for n in (4, 5)} | {f"input_blocks_{n}_1": 10 for n in (7, 8)}
    depths |= {"middle_block_1": 10} | {f"output_blocks_{n}_1": 10 for n in (0, 1, 2)}
    depths |= {f"output_blocks_{n}_1": 2 for n in (3, 4, 5)}
    inner = [f"attn{k}_{part}" for k in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out_0")]
    inner += ["ff_net_0_proj", "ff_net_2"]
    unet = {f"lora_unet_{block}_{end}" for block in depths for end in ("proj_in", "proj_out")}
    unet |= {f"lora_unet_{block}_transformer_blocks_{i}_{part}"
             for block, depth in depths.items() for i in range(depth) for part in inner}  # fmt: skip
    resnets = [f"input_blocks_{n}_0" for n in (1, 2, 4, 5, 7, 8)] + ["middle_block_0", "middle_block_2"]
    resnets += [f"output_blocks_{n}_0" for n in range(9)]
    shortcuts = [f"input_blocks_{n}_0" for n in (4, 7)] + [f"output_blocks_{n}_0" for n in range(9)]
    convolutions = {
        f"lora_unet_{block}_{part}" for block in resnets for part in ("in_layers_2", "out_layers_3", "emb_layers_1")
    }
    convolutions |= {f"lora_unet_{block}_skip_connection" for block in shortcuts}
    convolutions |= {f"lora_unet_input_blocks_{n}_0_op" for n in (3, 6)} | {
        f"lora_unet_output_blocks_{n}_2_conv" for n in (2, 5)
    }
    parts = [f"self_attn_{name}_proj" for name in ("q", "k", "v", "out")] + ["mlp_fc1", "mlp_fc2"]
    text = {f"lora_te{n}_text_model_encoder_layers_{i}_{part}"
            for n, layers in ((1, 12), (2, 32)) for i in range(layers) for part in parts}  # fmt: skip
    return unet, convolutions, text


def test_xl_has_the_references_names(xl: Any) -> None:
    unet, convolutions, text = xl_names()
    assert (len(unet), len(text)) == (722, 264)
    assert {target.name for target in targets(xl, convolutions=False)} == unet | text
    found = targets(xl, convolutions=True)
    assert {target.name for target in found} == unet | text | convolutions
    assert len(found) == len({target.name for target in found})
    assert [target.encoder for target in found if target.part == "text"] == [0] * 72 + [1] * 192
    assert all(target.root.get_submodule(target.path) is target.layer for target in found)
    assert isinstance(next(t.layer for t in found if t.name.endswith("_proj_in")), torch.nn.Linear)


def test_every_module_of_xl_has_the_name_that_its_own_code_gives_it(xl: Any) -> None:
    """Judge: diffusers' converter of original checkpoints, asked which tensor becomes which."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    name = unet_namer(xl)
    wanted = {path: weight.shape for path, weight in xl.unet.state_dict().items()}
    originals = {f"model.diffusion_model.{original}": path for path, original in _originals(xl).items()}
    tensors = {key: torch.tensor(float(number)) for number, key in enumerate(originals)}
    found = convert_ldm_unet_checkpoint(dict(tensors), dict(xl.unet.config))
    assert found.keys() == wanted.keys()
    numbers = {key: number for number, key in enumerate(originals)}
    for key, path in originals.items():
        assert int(found[path].item()) == numbers[key], path
    assert name("time_embedding.linear_1") == "lora_unet_time_embed_0"


def _originals(model: Any) -> dict[str, str]:
    attention = ["Attn" in kind for kind in model.unet.config.up_block_types]
    each = model.unet.config.layers_per_block + 1
    result = {}
    for key in model.unet.state_dict():
        path, _, ending = key.rpartition(".")
        result[key] = f"{original_path(path, each, attention)}.{ending}"
    return result


def test_stable_diffusion_2_has_the_names_of_1_and_23_layers_of_text(full: Any) -> None:
    second = of_real_size("sd2")
    unet, first = ({t.name for t in targets(model, True) if t.part == "unet"} for model in (second, full))
    assert unet == first
    assert len([t for t in targets(second, False) if t.part == "text"]) == 23 * 6
    assert isinstance(next(t.layer for t in targets(second, False) if t.name.endswith("_proj_in")), torch.nn.Linear)
