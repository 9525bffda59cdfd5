"""Programs and formulas that read a saved file: each puts it on a plain model and hands the model back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.adapters.formulas import changed
from trainer.adapters.walk import text_namer, unet_namer
from trainer.models import Model


class Refused(Exception):
    """The program does not read such a file."""


def layers_by_name(model: Model) -> dict[str, nn.Module]:
    """Every module of the model under the name that files have for it."""
    named = {unet_namer(model)(path): module for path, module in model.unet.named_modules() if path}
    for number, encoder in enumerate(model.text_encoders):
        named |= {text_namer(model, number)(path): module for path, module in encoder.named_modules() if path}
    return named


# The plain formula


@torch.no_grad()
def by_formula(file: Path, model: Model) -> Model:
    """Each layer's weights replaced by what the formula of its type makes of them."""
    state, layers = load_file(file), layers_by_name(model)
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, ending = key.split(".", 1)
        groups.setdefault(name, {})[ending] = value
    for name, tensors in groups.items():
        layer: Any = layers[name]
        weight, bias = changed(layer.weight, layer.bias, tensors)
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return model


# LyCORIS


@contextlib.contextmanager
def _as_new(network: Any) -> Iterator[None]:
    """Without the library's own walk, whose settings belong to the class and which stumbles over its own default."""
    names = [name for name in vars(network) if name.isupper() and "TARGET" in name]
    before = {name: getattr(network, name) for name in names}
    for name in names:
        setattr(network, name, [])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(network, name, value)


def by_lycoris(file: Path, model: Model) -> Model:
    """lycoris-lora's own loader, which finds layers by their path; raises `Refused` when it takes none or not all."""
    from lycoris.kohya import LycorisNetworkKohya, create_network_from_weights
    from lycoris.logging import logger

    logger.setLevel("ERROR")
    # It looks for a layer's name in the module it is given: one level with the names of the files will do.
    tree: dict[str, nn.Module] = {}
    for name, layer in layers_by_name(model).items():
        part, _, rest = name.removeprefix("lora_").partition("_")
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm):
            tree.setdefault(part, nn.Module()).add_module(rest, layer)
    texts = [tree[part] for part in sorted(tree) if part != "unet"]
    with _as_new(LycorisNetworkKohya):
        try:
            text: Any = texts if len(texts) > 1 else texts[0]
            network, state = create_network_from_weights(1.0, str(file), model.vae, text, tree["unet"])
            network.apply_to(text, tree["unet"], True, True)
        except (TypeError, RuntimeError, ValueError, AttributeError, AssertionError) as error:
            raise Refused(str(error)) from error
    if len(network.loras) != len({key.split(".", 1)[0] for key in state}):
        raise Refused("it leaves layers out")
    network.eval()
    model.unet.lycoris = network  # or it is forgotten
    return model


# diffusers


def by_diffusers(file: Path, model: Model) -> Model:
    """diffusers' own loader; raises `Refused` when it does not take the file."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    parts = {
        "vae": model.vae, "text_encoder": model.text_encoders[0], "tokenizer": model.tokenizers[0], "unet": model.unet,
        "scheduler": PNDMScheduler.from_config(model.scheduler_config),
    }  # fmt: skip
    if model.family == "sdxl":
        more = {"text_encoder_2": model.text_encoders[1], "tokenizer_2": model.tokenizers[0]}
        pipeline: Any = StableDiffusionXLPipeline(**parts, **more)
    else:
        pipeline = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)  # fmt: skip
    try:
        pipeline.load_lora_weights(file.parent, weight_name=file.name)
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise Refused(str(error)) from error
    return model


READERS = {"LyCORIS": by_lycoris, "diffusers": by_diffusers, "formula": by_formula}
