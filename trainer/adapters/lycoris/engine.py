"""Puts the LyCORIS types on a model, reads and writes their files."""

import importlib
import math
from collections.abc import Mapping, Sequence, Set
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from trainer.adapters import ADAPTERS
from trainer.adapters.adapter import Adapter
from trainer.adapters.lycoris import ALGORITHMS
from trainer.adapters.lycoris.chosen import Chosen, chosen
from trainer.adapters.lycoris.presets import find_preset
from trainer.adapters.lycoris.update import Plan, Update, is_complete
from trainer.adapters.start import Size, label
from trainer.adapters.walk import Target, targets
from trainer.declare import settings_of
from trainer.report import Failure
from trainer.settings import Settings
from trainer.settings.lycoris import Lycoris as Options
from trainer.settings.network import Network

if TYPE_CHECKING:
    from trainer.models import Model

PRESET = "LyCORIS_preset"


@cache
def update_class(algo: str) -> type[Update]:
    """The class of an algorithm; see `ALGORITHMS`."""
    module, name = ALGORITHMS[algo].split(".")
    kind: type[Update] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return kind


def meant(settings: Settings) -> Settings:
    """The settings with those that mean nothing to the LoRA type at their defaults."""
    options = ADAPTERS[settings.LoRA_type].options
    others = [item for item in settings_of(Options) if item.name not in options] + [
        item for item in settings_of(Network) if item.name.endswith("dropout") and item.name not in options
    ]
    return settings.changed(**{item.name: item.default for item in others})


class Lycoris(Adapter):
    """An adapter whose layers are this package's. What it does to a layer says the layer's `Update`."""

    updates: dict[str, Update]

    @classmethod
    def targets_of(cls, model: "Model", settings: Settings) -> list[Target]:
        """The layers of the LyCORIS preset; without one, those of a LoRA, or of a LoCon with a convolution rank."""
        row, s = ADAPTERS[settings.LoRA_type], meant(settings)
        if PRESET not in row.options:
            plain = targets(model, convolutions=s.conv_dim > 0 or s.dim_from_weights)
            return [Chosen(t.name, t.part, t.path, t.root, t.layer, t.encoder, row.algo, s) for t in plain]
        try:
            found: list[Target] = list(chosen(model, find_preset(s.LyCORIS_preset), row.algo, s))
        except ValueError as error:
            raise Failure(f"{label(PRESET)}: {error}", "Choose a preset or correct the file.", PRESET) from error
        if not found:
            reason = f"{label(PRESET)}: {settings.LyCORIS_preset} means no layer of this model."
            raise Failure(reason, "Choose another preset or correct the file.", PRESET)
        return found

    @classmethod
    def sizes_of(cls, everything: Sequence[Target], settings: Settings) -> dict[Target, Size]:
        """The plan of each layer; where a type cannot go on a layer of the model it is said why."""
        plans = {
            target: update_class(_algo(target)).plan_for(_algo(target), target.layer, _own(target))
            for target in everything
        }
        if not settings.dim_from_weights:
            _check_fit(plans)
        return {target: plan for target, plan in plans.items() if plan is not None}

    # Files

    @classmethod
    def endings(cls, settings: Settings, everything: Sequence[Target]) -> Set[str]:
        """Those of every algorithm that the preset uses, and those of norms."""
        algos = {_algo(target) for target in everything} | {"norm"}
        return {ending for algo in algos for ending in update_class(algo).suffixes}

    @classmethod
    def is_complete(cls, endings: Set[str], target: Target) -> bool:
        """Whether a file's tensors for a layer are all there."""
        return is_complete(update_class(_algo(target)), endings)

    @classmethod
    def size_in(cls, state: Mapping[str, Tensor], target: Target, settings: Settings) -> Plan:
        """Rank, alpha and shapes in a file; without an alpha the update counts once."""
        kind, algo = update_class(_algo(target)), _algo(target)
        shapes = {
            ending: tuple(state[f"{target.name}.{ending}"].shape)
            for ending in kind.suffixes
            if f"{target.name}.{ending}" in state and ending not in CONSTANTS
        }
        given = next((state[f"{target.name}.{word}"] for word in CONSTANTS if f"{target.name}.{word}" in state), None)
        rank = kind.rank_of(shapes, 1.0 if given is None else float(given), target.layer)
        alpha = kind.alpha_if_missing(rank) if given is None else float(given)
        return Plan(rank, alpha, algo, tuple(shapes.items()))

    @classmethod
    def shape_in(cls, state: Mapping[str, Tensor], target: Target) -> tuple[int, int] | None:
        """The layer's own shape if the tensors can be put together to a change of it, else None."""
        plan, weight = cls.size_in(state, target, _own(target)), target.layer.weight
        fits = _fits(plan, tuple(weight.shape))
        return (weight.shape[0], weight[0].numel()) if fits else None

    @classmethod
    def size_keys(cls, target: Target) -> tuple[str, str]:
        """Which settings rank and alpha of a layer come from."""
        rank, alpha = super().size_keys(target)
        return rank, {"diag-oft": "constrain", "ia3": "train_on_input"}.get(_algo(target), alpha)

    # One layer

    def _put_on(self, root: nn.Module, sizes: Mapping[Target, Size], settings: Settings) -> None:
        self.updates = getattr(self, "updates", {})
        for target, size in sizes.items():
            assert isinstance(size, Plan)
            update = update_class(size.algo)(target.layer, size, _own(target))
            update.put_on()
            self.updates[target.name] = update

    def _add_dropouts(self, settings: Settings) -> None:
        """Each update has its own."""

    def train(self, mode: bool = True) -> Self:
        """Switch what is random on (training) or off (sampling)."""
        for update in self.updates.values():
            update.learning = mode
        return super().train(mode)

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """The trained tensors of a layer by their ending in the file."""
        return self.updates[name].weights()

    def trained(self, name: str) -> dict[str, nn.Parameter]:
        """The same and the scalar, which is multiplied into one of them in the file."""
        return self.updates[name].trained()

    def learns(self, name: str) -> dict[str, list[nn.Parameter]]:
        """What the optimizer moves of a layer."""
        return self.updates[name].learns()

    def is_plus(self, name: str, ending: str) -> bool:
        """Whether LoRA+ gives it a higher rate."""
        return ending in self.updates[name].plus

    @property
    def rests(self) -> bool:
        """Whether some of what is trained has no gradient in some steps."""
        return super().rests or any(update.rests for update in self.updates.values())

    def in_file(self, name: str) -> dict[str, Tensor]:
        """The tensors as readers expect them."""
        return self.updates[name].in_file()

    def constants(self, name: str) -> dict[str, float]:
        """Alpha, or what a type has in its place."""
        update = self.updates[name]
        return update.constants(update.plan)

    def initialise(self, name: str, generator: torch.Generator) -> None:
        """Set the tensors of a layer to where training starts."""
        self.updates[name].initialise(generator)

    @torch.no_grad()
    def delta(self, name: str) -> Tensor:
        """What is added to the layer's weight."""
        return self.updates[name].delta()

    @torch.no_grad()
    def bias_delta(self, name: str) -> Tensor | None:
        """What is added to the layer's bias."""
        return self.updates[name].diff_bias()

    def scale_norms(self, limit: float) -> list[Tensor]:
        """Shrink each update to a norm of at most `limit`; types that are no product of factors are left alone."""
        return [update.shrink(limit).view(1) for update in self.updates.values() if update.factors]


