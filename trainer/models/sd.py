"""Loading Stable Diffusion 1.5, 2 and XL: a diffusers folder, or a single file with the embedded configs."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.models import Model, clip
from trainer.models.configs import CONFIGS, TOKENIZER
from trainer.models.families import FAMILY_NAMES, INPAINTING, TEXT_ENCODERS, parts_of
from trainer.models.identify import KEY, Identity, identify, weights_file
from trainer.models.tensors import read_tensors
from trainer.report import Failure

if TYPE_CHECKING:
    import torch

    from trainer.report import Reporter
    from trainer.settings import Settings


def load(
    identity: Identity, settings: "Settings", report: "Reporter", device: "torch.device", dtype: "torch.dtype"
) -> Model:
    """The model with U-Net and text encoders in `dtype` on `device`; the VAE too, but in float32 on the processor and
    with "No half VAE". Raises `Failure` with a sentence when a part is missing, damaged or of another size."""
    import torch

    assert identity.path is not None
    assert identity.family is not None
    exact = torch.device(device).type == "cpu" or (identity.family == "sdxl" and settings.sdxl_no_half_vae)
    dtypes = dict.fromkeys(parts_of(identity.family), dtype) | {"vae": torch.float32 if exact else dtype}
    read = _from_folder if identity.kind == "diffusers" else _from_file
    try:
        parts, configs = read(identity, dtypes, report)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise Failure(
            f"{identity.path.name} could not be loaded as {FAMILY_NAMES[identity.family]}: {_first_line(error)}",
            "Download it again, or choose another model.",
            key=KEY,
        ) from error
    vae_source = None
    if settings.vae:
        from trainer.models.vae import load_vae

        parts["vae"], vae_source = load_vae(settings.vae, identity.family, dtypes["vae"])
    for name, part in parts.items():
        waits = name == "unet" and settings.lowvram  # and comes layer by layer
        part.requires_grad_(False).eval().to("cpu" if waits else device)
    scheduler = _scheduler(configs, identity.family)
    prediction = identity.prediction or ("v_prediction" if settings.v_parameterization else "epsilon")
    return Model(
        family=identity.family,
        unet=parts["unet"],
        vae=parts["vae"],
        text_encoders=[parts[name] for name, *_ in TEXT_ENCODERS[identity.family]],
        tokenizers=[_tokenizer(configs, identity.family)],
        scheduler_config={**scheduler, "prediction_type": prediction},
        prediction_type=prediction,
        source=identity.path,
        name=identity.name,
        device=torch.device(device),
        dtype=dtype,
        vae_source=vae_source,
    )


def load_text_encoders(model: Model, report: "Reporter") -> list[Any]:
    """The text encoders of a model that was loaded before, once more from its files, on the processor, frozen."""
    identity = identify(str(model.source))
    assert identity.family is not None
    names = [name for name, *_ in TEXT_ENCODERS[identity.family]]
    read = _from_folder if identity.kind == "diffusers" else _from_file
    parts, _ = read(identity, dict.fromkeys(names, model.dtype), report)
    return [parts[name].requires_grad_(False).eval() for name in names]


Parts = tuple[dict[str, Any], Path]


def _class(part: str) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    return {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }[part]


def _from_folder(identity: Identity, dtypes: Mapping[str, Any], report: "Reporter") -> Parts:
    assert identity.path is not None
    parts, path = {}, identity.path
    for done, name in enumerate(dtypes):
        report.phase("loading model", done, len(dtypes))
        file = weights_file(path / name)
        variant = None if file is not None else "fp16"
        chosen = file or weights_file(path / name, "fp16")
        with quiet():
            parts[name] = _class(name).from_pretrained(
                str(path), subfolder=name, dtype=dtypes[name], local_files_only=True, variant=variant,
                use_safetensors=chosen is not None and chosen.suffix == ".safetensors",
            )  # fmt: skip
        complete(parts[name], name)
    return parts, path


def _from_file(identity: Identity, dtypes: Mapping[str, Any], report: "Reporter") -> Parts:
    """Read the file once, memory-mapped, and give each part that `dtypes` names its tensors."""
    assert identity.path is not None
    assert identity.family is not None
    configs = CONFIGS[identity.family]
    tensors = read_tensors(identity.path, identity.format)
    parts: dict[str, Any] = {}
    for name in ("unet", "vae"):
        if name not in dtypes:
            continue
        report.phase("loading model", len(parts), len(dtypes))
        changes = _changes(identity) if name == "unet" else {}
        parts[name] = from_original(name, tensors, configs, dtypes[name], **changes)
    for name, prefix, layout in TEXT_ENCODERS[identity.family]:
        report.phase("loading model", len(parts), len(dtypes))
        config = _class(name).config_class.from_pretrained(str(configs), subfolder=name, local_files_only=True)
        states = clip.LAYOUTS[layout](tensors, prefix, config.num_hidden_layers)
        parts[name] = _text_encoder(name, config, states, dtypes[name])
    return parts, configs


def _changes(identity: Identity) -> dict[str, Any]:
    """How the U-Net of a file differs from its family's config."""
    return {"in_channels": INPAINTING} if identity.inpainting else {}


