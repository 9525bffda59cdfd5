"""What a file, folder or name holds: which kind, which family of models, and what is wrong with it. No torch."""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.models.pickled import shapes_in_checkpoint
from trainer.settings.model import MOVED
from trainer.workspace import workspace

KEY = "pretrained_model_name_or_path"
"""The setting that problems found here are about."""

SUPPORTED = {"sd15": "Stable Diffusion 1.5"}
OTHERS = {
    "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL", "sdxl-refiner": "Stable Diffusion XL (refiner)",
    "sd3": "Stable Diffusion 3", "flux": "Flux", "inpainting": "Stable Diffusion inpainting",
    "pix2pix": "InstructPix2Pix",
}  # fmt: skip
FAMILY_NAMES = SUPPORTED | OTHERS
"""What people call each family."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor by its key."""


@dataclass(frozen=True)
class Identity:
    """What something is. `kind`: "diffusers", "single", "hub", "lora", "part" or "unknown"; `problem` is a sentence."""

    kind: str
    name: str
    path: Path | None = None
    family: str | None = None
    prediction: str | None = None
    problem: str | None = None
    advice: str = ""
    note: str = ""
    format: str = ""
    """"safetensors" or "ckpt", for a single file."""

    @property
    def base(self) -> bool:
        """Whether it is a base model that can be trained on."""
        return self.problem is None and self.kind in {"diffusers", "single", "hub"}


class Broken(ValueError):
    """A file that cannot be read as what it claims to be; the text is a sentence without its subject."""


def identify(name: str) -> Identity:
    """What `name` (a path, a hub name, or "demo") holds, by looking at headers only. Never raises for bad input."""
    name = name.strip().strip('"')
    if not name:
        return Identity(
            "unknown", name, problem="No model is chosen.", advice='Choose one, or "demo" to try things out.'
        )
    if name == "demo":
        from trainer.demo import BASE_MODEL

        return _folder(name, BASE_MODEL)
    path = find(name)
    if path is not None:
        try:
            found = _folder(name, path) if path.is_dir() else _file(name, path)
        except OSError as error:
            return Identity("unknown", name, path, problem=f"{path} cannot be read: {error.strerror or error}.")
        return found if found.problem else _only_supported(found)
    if _is_hub_name(name):
        return _hub(name)
    return Identity(
        "unknown", name, problem=f"There is no file or folder {name}.",
        advice=f"Choose one with the folder button, or put your models into {workspace().models}.",
    )  # fmt: skip


def find(name: str) -> Path | None:
    """The local file or folder that `name` means: a path, or something in the workspace's folder of models."""
    models = workspace().models
    moved = MOVED.get(name, name)
    candidates = [Path(name).expanduser(), models / name, models / moved]
    if _is_hub_name(moved):
        candidates.append(models / moved.split("/")[-1])
    for path in candidates:
        try:
            if path.exists():
                return path.absolute()
        except (OSError, ValueError):
            continue
    return None


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+(/blob/main/[\w./-]+)?", name) is not None and not name.startswith(".")


HUB_FAMILIES = (
    (r"xl-refiner", "sdxl-refiner"), (r"sdxl|-xl|xl-base", "sdxl"), (r"stable-diffusion-2|v2-1|sd2", "sd2"),
    (r"stable-diffusion-3|sd3", "sd3"), (r"flux", "flux"), (r"inpaint", "inpainting"), (r"pix2pix", "pix2pix"),
    (r"stable-diffusion-v1|v1-5|v1-4|sd15|sd-v1", "sd15"),
)  # fmt: skip


def _hub(name: str) -> Identity:
    present = MOVED.get(name, name)
    family = next((family for word, family in HUB_FAMILIES if re.search(word, present.lower())), None)
    note = f"{name} has moved; {present} is used." if present != name else ""
    identity = Identity("hub", present, family=family, note=note)
    return identity if family is None else _only_supported(identity)


def _only_supported(identity: Identity) -> Identity:
    if identity.kind not in {"diffusers", "single", "hub"} or identity.family in SUPPORTED:
        return identity
    what = FAMILY_NAMES.get(identity.family or "", identity.family or "a model of an unknown kind")
    return replace(
        identity,
        problem=f"{_called(identity)} is {what}; only {' and '.join(SUPPORTED.values())} can be trained.",
        advice="Choose a model of that family.",
    )


def _called(identity: Identity) -> str:
    return identity.path.name if identity.path is not None and identity.name != "demo" else identity.name


# Folders


WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Components of a diffusers folder and the first part of their weights' file name."""


