"""An earlier LoRA file to go on from: read, and checked against model and settings before anything is built."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from trainer.adapters import ADAPTERS
from trainer.adapters.blocks import ALPHAS, CONV_ALPHAS, CONV_DIMS, DIMS, given, place_of
from trainer.adapters.walk import Target, targets, text_namer, unet_namer
from trainer.declare import by_name
from trainer.earlier import FOREIGN, KEY, type_of
from trainer.models import families
from trainer.models.families import FAMILY_NAMES
from trainer.models.headers import Broken, read_shapes
from trainer.models.identify import find
from trainer.models.tensors import read_tensors
from trainer.report import Failure
from trainer.settings import Settings

if TYPE_CHECKING:
    from trainer.adapters.adapter import Adapter
    from trainer.models import Model

Shapes = Iterable[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Size:
    """Rank and alpha of one layer's update; it counts alpha / rank times."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class Start:
    """The file's tensors by key, and rank and alpha of each layer it holds."""

    path: Path
    state: Mapping[str, Tensor]
    sizes: Mapping[Target, Size]


def label(key: str) -> str:
    """What the page calls a setting."""
    return by_name(Settings)[key].label


def read_start(settings: Settings, model: "Model", everything: Sequence[Target], kind: "type[Adapter]") -> Start:
    """The file in `settings.network_weights`, checked to fit; raises `Failure` with a sentence when it does not.

    `everything` is what the chosen LoRA type adapts, `kind` its class.
    """
    path, state = _read(settings.network_weights)
    own = kind.endings(settings, everything) | {"alpha"}
    foreign = [key for key in state if "." not in key or key.split(".", 1)[1] not in own]
    if foreign:
        raise _failure(f"{path.name} is {type_of(foreign)}, which {settings.LoRA_type} cannot go on from.", TYPE_ADVICE)
    known = {target.name: target for target in everything}
    names = list(dict.fromkeys(key.split(".", 1)[0] for key in state))
    strangers = [name for name in names if name not in known]
    if strangers:
        raise _strange(path, strangers, model, settings)
    endings: dict[str, set[str]] = {name: set() for name in names}
    for key in state:
        endings[key.split(".", 1)[0]].add(key.split(".", 1)[1])
    incomplete = [name for name in names if not kind.is_complete(endings[name], known[name])]
    if incomplete:
        raise _failure(f"{path.name} is incomplete: {incomplete[0]} lacks a part.", "Choose another file.")
    for name in names:
        _check_shape(path, known[name], kind.shape_in(state, known[name]), model)
    sizes = {known[name]: kind.size_in(state, known[name], settings) for name in names}
    ordered = {target: sizes[target] for target in everything if target in sizes}
    return Start(path, state, ordered)


TYPE_ADVICE = f"Choose a file of that type, or empty {label(KEY)}."


def _failure(reason: str, advice: str) -> Failure:
    return Failure(f"{label(KEY)}: {reason}", advice, key=KEY)


def _read(name: str) -> tuple[Path, dict[str, Tensor]]:
    path = find(name.strip().strip('"'))
    if path is None or not path.is_file():
        raise _failure(f"there is no file {name}.", f"Choose a file, or empty {label(KEY)}.")
    try:
        format, shapes = read_shapes(path)
        kind, what = families.of_file(shapes)
        if kind != "lora":
            called = FAMILY_NAMES.get(what, what)
            raise _failure(f"{path.name} is {called}, not a LoRA.", TYPE_ADVICE)
        return path, read_tensors(path, format)
    except (Broken, ValueError, OSError) as error:
        raise _failure(f"{path.name} {error}", f"Choose another file, or empty {label(KEY)}.") from error


def _strange(path: Path, names: Sequence[str], model: "Model", settings: Settings) -> Failure:
    """Why a file holds layers that the chosen type does not adapt."""
    if "LyCORIS_preset" in ADAPTERS[settings.LoRA_type].options and _all_names(model).issuperset(names):
        return _failure(
            f"{path.name} also holds layers that {label('LyCORIS_preset')} {settings.LyCORIS_preset} does not train.",
            f"Choose the preset that it was trained with; {names[0]} is such a layer.",
        )
    if {target.name for target in targets(model, convolutions=True)}.issuperset(names):
        return _failure(
            f"{path.name} also holds convolutions, which {settings.LoRA_type} does not train.",
            f"Set {label('LoRA_type')} to Kohya LoCon.",
        )
    own = FAMILY_NAMES[model.family]
    families = (
        family for start, family in FOREIGN if any(name.startswith(start) for name in names) and own not in family
    )
    made_for = next(families, "another model")
    return _failure(
        f"{path.name} was made for {made_for}: this model has no layer {names[0]}.",
        f"Choose a LoRA for {FAMILY_NAMES[model.family]}, or empty {label(KEY)}.",
    )


