"""Loading Stable Diffusion 1.5: a diffusers folder, or a single file with the embedded configs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.models import Model
from trainer.models.configs import SD15, TOKENIZER
from trainer.models.identify import KEY, Identity, weights_file
from trainer.models.tensors import read_tensors
from trainer.report import Failure

if TYPE_CHECKING:
    import torch

    from trainer.report import Reporter

PARTS = ("unet", "text_encoder", "vae")
TEXT_PREFIX = "cond_stage_model.transformer."


def load(identity: Identity, report: "Reporter", device: "torch.device", dtype: "torch.dtype") -> Model:
    """The model with U-Net and text encoder in `dtype` on `device`; the VAE too, but in float32 on the processor."""
    import torch

    assert identity.path is not None
    vae_dtype = torch.float32 if torch.device(device).type == "cpu" else dtype
    dtypes = {"unet": dtype, "text_encoder": dtype, "vae": vae_dtype}
    read = _from_folder if identity.kind == "diffusers" else _from_file
    try:
        parts, configs = read(identity, dtypes, report)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise Failure(
            f"{identity.path.name} could not be loaded as Stable Diffusion 1.5: {_first_line(error)}",
            "Download it again, or choose another model.",
            key=KEY,
        ) from error
    for part in parts.values():
        part.requires_grad_(False).eval().to(device)
    scheduler = _scheduler(configs)
    return Model(
        family="sd15",
        unet=parts["unet"],
        vae=parts["vae"],
        text_encoders=[parts["text_encoder"]],
        tokenizers=[_tokenizer(configs)],
        scheduler_config=scheduler,
        prediction_type=identity.prediction or str(scheduler.get("prediction_type", "epsilon")),
        source=identity.path,
        name=identity.name,
        device=torch.device(device),
        dtype=dtype,
    )


Parts = tuple[dict[str, Any], Path]


def _classes() -> dict[str, Any]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    return {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "vae": AutoencoderKL}


def _from_folder(identity: Identity, dtypes: Mapping[str, Any], report: "Reporter") -> Parts:
    assert identity.path is not None
    parts, path = {}, identity.path
    for done, (name, kind) in enumerate(_classes().items()):
        report.phase("loading model", done, len(PARTS))
        file = weights_file(path / name)
        variant = None if file is not None else "fp16"
        chosen = file or weights_file(path / name, "fp16")
        with _quiet():
            parts[name] = kind.from_pretrained(
                str(path), subfolder=name, dtype=dtypes[name], local_files_only=True, variant=variant,
                use_safetensors=chosen is not None and chosen.suffix == ".safetensors",
            )  # fmt: skip
        _complete(parts[name], name)
    return parts, path


def _from_file(identity: Identity, dtypes: Mapping[str, Any], report: "Reporter") -> Parts:
    """Read the file once, memory-mapped, and give each part its tensors."""
    assert identity.path is not None
    classes = _classes()
    tensors = read_tensors(identity.path, identity.format)
    parts: dict[str, Any] = {}
    for done, name in enumerate(("unet", "vae")):
        report.phase("loading model", done, len(PARTS))
        try:
            with _quiet():
                parts[name] = classes[name].from_single_file(
                    tensors, config=str(SD15), subfolder=name, dtype=dtypes[name], local_files_only=True
                )
        except NotImplementedError as error:  # a weight that stayed empty cannot be moved
            raise ValueError(f"its {name} lacks a weight") from error
        _complete(parts[name], name)
    report.phase("loading model", 2, len(PARTS))
    parts["text_encoder"] = _text_encoder(classes["text_encoder"], tensors, dtypes["text_encoder"])
    return parts, SD15


def _text_encoder(kind: Any, tensors: Mapping[str, Any], dtype: "torch.dtype") -> Any:
    """The CLIP text encoder of a single file, whose keys may or may not contain `text_model.`."""
    config = kind.config_class.from_pretrained(str(SD15), subfolder="text_encoder", local_files_only=True)
    states = {
        key.removeprefix(TEXT_PREFIX).removeprefix("text_model."): tensor
        for key, tensor in tensors.items()
        if key.startswith(TEXT_PREFIX) and not key.endswith("position_ids")
    }
    with _quiet():
        encoder, found = kind.from_pretrained(
            None, config=config, state_dict=states, dtype=dtype, output_loading_info=True
        )
    wrong = list(found["missing_keys"]) + list(found["mismatched_keys"])
    if wrong:
        raise ValueError(f"its text_encoder lacks {wrong[0]}")
    return encoder


def _complete(part: Any, name: str) -> None:
    missing = next((key for key, weight in part.named_parameters() if weight.is_meta), None)
    if missing is not None:
        raise ValueError(f"its {name} lacks {missing}")


def _scheduler(configs: Path) -> dict[str, Any]:
    import json

    file = configs / "scheduler" / "scheduler_config.json"
    file = file if file.is_file() else SD15 / "scheduler" / "scheduler_config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config


def _tokenizer(configs: Path) -> Any:
    from transformers import CLIPTokenizer

    own = configs / "tokenizer"
    folder = own if own.is_dir() and any(own.glob("*.json")) else TOKENIZER
    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".") + "."


@contextmanager
def _quiet() -> Iterator[None]:
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