def from_original(name: str, tensors: Mapping[str, Any], configs: Path, dtype: "torch.dtype", **changes: Any) -> Any:
    """U-Net or VAE ("unet", "vae") from tensors under the names of original checkpoints. Raises `ValueError`."""
    try:
        with quiet():
            part = _class(name).from_single_file(
                dict(tensors), config=str(configs), subfolder=name, dtype=dtype, local_files_only=True, **changes
            )
    except NotImplementedError as error:  # a weight that stayed empty cannot be moved
        raise ValueError(f"its {name} lacks a weight") from error
    except KeyError as error:
        raise ValueError(f"its {name} lacks {error.args[0]}") from error
    complete(part, name)
    return part


def _text_encoder(name: str, config: Any, states: Mapping[str, Any], dtype: "torch.dtype") -> Any:
    with quiet():
        encoder, found = _class(name).from_pretrained(
            None, config=config, state_dict=dict(states), dtype=dtype, output_loading_info=True
        )
    wrong = list(found["missing_keys"]) + list(found["mismatched_keys"])
    if wrong:
        raise ValueError(f"its {name} lacks {wrong[0]}")
    return encoder


def complete(part: Any, name: str) -> None:
    """Raise `ValueError` when a weight of a loaded part was not in its file."""
    missing = next((key for key, weight in part.named_parameters() if weight.is_meta), None)
    if missing is not None:
        raise ValueError(f"its {name} lacks {missing}")


def _scheduler(configs: Path, family: str) -> dict[str, Any]:
    import json

    file = configs / "scheduler" / "scheduler_config.json"
    file = file if file.is_file() else CONFIGS[family] / "scheduler" / "scheduler_config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config


def _tokenizer(configs: Path, family: str) -> Any:
    """The model's own tokenizer where it has one.

    That of Stable Diffusion 2 pads with "!" and then takes every "!" of a caption for padding, so the common one, which
    knows the same words, stands in for it unless the model has words of its own.
    """
    from transformers import CLIPTokenizer

    own = configs / "tokenizer"
    common = CLIPTokenizer.from_pretrained(str(TOKENIZER), local_files_only=True)
    if not own.is_dir() or not any(own.glob("*.json")):
        return common
    tokenizer = CLIPTokenizer.from_pretrained(str(own), local_files_only=True)
    return common if family == "sd2" and len(tokenizer) == len(common) else tokenizer


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    other_size = re.search(r"(\S+) expected shape", lines[0])
    if other_size:
        return f"its weights are of another size than a model of this family has ({other_size[1]})."
    return lines[0][:300].rstrip(".") + "."


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the libraries' own progress bars and load reports out of the log."""
    import diffusers.utils.logging
    import transformers.utils.logging

    talkers = (diffusers.utils.logging, transformers.utils.logging)
    levels = [talker.get_verbosity() for talker in talkers]
    for talker in talkers:
        talker.disable_progress_bar()
        talker.set_verbosity_error()
    try:
        yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.enable_progress_bar()
            talker.set_verbosity(level)