def _all_names(model: "Model") -> set[str]:
    """What the files call every layer that any preset could mean."""
    unet = unet_namer(model)
    names = {unet(path) for path, _ in model.unet.named_modules()}
    for number, encoder in enumerate(model.text_encoders):
        text = text_namer(model, number)
        names |= {text(path) for path, _ in encoder.named_modules()}
    return names


def _check_shape(path: Path, target: Target, found: tuple[int, int] | None, model: "Model") -> None:
    out, inner = target.layer.weight.shape[0], target.layer.weight[0].numel()
    if found == (out, inner):
        return
    if found is None:
        raise _failure(
            f"{path.name} is damaged or for another model: the parts of {target.name} do not fit together.", TYPE_ADVICE
        )
    raise _failure(
        f"{path.name} was made for another model: its {target.name} turns {found[1]} values into {found[0]}, "
        f"this model's turns {inner} into {out}.",
        f"Choose a LoRA for {FAMILY_NAMES[model.family]}, or empty {label(KEY)}.",
    )


def check_sizes(start: Start, sizes: Mapping[Target, Size], kind: "type[Adapter]", settings: Settings) -> None:
    """Raise `Failure` when the file's ranks, alphas or shapes are not those of the settings, which ask for `sizes`."""
    for target, size in start.sizes.items():
        rank, alpha = kind.size_keys(target)
        wanted = sizes.get(target)
        if wanted is None or wanted.rank != size.rank:
            key, found = rank, float(size.rank)
        # Files keep alpha in half precision: 0.3 comes back as 0.29998.
        elif abs(wanted.alpha - size.alpha) > 0.005 * size.alpha:
            key, found = alpha, round(size.alpha, 4)
        elif getattr(wanted, "shapes", ()) != getattr(size, "shapes", ()):
            raise _other_options(start.path, target, getattr(size, "shapes", ()), getattr(wanted, "shapes", ()))
        else:
            continue
        was, asked = (_shown(key, value) for value in (found, _set(wanted, key)))
        own = OF_BLOCKS.get(key, "")
        has_blocks = own in ADAPTERS[settings.LoRA_type].options
        asks = has_blocks and given(settings, own) and place_of(target.name)
        where = f" in {target.name}" if asks or (has_blocks and _varies(start, target)) else ""
        cure = f"or set {label(own)} as it was for that file." if where else f"or set {label(key)} to {was}."
        raise _failure(
            f"{start.path.name} was trained with {label(own if asks else key)} {was}{where}, and it is set to {asked}.",
            f"Tick {label('dim_from_weights')}, {cure}",
        )


OF_BLOCKS = {"network_dim": DIMS, "network_alpha": ALPHAS, "conv_dim": CONV_DIMS, "conv_alpha": CONV_ALPHAS}
"""What says the same of each block."""


def _varies(start: Start, target: Target) -> bool:
    """Whether layers of the target's kind differ in rank or alpha, as blocks with sizes of their own do."""
    alike = {(size.rank, size.alpha) for other, size in start.sizes.items() if other.is_spatial == target.is_spatial}
    return len(alike) > 1


OPTIONS = (
    ("dora_scale", "dora_wd"), ("lora_mid", "use_tucker"), ("hada_t", "use_tucker"), ("lokr_t2", "use_tucker"),
    ("rescale", "rescaled"), ("lokr_w1_", "decompose_both"), ("lokr_", "factor"),
)  # fmt: skip
"""Beginnings of key endings that a file has or lacks, and the settings that decide it."""


def _other_options(path: Path, target: Target, found: Shapes, wanted: Shapes) -> Failure:
    different = dict(found).items() ^ dict(wanted).items()
    words = [key for start, key in OPTIONS if any(ending.startswith(start) for ending, _ in different)]
    keys = words[:1] or ["LoRA_type"]
    return _failure(
        f"{path.name} was trained with another value of {label(keys[0])}: the tensors of its {target.name} are others.",
        f"Tick {label('dim_from_weights')}, or change {label(keys[0])}.",
    )


def _shown(key: str, value: float) -> str:
    return ("on" if value else "off") if by_name(Settings)[key].type is bool else f"{value:g}"


def _set(wanted: Size | None, key: str) -> float:
    return 0 if wanted is None else wanted.rank if key.endswith("dim") else wanted.alpha
