"""What a file, folder or name holds: which kind, which family of models, and what is wrong with it. No torch."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.models import families
from trainer.models.families import FAMILY_NAMES, INPAINTING, SUPPORTED, TRAINABLE, parts_of
from trainer.models.headers import Broken, read_shapes, shapes_in_safetensors
from trainer.settings.model import MOVED
from trainer.workspace import workspace

KEY = "pretrained_model_name_or_path"
"""The setting that problems found here are about."""


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
    inpainting: bool = False
    said_by: str = ""
    """What tells the prediction, such as "its scheduler"; "" when nothing does and the user is asked."""

    @property
    def base(self) -> bool:
        """Whether it is a base model that can be trained on."""
        return self.problem is None and self.kind in {"diffusers", "single", "hub"}

    @property
    def ticks(self) -> dict[str, bool | None]:
        """What the ticks v2, v_param and SDXL have to be, and Train inpainting model; None where only the user knows.

        Empty when the family is not known yet (a model of the hub, whose configs are not here).
        """
        if self.family not in SUPPORTED:
            return {}
        return {
            "v2": self.family == "sd2",
            "v_parameterization": None if self.prediction is None else self.prediction == "v_prediction",
            "sdxl": self.family == "sdxl",
            "train_inpainting": self.inpainting,
        }

    @property
    def reasons(self) -> dict[str, str]:
        """For each tick why it is as it is, a sentence; empty when nothing is known."""
        if self.family not in SUPPORTED:
            return {}
        source = {"single": "The file's tensors say", "diffusers": "Its configs say", "hub": "Its name says"}[self.kind]
        family = f"{source} {FAMILY_NAMES[self.family]}{' for inpainting' if self.inpainting else ''}."
        if self.prediction is None:
            velocity = "Whether it predicts velocity its file does not say: tick v_param if it does."
        else:
            what = "velocity" if self.prediction == "v_prediction" else "noise"
            velocity = f"It predicts {what}{f': {self.said_by}' if self.said_by else ''}."
        return {"v2": family, "v_parameterization": velocity, "sdxl": family, "train_inpainting": family}

    @property
    def why(self) -> str:
        """What the model is and how that is known, in sentences for the page; "" when nothing is."""
        return " ".join(dict.fromkeys(self.reasons.values()))


def identify(name: str) -> Identity:
    """What `name` (a path, a hub name, or "demo") holds, by looking at headers only. Never raises for bad input."""
    name = name.strip().strip('"')
    if not name:
        return Identity(
            "unknown", name, problem="No model is chosen.", advice='Choose one, or "demo" to try things out.'
        )
    if name == "demo":
        from trainer.demo import BASE_MODEL

        return identify_folder(name, BASE_MODEL)
    path = find(name)
    if path is not None:
        try:
            found = identify_folder(name, path) if path.is_dir() else _file(name, path)
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
    candidates = [_home(name), models / name, models / moved]
    if _is_hub_name(moved):
        candidates.append(models / moved.split("/")[-1])
    for path in candidates:
        try:
            if path.exists():
                return path.absolute()
        except (OSError, ValueError):
            continue
    return None


def _home(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # "~nobody"
        return Path(name)


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+(/blob/main/[\w./-]+)?", name) is not None and not name.startswith(".")


def _hub(name: str) -> Identity:
    present = MOVED.get(name, name)
    known = families.of_hub_name(present)
    note = f"{name} has moved; {present} is used." if present != name else ""
    if known is None:
        return Identity("hub", present, note=note)
    return _only_supported(
        Identity(
            "hub", present, family=known.family, prediction=known.prediction, note=note, inpainting=known.inpainting
        )
    )


def _only_supported(identity: Identity) -> Identity:
    if identity.kind not in {"diffusers", "single", "hub"} or identity.family in SUPPORTED:
        return identity
    what = FAMILY_NAMES.get(identity.family or "", identity.family or "a model of an unknown kind")
    return replace(
        identity,
        problem=f"{_called(identity)} is {what}; only {TRAINABLE} can be trained.",
        advice="Choose a model of one of these families.",
    )


def _called(identity: Identity) -> str:
    """A file by its name; the demo and models of the hub by what the user calls them."""
    is_file = identity.path is not None and identity.path.name == Path(identity.name).name
    return Path(identity.name).name if is_file else identity.name


# Folders


WEIGHTS = {
    "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
    "text_encoder_2": "model",
}  # fmt: skip
"""Components of a diffusers folder and the first part of their weights' file name."""


def identify_folder(name: str, path: Path) -> Identity:
    """As `identify`, for a diffusers folder at `path` that the user calls `name`. May raise `OSError`."""
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
    family = families.of_folder(pipeline, unet)
    identity = replace(
        identity,
        family=family,
        prediction=prediction,
        inpainting=unet.get("in_channels") == INPAINTING,
        said_by="its scheduler says so" if scheduler.is_file() else "it has no scheduler that says otherwise",
    )
    if family not in SUPPORTED:
        return _only_supported(identity)
    for component in parts_of(family):
        try:
            _check_component(path / component)
        except Broken as error:
            return replace(identity, problem=f"{path}: {error}", advice="Download the model again.")
    return identity


def weights_names(part: str, variant: str = "") -> list[str]:
    """What the weights of one component may be called, best first; `variant` is "" or "fp16"."""
    stem, end = WEIGHTS[part], f".{variant}" if variant else ""
    return [f"{stem}{end}.safetensors", f"{'pytorch_model' if stem == 'model' else stem}{end}.bin"]


def weights_file(component: Path, variant: str = "", part: str = "") -> Path | None:
    """The file with the weights of one component folder, by default named for its `part`; `variant`: "" or "fp16"."""
    paths = (component / name for name in weights_names(part or component.name, variant))
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
    kind, family = families.of_file(shapes)
    if kind == "single":
        says_velocity = "v_pred" in shapes
        return replace(
            identity,
            kind=kind,
            family=family,
            prediction="v_prediction" if says_velocity else None,
            inpainting=families.is_inpainting(shapes),
            said_by="it holds the key v_pred" if says_velocity else "",
        )
    advice = "Choose a Stable Diffusion model; " + PART_ADVICE.get(family, "this file cannot be trained on.")
    return replace(
        identity, kind=kind, family=family, problem=f"{path.name} is {family}, not a base model.", advice=advice
    )


PART_ADVICE = {
    "a LoRA": "a LoRA to go on from belongs into LoRA network weights.",
    "one part of a diffusers model": "choose the diffusers folder it belongs to.",
}
