"""A VAE of the user's own in place of the model's: what a file holds, and loading it. No torch at import."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.models import families
from trainer.models.families import FAMILY_NAMES
from trainer.models.headers import Broken, Shapes, read_shapes, shapes_in_safetensors
from trainer.models.identify import find, weights_file
from trainer.report import Failure

if TYPE_CHECKING:
    import torch

KEY = "vae"
LABEL = "VAE"
INSIDE = "first_stage_model."
"""What the names of a VAE begin with inside a whole checkpoint."""

ORIGINAL, DIFFUSERS = "encoder.down.0.block.0.norm1.weight", "encoder.down_blocks.0.resnets.0.norm1.weight"
"""Keys by which the two ways of naming a VAE's tensors are known."""

LATENTS = "decoder.conv_in.weight"
SCALES = {0.18215: ("sd15", "sd2"), 0.13025: ("sdxl",)}
"""The scaling factor in a VAE's config, and the families whose latents have that size."""


@dataclass(frozen=True)
class Found:
    """What was found under the setting VAE: a "folder" or a "file", its format and its way of naming tensors.

    `problem` is a sentence. `scale` is the scaling factor when a config names one: nothing else tells the VAE of
    Stable Diffusion 1.5 and 2 from that of XL, their tensors have the same names and shapes.
    """

    name: str
    path: Path | None = None
    kind: str = ""
    format: str = ""
    layout: str = ""
    scale: float | None = None
    problem: str | None = None
    advice: str = "Choose another VAE, or empty the field to use the model's own."


def identify_vae(name: str, family: str | None = None) -> Found:
    """What `name` holds, judged by headers and configs; never raises for bad input. `family` is the model's."""
    name = name.strip().strip('"')
    path = find(name)
    if path is None:
        return Found(name, problem=f"there is no file or folder {name}.")
    try:
        found = _folder(name, path) if path.is_dir() else _file(name, path)
    except Broken as error:
        return Found(name, path, problem=f"{path.name} {error}")
    except OSError as error:
        return Found(name, path, problem=f"{path.name} cannot be read ({error.strerror or error}).")
    wanted = next(
        (of for scale, of in SCALES.items() if found.scale is not None and abs(scale - found.scale) < 1e-4), ()
    )
    if family and wanted and family not in wanted:
        of, here = FAMILY_NAMES[wanted[0]], FAMILY_NAMES.get(family, family)
        return replace(
            found, problem=f"{path.name} is a VAE of {of} (scaling factor {found.scale:g}); the model is {here}."
        )
    return found


def _folder(name: str, path: Path) -> Found:
    folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Broken("has no config.json, so it is no VAE in the diffusers format.") from None
    except ValueError:
        raise Broken("has a config.json that cannot be read.") from None
    if not isinstance(config, dict) or config.get("_class_name") != "AutoencoderKL":
        kind = config.get("_class_name") if isinstance(config, dict) else None
        raise Broken(f"holds {kind or 'something else'}, not the VAE of a Stable Diffusion model (AutoencoderKL).")
    _check_channels(config.get("latent_channels", 4))
    file = weights_file(folder, part="vae") or weights_file(folder, "fp16", part="vae")
    if file is None:
        raise Broken("has a config.json but no weights.")
    if file.suffix == ".safetensors":
        shapes_in_safetensors(file)
    return Found(name, folder, "folder", scale=float(config.get("scaling_factor", 0.18215)))


def _file(name: str, path: Path) -> Found:
    format, shapes = read_shapes(path)
    plain = {key.removeprefix(INSIDE): shape for key, shape in shapes.items()}
    if ORIGINAL not in plain and DIFFUSERS not in plain:
        raise Broken(f"is {_what(shapes)}, not a VAE.")
    channels = plain.get(LATENTS, ())
    if len(channels) != 4:
        raise Broken("is only a part of a VAE: its decoder is missing.")
    _check_channels(channels[1])
    scale = None
    config = path.parent / "config.json"
    if DIFFUSERS in plain and config.is_file():
        scale = _folder(name, path.parent).scale
    return Found(name, path, "file", format, "original" if ORIGINAL in plain else "diffusers", scale)


def _what(shapes: Shapes) -> str:
    kind, family = families.of_file(shapes)
    return f"a model ({FAMILY_NAMES.get(family, family)}) without one" if kind == "single" else family


def _check_channels(channels: int) -> None:
    if channels != 4:
        others = {16: "Flux and Stable Diffusion 3", 3: "Stable Cascade or a VQ model"}.get(channels, "another family")
        raise Broken(f"is a VAE with {channels} latent channels ({others}); Stable Diffusion has 4.")


def load_vae(name: str, family: str, dtype: "torch.dtype") -> tuple[Any, Path]:
    """(the VAE in `dtype`, the file or folder it is from). Raises `Failure` with a sentence under the label VAE."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from trainer.models.configs import CONFIGS
    from trainer.models.sd import complete, from_original, quiet
    from trainer.models.tensors import read_tensors

    found = identify_vae(name, family)
    if found.problem is not None or found.path is None:
        raise Failure(f"{LABEL}: {found.problem}", found.advice, key=KEY)
    path = found.path
    try:
        if found.kind == "folder":
            variant = None if weights_file(path, part="vae") else "fp16"
            with quiet():
                vae = AutoencoderKL.from_pretrained(str(path), dtype=dtype, local_files_only=True, variant=variant)
            complete(vae, "vae")
            return vae, path
        tensors = {
            key.removeprefix(INSIDE): tensor
            for key, tensor in read_tensors(path, found.format).items()
            if key.removeprefix(INSIDE).startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
        }
        if found.layout == "original":
            return from_original(
                "vae", {INSIDE + key: tensor for key, tensor in tensors.items()}, CONFIGS[family], dtype
            ), path
        config = AutoencoderKL.load_config(str(CONFIGS[family]), subfolder="vae")
        vae = AutoencoderKL.from_config(config)
        vae.load_state_dict(tensors)
        return vae.to(dtype), path
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
        raise Failure(f"{LABEL}: {path.name} could not be loaded: {reason}.", found.advice, key=KEY) from error