def _folder(name: str, path: Path) -> Identity:
    identity = Identity("diffusers", name, path)

    def wrong(problem: str, advice: str = "", kind: str = "unknown") -> Identity:
        return replace(identity, kind=kind, problem=problem, advice=advice)

    index = path / "model_index.json"
    if not index.is_file():
        if (path.parent / "model_index.json").is_file():
            return wrong(f"{path.name} is one part of the model in {path.parent}.", f"Choose {path.parent}.", "part")
        files = sorted(item.name for item in path.glob("*") if item.suffix in {".safetensors", ".ckpt"})
        advice = f"Choose a file in it, such as {files[0]}." if files else "Choose a model file or a diffusers folder."
        return wrong(f"The folder {path} has no model_index.json, so it is no diffusers model.", advice)
    try:
        pipeline = str(_json(index).get("_class_name", ""))
        unet = _json(path / "unet" / "config.json") if (path / "unet").is_dir() else {}
        scheduler = path / "scheduler" / "scheduler_config.json"
        prediction = _json(scheduler).get("prediction_type", "epsilon") if scheduler.is_file() else "epsilon"
    except Broken as error:
        return wrong(str(error), "Download the model again.")
    family = _folder_family(pipeline, unet)
    identity = replace(identity, family=family, prediction=prediction)
    if family not in SUPPORTED:
        return _only_supported(identity)
    for component in WEIGHTS:
        try:
            _check_component(path / component)
        except Broken as error:
            return replace(identity, problem=f"{path}: {error}", advice="Download the model again.")
    return identity


def _folder_family(pipeline: str, unet: Mapping[str, Any]) -> str:
    for word, family in (("XL", "sdxl"), ("Diffusion3", "sd3"), ("Flux", "flux")):
        if word in pipeline:
            return family
    if not unet:
        return pipeline or "a model without a U-Net"
    if unet.get("addition_embed_type") == "text_time":
        return "sdxl"
    channels = unet.get("in_channels", 4)
    if channels != 4:
        return {9: "inpainting", 8: "pix2pix"}.get(channels, f"a model with {channels} input channels")
    return "sd2" if unet.get("use_linear_projection") or unet.get("cross_attention_dim") == 1024 else "sd15"


def weights_names(part: str, variant: str = "") -> list[str]:
    """What the weights of one component may be called, best first; `variant` is "" or "fp16"."""
    stem, end = WEIGHTS[part], f".{variant}" if variant else ""
    return [f"{stem}{end}.safetensors", f"{'pytorch_model' if stem == 'model' else stem}{end}.bin"]


def weights_file(component: Path, variant: str = "") -> Path | None:
    """The file with the weights of one component folder; `variant` is "" or "fp16"."""
    paths = (component / name for name in weights_names(component.name, variant))
    return next((path for path in paths if path.is_file()), None)


