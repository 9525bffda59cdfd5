"""What the finished file says about itself, and writing it so that it is whole or not there.

Keys and values of the metadata are those of Kohya's scripts (`ss_*`, `sshs_*`) and of the model specification
(`modelspec.*`), because web UIs show and search them. Every value is a text.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainer.adapters import ADAPTERS
from trainer.adapters.arguments import network_args
from trainer.data.dataset import caches_latents
from trainer.report import Failure

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.adapters.adapter import Adapter
    from trainer.data.dataset import Dataset, Subset
    from trainer.models import Model
    from trainer.plan import Plan
    from trainer.settings import Settings

PROGRAM = "lora-loom"
NONE = "None"
"""How the reference writes what is not set."""


class Progress(Protocol):
    """How far the training is: optimizer steps and epochs done, and when it started (seconds since 1970)."""

    @property
    def step(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def started(self) -> float: ...


# Metadata


FAMILIES = {
    "sd15": ("sd_v1", "stable-diffusion-v1/lora"),
    "sd15 v": ("sd_v1_v", "stable-diffusion-v1/lora"),
    "sd2": ("sd_v2", "stable-diffusion-v2-512/lora"),
    "sd2 v": ("sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    "sdxl v": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
}
"""Base model version and architecture of each family, as the ecosystem writes them; `v` predicts velocity."""

IMPLEMENTATIONS = {"sdxl": "https://github.com/Stability-AI/generative-models"}
"""In whose way the keys of a family are named, as the model specification puts it; else that of diffusers."""

NOT_CHOSEN: dict[str, Any] = {
    "caption_tag_dropout_rate": 0.0,
    "face_crop_aug_range": None, "fp8_base": False, "fp8_base_unet": False, "full_fp16": False, "lowram": False,
    "max_grad_norm": 1.0, "max_validation_steps": None,
    "num_validation_images": 0, "random_crop": False, "resize_interpolation": None,
    "validate_every_n_epochs": None, "validate_every_n_steps": None, "validation_seed": None, "validation_split": 0.0,
    "zero_terminal_snr": False,
}  # fmt: skip
"""What the reference writes for settings that this program may not have; a setting of that name wins."""

AS_SET = (
    "bucket_no_upscale", "caption_dropout_every_n_epochs", "caption_dropout_rate", "color_aug",
    "enable_bucket", "flip_aug", "gradient_accumulation_steps", "gradient_checkpointing", "keep_tokens",
    "learning_rate", "lr_scheduler", "max_bucket_reso", "min_bucket_reso", "mixed_precision", "output_name",
    "prior_loss_weight", "seed", "shuffle_caption", "text_encoder_lr", "unet_lr", "huber_c", "huber_scale",
    "huber_schedule", "ip_noise_gamma_random_strength", "loss_type",
)  # fmt: skip
NONE_IF_OFF = ("ip_noise_gamma", "min_snr_gamma", "network_dropout", "scale_weight_norms", "training_comment")
"""Settings written under their own name; the latter as None while they are 0 or empty."""

OF_FOLDERS = (
    "batch_size_per_device", "total_batch_size", "resolution", "color_aug", "flip_aug", "random_crop",
    "shuffle_caption", "enable_bucket", "bucket_no_upscale", "min_bucket_reso", "max_bucket_reso", "keep_tokens",
    "reg_dataset_dirs", "bucket_info",
)  # fmt: skip
"""What a dataset config decides for each of its datasets, so that `ss_datasets` tells it instead."""

OF_DATASETS = ("enable_bucket", "min_bucket_reso", "max_bucket_reso")
OF_SUBSETS = (
    "color_aug", "flip_aug", "random_crop", "shuffle_caption", "keep_tokens", "keep_tokens_separator",
    "secondary_separator", "enable_wildcard", "caption_prefix", "caption_suffix",
)  # fmt: skip
"""Settings that `ss_datasets` tells of each dataset, and of each of its subsets."""

IF_CHANGED = (
    "caption_prefix", "caption_suffix", "caption_separator", "enable_wildcard", "keep_tokens_separator",
    "secondary_separator", "token_warmup_min", "token_warmup_step",
)  # fmt: skip
"""Settings written under their own name where they are not as usual: the reference has no word for them."""

TOLD = ("author", "description", "license", "tags", "trigger_phrase")
"""Parts of the model specification that only people can tell; each is left out while its setting is empty."""


def metadata(
    settings: "Settings",
    model: "Model",
    dataset: "Dataset",
    plan: "Plan",
    progress: Progress,
    adapter: "Adapter | None" = None,
) -> dict[str, str]:
    """All `ss_*` and `modelspec.*` of a file saved now; `save` adds the hashes.

    `adapter` gives rank and alpha when they come from a file instead of the settings.
    """
    version, architecture = FAMILIES[model.family + (" v" if model.prediction_type == "v_prediction" else "")]
    values: dict[str, Any] = {name: getattr(settings, name, value) for name, value in NOT_CHOSEN.items()}
    values |= {name: getattr(settings, name) for name in AS_SET}
    values |= {name: getattr(settings, name) or None for name in NONE_IF_OFF}
    usual = type(settings).model_fields
    values |= {name: value for name in IF_CHANGED if (value := getattr(settings, name)) != usual[name].default}
    values |= {
        "base_model_version": version,
        "batch_size_per_device": settings.train_batch_size,
        "total_batch_size": settings.train_batch_size * plan.accumulation * plan.processes,
        "bucket_info": _json(bucket_info(settings, dataset)) if settings.enable_bucket else None,
        "clip_skip": settings.clip_skip if settings.clip_skip > 1 else None,
        "dataset_dirs": _json(_folders(subset for subset in dataset.subsets if not subset.is_reg)),
        "reg_dataset_dirs": _json(_folders(subset for subset in dataset.subsets if subset.is_reg)),
        "tag_frequency": _json(tag_frequency(dataset.subsets)),
        "epoch": progress.epoch,
        "steps": progress.step,
        "lr_warmup_steps": plan.warmup_steps,
        "max_token_length": settings.max_token_length if settings.max_token_length > 75 else None,
        "max_train_steps": plan.steps,
        "network_alpha": float(adapter.alpha if adapter and settings.dim_from_weights else settings.network_alpha),
        "network_dim": adapter.dim if adapter and settings.dim_from_weights else settings.network_dim,
        "network_module": ADAPTERS[settings.LoRA_type].network_module,
        "num_batches_per_epoch": -(-plan.batches_per_epoch // plan.processes),
        "num_epochs": plan.epochs,
        "num_reg_images": plan.reg_repeated,
        "num_train_images": plan.repeated,
        "optimizer": optimizer_name(settings),
        "resolution": settings.resolution,
        "v2": model.family == "sd2",
        "cache_latents": caches_latents(settings, dataset),
        **_base_model(model),
        **_own_vae(model),
        **_noise(settings),
        "sd_scripts_commit_hash": implementation(),
        "session_id": _session(progress),
        "training_started_at": progress.started,
        "training_finished_at": time.time(),
    }
    if dataset.key == "dataset_config":
        values = {name: value for name, value in values.items() if name not in OF_FOLDERS}
        values["datasets"] = _json(described(settings, dataset))
    if adapter is not None and settings.dim_from_weights:
        settings = settings.changed(conv_dim=adapter.conv_dim, conv_alpha=adapter.conv_alpha)
    if arguments := network_args(settings):
        values["network_args"] = _json(arguments)
    ours = {f"ss_{name}": str(value) for name, value in sorted(values.items())}
    return ours | _modelspec(settings, model, architecture, dataset)


def _modelspec(settings: "Settings", model: "Model", architecture: str, dataset: "Dataset") -> dict[str, str]:
    width, height = max((subset.under(settings).resolution for subset in dataset.subsets), default=settings.resolution)
    values = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture,
        "implementation": IMPLEMENTATIONS.get(model.family, "diffusers"),
        "implementation_version": implementation(),
        "title": settings.metadata_title.strip() or settings.output_name,
        "resolution": f"{width}x{height}",
        "date": datetime.now().isoformat(timespec="seconds"),
        "prediction_type": "v" if model.prediction_type == "v_prediction" else "epsilon",
    }
    for name in TOLD:
        if text := getattr(settings, f"metadata_{name}").strip():
            values[name] = text
    if settings.min_timestep > 0 or settings.max_timestep < 1000:
        values["timestep_range"] = f"{settings.min_timestep},{settings.max_timestep}"
    if settings.clip_skip > 1:
        values["encoder_layer"] = str(settings.clip_skip)
    return {f"modelspec.{name}": value for name, value in values.items()}


def _noise(settings: "Settings") -> dict[str, Any]:
    """What was added to the noise: of the two kinds of offset only the chosen one is named."""
    original = settings.noise_offset_type == "Original"
    multires = not original and settings.multires_noise_iterations > 0
    return {
        "debiased_estimation": settings.debiased_estimation_loss,
        "noise_offset": (settings.noise_offset or None) if original else None,
        "noise_offset_random_strength": settings.noise_offset_random_strength and original,
        "adaptive_noise_scale": (settings.adaptive_noise_scale or None) if original else None,
        "multires_noise_iterations": settings.multires_noise_iterations if multires else None,
        "multires_noise_discount": settings.multires_noise_discount if multires else 0.3,
    }


def _base_model(model: "Model") -> dict[str, str]:
    """A file or folder by its name and hashes, a model of the hub by what it is called there."""
    path = Path(model.name).expanduser()
    if not path.exists():
        return {"sd_model_name": model.name}
    return {"sd_model_name": path.absolute().name, **model.hashes}


def _own_vae(model: "Model") -> dict[str, str]:
    """Name and hashes of a VAE that is not the model's."""
    if model.vae_source is None:
        return {}
    hashes = model.vae_hashes
    names = {"vae_hash": "sd_model_hash", "new_vae_hash": "new_sd_model_hash"}
    return {"vae_name": model.vae_source.name, **{name: hashes[hash] for name, hash in names.items()}}


