"""What a run goes on from, an earlier LoRA or a training state, looked at before anything starts. Loads no torch.

What only the loaded model shows (a layer that is not there, the numbers of an alpha) is said when it is loaded.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer import states
from trainer.adapters import ADAPTERS
from trainer.adapters.blocks import CONV_DIMS, DIMS, given
from trainer.declare import Problem, by_name
from trainer.models import families
from trainer.models.families import FAMILY_NAMES, SUPPORTED
from trainer.models.headers import Broken, Shapes, read_shapes
from trainer.models.identify import find, identify
from trainer.settings import Settings

KNOWN = by_name(Settings)
KEY = "network_weights"
TYPES = (
    ("hada_", "a LoHa"), ("lokr_", "a LoKr"), ("dora_scale", "a DoRA"), ("oft_", "an OFT"), ("on_input", "an IA3"),
    ("lora_mid", "a LoCon with a Tucker core"), ("lora_A", "a LoRA in the diffusers format"),
    ("lora.down", "a LoRA in an old diffusers format"), ("b1.weight", "a GLoRA"),
    ("diff", "a native fine-tuning"), ("_norm", "a LyCORIS file with norms"), ("lora_", "a LoRA"),
)  # fmt: skip
"""Pieces of the keys of adapter files, the first that is found counts, and what such a file is."""

FOREIGN = (
    ("lora_te1_", FAMILY_NAMES["sdxl"]), ("lora_te2_", FAMILY_NAMES["sdxl"]),
    ("lora_unet_input_blocks", FAMILY_NAMES["sdxl"]), ("lora_unet_output_blocks", FAMILY_NAMES["sdxl"]),
    ("lora_unet_double_blocks", FAMILY_NAMES["flux"]), ("lora_transformer", FAMILY_NAMES["flux"]),
    ("lora_unet_joint_blocks", FAMILY_NAMES["sd3"]), ("lora_te_text_model_encoder_layers_", FAMILY_NAMES["sd2"]),
    ("lora_te_", f"{FAMILY_NAMES['sd15']} or 2"), ("lora_unet_down_blocks", f"{FAMILY_NAMES['sd15']} or 2"),
)  # fmt: skip
"""Beginnings of layer names, and the families whose files have them: for names that a model does not know."""

SHARED = "lora_te_text_model_encoder_layers_"
"""Versions 1 and 2 have such layers; only their numbers tell them apart."""

WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
"""Numbers a caption's token becomes, as the U-Nets of real models read them."""

PLAIN = frozenset({"lora_down.weight", "lora_up.weight", "alpha"})
MARKS: Mapping[str, tuple[str, ...]] = {
    "locon": ("lora_down",), "dylora": ("lora_down",), "loha": ("hada_",), "lokr": ("lokr_",), "glora": ("b1.weight",),
    "ia3": ("on_input",), "boft": ("oft_",), "diag-oft": ("oft_",), "full": ("diff",),
}  # fmt: skip
"""One of these pieces is in every file of an algorithm of LyCORIS."""


def problem(key: str, message: str, fix: Mapping[str, Any] | None = None, fix_label: str = "") -> Problem:
    """A sentence about the setting `key`, under its label."""
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def type_of(keys: Iterable[str]) -> str:
    """What an adapter file is, by some of its keys."""
    keys = list(keys)
    return next((what for mark, what in TYPES if any(mark in key for key in keys)), "an adapter of an unknown type")


# A file.