def _check_component(component: Path) -> None:
    if not (component / "config.json").is_file():
        raise Broken(f"its part {component.name} is missing (no {component.name}/config.json).")
    found = [file for file in (weights_file(component), weights_file(component, "fp16")) if file is not None]
    if not found:
        raise Broken(f"its part {component.name} has no weights.")
    for file in found:
        if file.suffix == ".safetensors":
            try:
                shapes_in_safetensors(file)
            except Broken as error:
                raise Broken(f"{component.name}/{file.name} {error}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Broken(f"{path} cannot be read as JSON ({error}).") from None
    if not isinstance(data, dict):
        raise Broken(f"{path} is not a JSON object.")
    return data


# Files


def _file(name: str, path: Path) -> Identity:
    identity = Identity("unknown", name, path)
    try:
        format, shapes = read_shapes(path)
        if path.suffix.lower() == ".safetensors" and format != "safetensors":
            raise Broken("is called .safetensors but holds a .ckpt; give it the ending .ckpt.")
        if path.suffix.lower() in {".ckpt", ".pt", ".pth", ".bin"} and format == "safetensors":
            raise Broken(f"is called {path.suffix} but holds safetensors; give it the ending .safetensors.")
    except Broken as error:
        return replace(identity, problem=f"{path.name} {error}", advice="Choose a whole .safetensors or .ckpt model.")
    identity = replace(identity, format=format)
    kind, family = family_of(shapes)
    if kind == "single":
        prediction = "v_prediction" if "v_pred" in shapes else "epsilon"
        return replace(identity, kind=kind, family=family, prediction=prediction)
    advice = "Choose a Stable Diffusion model; " + PART_ADVICE.get(family, "this file cannot be trained on.")
    return replace(
        identity, kind=kind, family=family, problem=f"{path.name} is {family}, not a base model.", advice=advice
    )


PART_ADVICE = {
    "a LoRA": "a LoRA to go on from belongs into LoRA network weights.",
    "one part of a diffusers model": "choose the diffusers folder it belongs to.",
}


def read_shapes(path: Path) -> tuple[str, Shapes]:
    """("safetensors" or "ckpt", shapes of the tensors) of a file, judged by its content. Raises `Broken`."""
    size = path.stat().st_size
    if size == 0:
        raise Broken("is empty (0 bytes).")
    with path.open("rb") as file:
        start = file.read(256)
    if start.startswith(b"PK"):
        return "ckpt", _in_checkpoint(path)
    if start.startswith(b"version https://git-lfs"):
        raise Broken("is only a pointer to the model (git-lfs); download the model itself.")
    if start.lstrip()[:1] == b"<":
        raise Broken("is a web page, not a model; the download went wrong.")
    if start[:1] == b"\x80":
        raise Broken("is a checkpoint in a format from before 2020, which is not read here.")
    return "safetensors", shapes_in_safetensors(path)


def _in_checkpoint(path: Path) -> Shapes:
    try:
        return shapes_in_checkpoint(path)
    except ValueError as error:
        raise Broken(str(error)) from None


LARGEST_HEADER = 100_000_000


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and the offset of its data. Raises `Broken` if it is none or is cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if size == 0:
            raise Broken("is empty (0 bytes).")
        if len(start) < 8:
            raise Broken("is not a model.")
        (length,) = struct.unpack("<Q", start)
        first = file.read(1)
        if first != b"{" or length > LARGEST_HEADER:
            raise Broken("is not a model.")
        if 8 + length > size:
            raise Broken(f"is cut off: its header alone needs {8 + length} bytes, the file has {size}.")
        try:
            header = json.loads(first + file.read(length - 1))
        except ValueError:
            raise Broken("is not a model: its header is damaged.") from None
    if not isinstance(header, dict):
        raise Broken("is not a model: its header is damaged.")
    return header, 8 + length


def shapes_in_safetensors(path: Path) -> Shapes:
    """Shapes of the tensors of a safetensors file whose data is all there. Raises `Broken` otherwise."""
    header, start = read_header(path)
    entries = {key: entry for key, entry in header.items() if key != "__metadata__"}
    try:
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        shapes = {key: tuple(map(int, entry["shape"])) for key, entry in entries.items()}
    except (KeyError, TypeError, IndexError, ValueError):
        raise Broken("is not a model: its header is damaged.") from None
    size = path.stat().st_size
    if start + end > size:
        raise Broken(f"is cut off: it needs {start + end} bytes and has {size}. Download it again.")
    return shapes


# Families


UNET = "model.diffusion_model."
LORA = (
    ".lora_down.",
    ".lora_up.",
    ".lora_A.",
    ".lora_B.",
    ".hada_w1_a",
    ".lokr_w1",
    ".oft_blocks",
    "lora.up.",
    "lora.down.",
)


def family_of(shapes: Shapes) -> tuple[str, str]:
    """(kind, family) of a single file from its tensors' names and shapes; family is a noun phrase if it is no model."""
    if not shapes:
        return "unknown", "a file without weights"
    if any(mark in key for key in shapes for mark in LORA):
        return "lora", "a LoRA"
    if any(key.startswith(UNET) for key in shapes):
        return _with_unet(shapes)
    for word, family in (("double_blocks.0.", "flux"), ("joint_blocks.0.", "sd3")):
        if any(word in key for key in shapes):
            return "single", family
    for word, what in PARTS:
        if any(word in key for key in shapes):
            return "part", what
    return "unknown", "a file of an unknown kind"


PARTS = (
    ("control_model.", "a ControlNet"), ("controlnet_", "a ControlNet"), ("input_hint_block", "a ControlNet"),
    ("string_to_param", "a textual inversion embedding"), ("emb_params", "a textual inversion embedding"),
    ("down_blocks.0.attentions.0.transformer_blocks", "one part of a diffusers model"),
    ("transformer_blocks.0.", "one part of a diffusers model"),
    ("decoder.conv_in.weight", "a VAE"), ("first_stage_model.", "a VAE"),
    ("text_model.encoder.layers.0.", "a text encoder"), ("conv_first.weight", "an upscaler"),
    ("model.0.weight", "an upscaler"),
)  # fmt: skip


def _with_unet(shapes: Shapes) -> tuple[str, str]:
    if any(word in key for key in shapes for word in (UNET + "double_blocks.",)):
        return "single", "flux"
    if any(UNET + "joint_blocks." in key for key in shapes):
        return "single", "sd3"
    channels = shapes.get(UNET + "input_blocks.0.0.weight", (0, 4))[1]
    if channels != 4:
        return "single", {9: "inpainting", 8: "pix2pix"}.get(channels, f"a model with {channels} input channels")
    if any(key.startswith(UNET + "label_emb.") for key in shapes):
        return "single", "sdxl" if any(key.startswith("conditioner.embedders.1.") for key in shapes) else "sdxl-refiner"
    projection = shapes.get(UNET + "input_blocks.1.1.proj_in.weight", ())
    if len(projection) == 2:
        return "single", "sd2"
    if len(projection) != 4:
        return "single", "a model of an unknown kind"
    for part, keys in (("VAE", "first_stage_model."), ("text encoder", "cond_stage_model.")):
        if not any(key.startswith(keys) for key in shapes):
            return "part", f"a U-Net without its {part}"
    return "single", "sd15"