def bucket_info(settings: "Settings", dataset: "Dataset") -> dict[str, Any]:
    """Each bucket's resolution and number of pictures (with repeats), and how far shapes are off on average."""
    from trainer.data.buckets import bucket_counts, place, pool_counts

    buckets = bucket_counts(pool_counts(dataset, settings)).items()
    errors = []
    for picture, _ in dataset.repeated():
        (width, height), bucket = picture.size, place(picture.size, picture.under(settings)).bucket
        errors.append(abs(bucket[0] / bucket[1] - width / height))
    return {
        "buckets": {str(i): {"resolution": list(size), "count": count} for i, (size, count) in enumerate(buckets)},
        "mean_img_ar_error": sum(errors) / len(errors) if errors else 0.0,
    }


def described(settings: "Settings", dataset: "Dataset") -> list[dict[str, Any]]:
    """The datasets of a dataset config, each with its subsets, as `ss_datasets` tells them."""
    found = []
    for number in sorted({subset.dataset for subset in dataset.subsets}):
        part = dataset.part(number)
        own = part.subsets[0].under(settings)
        shown = [(picture.is_reg, count) for picture, count in part.repeated()]
        found.append({
            "is_dreambooth": True,
            "batch_size_per_device": own.train_batch_size,
            "num_train_images": sum(count for is_reg, count in shown if not is_reg),
            "num_reg_images": sum(count for is_reg, count in shown if is_reg),
            "resolution": list(own.resolution),
            **{name: getattr(own, name) for name in OF_DATASETS},
            "tag_frequency": tag_frequency(part.subsets),
            "bucket_info": bucket_info(settings, part) if own.enable_bucket else None,
            "resize_interpolation": None,
            "subsets": [_described(subset, settings) for subset in part.subsets],
        })  # fmt: skip
    return found