CONSTANTS = ("alpha", "on_input")
PER_OUTPUT = ("dora_scale", "rescale", "diff_b", "w_norm", "b_norm")
"""Endings of tensors with a value for each output."""


@cache
def _fits(plan: Plan, weight: tuple[int, ...]) -> bool:
    """Whether tensors of these shapes make a change of a weight: found out by making one, of zeros."""
    if any(math.prod(shape) != weight[0] for ending, shape in plan.shapes if ending in PER_OUTPUT):
        return False
    W = torch.zeros(weight)
    layer: Any = SimpleNamespace(weight=W, bias=None, forward=None)
    try:
        update = update_class(plan.algo)(layer, plan, Settings(), device="cpu")
        return update.diff(W).shape == W.shape
    except (RuntimeError, ValueError, KeyError, IndexError, ZeroDivisionError):
        return False


def _algo(target: Target) -> str:
    assert isinstance(target, Chosen)
    return target.algo


def _own(target: Target) -> Any:
    assert isinstance(target, Chosen)
    return target.s


def _check_fit(plans: Mapping[Target, Plan | None]) -> None:
    """Raise `Failure` when a setting is impossible for the layers of this model."""
    from trainer.adapters.lycoris.limits import complaints

    widths: dict[tuple[str, Any], list[tuple[int, int, bool]]] = {}
    for target in plans:
        if not isinstance(target.layer, nn.LayerNorm | nn.GroupNorm):
            out, inner = target.layer.weight.shape[:2]
            widths.setdefault((_algo(target), id(_own(target))), []).append((out, inner, target.is_spatial))
    settings = {id(_own(target)): _own(target) for target in plans}
    for (algo, key), layers in widths.items():
        for found in complaints(algo, settings[key], layers):
            name = label(found.key)
            raise Failure(f"{name}: {found.message}", f"Set {name} to {found.possible}.", found.key)