def weights(s: Settings) -> Iterator[Problem]:
    """Is the earlier file a LoRA, of the chosen type, of the model's family, and of the rank that is set?"""
    path = find(s.network_weights.strip().strip('"')) if s.network_weights.strip() else None
    if path is None or not path.is_file():
        return  # said where paths are looked at
    none = {KEY: "", "dim_from_weights": False}
    try:
        shapes = read_shapes(path)[1]
    except Broken as error:
        yield problem(KEY, f"{path.name} {error}", none, "Use none")
        return
    except OSError as error:
        yield problem(KEY, f"{path.name} cannot be read ({error.strerror or error}).", none, "Use none")
        return
    kind, what = families.of_file(shapes)
    if kind != "lora":
        yield problem(KEY, f"{path.name} is {FAMILY_NAMES.get(what, what)}, not a LoRA.", none, "Use none")
    elif foreign := _of_another_type(shapes, s):
        message = f"{path.name} is {type_of(foreign)}, which {s.LoRA_type} cannot go on from."
        yield problem(KEY, message, none, "Use none")
    elif other := _of_another_family(shapes, s):
        yield problem(KEY, f"{path.name} was made for {other}; the model is another one.", none, "Use none")
    else:
        yield from _rank(path, shapes, s)


def _of_another_type(shapes: Shapes, s: Settings) -> list[str]:
    """Keys that files of the chosen type do not have; all where they lack one that these have."""
    marks = MARKS.get(ADAPTERS[s.LoRA_type].algo)
    if marks is None:
        return [key for key in shapes if key.partition(".")[2] not in PLAIN]
    return [] if any(mark in key for key in shapes for mark in marks) else list(shapes)


def _of_another_family(shapes: Shapes, s: Settings) -> str:
    own = identify(s.pretrained_model_name_or_path).family
    if own not in SUPPORTED:
        return ""
    for start, family in FOREIGN:
        fits = start == SHARED or FAMILY_NAMES[own] in family or (own == "sd2" and family.endswith(" or 2"))
        if not fits and any(key.startswith(start) for key in shapes):
            return family
    read = (shape[1] for key, shape in shapes.items() if "attn2_to_k.lora_down" in key and len(shape) == 2)
    made_for = WIDTHS.get(next(read, 0), own)
    return "" if made_for == own else FAMILY_NAMES[made_for]


def _rank(path: Path, shapes: Shapes, s: Settings) -> Iterator[Problem]:
    if s.dim_from_weights or ADAPTERS[s.LoRA_type].algo or given(s, DIMS) or given(s, CONV_DIMS):
        return
    ranks = {shape[0] for key, shape in shapes.items() if "lora_down" in key and set(shape[2:]) <= {1}}
    if ranks and s.network_dim not in ranks:
        message = (
            f"{path.name} was trained with {KNOWN['network_dim'].label} {min(ranks)}, and it is set to {s.network_dim}."
        )
        yield problem(KEY, message, {"dim_from_weights": True}, f"Tick {KNOWN['dim_from_weights'].label}")


# A state.


def resume(s: Settings) -> Iterator[Problem]:
    """Is the state whole, of this program, and of the same kind of model, LoRA and optimizer; and is anything left?"""
    folder = Path(s.resume).expanduser()
    about = states.about(folder) if s.resume else None
    if about is None:
        return  # said where folders are looked at
    none = {"resume": ""}
    why = states.unusable(folder, about)
    if why:
        yield problem("resume", f"{why.reason} {why.advice}", none, "Start from the beginning")
        return
    found = identify(s.pretrained_model_name_or_path).family
    for why in states.unfit(folder.name, about, found if found in SUPPORTED else None, _network(s), s.optimizer):
        yield problem("resume", f"{why.reason} {why.advice}", why.fix or none, why.fix_label or "Start anew")
        return
    yield from _left(s, folder.name, about)


def _network(s: Settings) -> dict[str, Any]:
    """What a state must agree with, as far as the settings alone decide it."""
    alone = not (s.dim_from_weights or ADAPTERS[s.LoRA_type].algo or given(s, DIMS))
    sizes = {"dim": s.network_dim, "alpha": s.network_alpha} if alone and s.network_alpha else {}
    return {"type": s.LoRA_type, **sizes}


def _left(s: Settings, name: str, about: Mapping[str, Any]) -> Iterator[Problem]:
    from trainer.data.dataset import scan
    from trainer.plan import make_plan

    steps = make_plan(s, scan(s)).steps
    if steps and (why := states.finished(name, about, steps)):
        yield problem("resume", f"{why.reason} {why.advice}", {"resume": ""}, "Start from the beginning")


PROBLEMS = (weights, resume)