def _described(subset: "Subset", settings: "Settings") -> dict[str, Any]:
    own = subset.under(settings)
    return {
        "img_count": len(subset.pictures),
        "num_repeats": subset.repeats,
        **{name: getattr(own, name) for name in OF_SUBSETS},
        "image_dir": subset.name,
        "class_tokens": subset.concept or None,
        "is_reg": subset.is_reg,
    }


def _folders(subsets: Iterable["Subset"]) -> dict[str, dict[str, int]]:
    return {subset.name: {"n_repeats": subset.repeats, "img_count": len(subset.pictures)} for subset in subsets}


def tag_frequency(subsets: Iterable["Subset"]) -> dict[str, dict[str, int]]:
    """How often each comma-separated part of the captions occurs as the files have it, in each folder; pictures count
    once."""
    counts: dict[str, Counter[str]] = {}
    for subset in subsets:
        parts = (part.strip().lower() for picture in subset.pictures for part in re.split(r"[,\r\n]", picture.caption))
        counts.setdefault(subset.name, Counter()).update(part for part in parts if part)
    return {name: dict(count) for name, count in counts.items()}


def optimizer_name(settings: "Settings") -> str:
    """The optimizer's class by its full name, with its extra arguments in brackets."""
    from trainer.optimizers import optimizer_type

    path = optimizer_type(settings.optimizer).path
    arguments = ",".join(settings.optimizer_args.split())
    return f"{path}({arguments})" if arguments else path


def implementation() -> str:
    """This program and its version."""
    try:
        return f"{PROGRAM}/{packages.version(PROGRAM)}"
    except packages.PackageNotFoundError:
        return PROGRAM


def _session(progress: Progress) -> int:
    """A number of the run, the same for all its files."""
    return random.Random(progress.started).randrange(2**32)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


# Files


def save(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str], as_ckpt: bool = False) -> Path:
    """Write tensors to `path`, which then is whole, or is as it was before; returns it.

    A .safetensors carries the metadata with both hashes; a .ckpt is a plain dict of tensors, which has no place for
    them. Raises `Failure` when the folder cannot be written or the disk is full.
    """
    if as_ckpt:
        import torch

        buffer = io.BytesIO()
        torch.save(dict(tensors), buffer)
        return write(path, buffer.getvalue())
    from safetensors.torch import save as serialise

    return write(path, serialise(dict(tensors), {**metadata, **hashes(tensors, metadata)}))


def hashes(tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash` and `sshs_legacy_hash`, over a serialisation with nothing but the `ss_*` metadata.

    The first is sha256 of the tensor data; the second, 8 digits of sha256 over bytes 0x100000 to 0x110000 of the file.
    """
    from safetensors.torch import save as serialise

    data = serialise(dict(tensors), {key: value for key, value in metadata.items() if key.startswith("ss_")})
    start = 8 + int.from_bytes(data[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(memoryview(data)[start:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8],
    }


def write(path: Path, data: bytes) -> Path:
    """Put `data` at `path` by way of a temporary file beside it. Raises `Failure` with a sentence."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise Failure(*_why_not(path, len(data), error), key="output_dir") from error
    return path


def _why_not(path: Path, size: int, error: OSError) -> tuple[str, str]:
    reasons: dict[int | None, Callable[[], tuple[str, str]]] = {
        errno.ENOSPC: lambda: (
            f"The disk is full: {path} needs {size / 1e6:.1f} MB.", "Free some space, or choose another output folder."
        ),
        errno.EACCES: lambda: (f"{path.parent} may not be written to.", "Choose another output folder."),
        errno.EROFS: lambda: (f"{path.parent} is read-only.", "Choose another output folder."),
        errno.EPERM: lambda: (f"{path.parent} may not be written to.", "Choose another output folder."),
    }  # fmt: skip
    other = lambda: (f"{path} could not be written: {error.strerror or error}.", "Choose another output folder.")  # noqa: E731
    return reasons.get(error.errno, other)()


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a .safetensors file, {} if there is none; raises `Broken` for other files."""
    from trainer.models.headers import read_header

    header, _ = read_header(path)
    found = header.get("__metadata__", {})
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
