"""What all adapter types share: freezing, what is trained, files to go on from, saving, loading, merging.

A type is a subclass in a file of its own; it says which tensors the file holds for a layer (`weights`), what a new one
starts with (`initialise`) and what it adds to the layer's weight (`delta`). The LoRA family is put on the model by peft
(`injected.py`), all others by an engine of our own (`lycoris/engine.py`).
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from trainer.adapters import ADAPTERS
from trainer.adapters.blocks import LAYOUTS, Blocks, Layout, blocks_of
from trainer.adapters.start import Size, Start, check_sizes, label, read_start
from trainer.adapters.walk import Target, targets
from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.models import Model
    from trainer.report import Reporter
    from trainer.settings import Settings


@dataclass(frozen=True)
class Group:
    """Parameters that learn at one rate: that of their `part` ("unet" or "text") times `scale`."""

    name: str
    part: str
    parameters: list[nn.Parameter]
    scale: float


@dataclass(frozen=True)
class Loaded:
    """Which keys of a file found their place in the adapter, and which did not."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class Adapter(ABC):
    """A trainable update on top of a frozen model.

    `unet_parameters` and `text_parameters` are what is trained. A part whose rate is 0 has none and is not in the file
    either, unless the file to go on from holds it: then it stays as it is there. `dim`, `alpha`, `conv_dim` and
    `conv_alpha` are what most layers have; `sizes` says it of each.
    """

    def __init__(self, model: "Model", sizes: Mapping[Target, Size], settings: "Settings") -> None:
        """Put a new adapter on `model`; its weights are float32 and drawn from `settings.seed`."""
        self.sizes = {target.name: size for target, size in sizes.items()}
        self.targets = {target.name: target for target in sizes}
        self.dim, self.alpha = _most_common([size for target, size in sizes.items() if not target.is_spatial])
        self.conv_dim, self.conv_alpha = _most_common([size for target, size in sizes.items() if target.is_spatial])
        self.training = True
        self._blocks = blocks(settings, LAYOUTS[model.family])
        for root in dict.fromkeys(target.root for target in sizes):
            self._put_on(root, {target: size for target, size in sizes.items() if target.root is root}, settings)
        for root in (model.unet, *model.text_encoders):
            root.requires_grad_(False)
        self.layers = {name: target.root.get_submodule(target.path) for name, target in self.targets.items()}
        self._start_from_nothing(settings)
        self._choose_what_trains(settings)
        self._add_dropouts(settings)

    @classmethod
    def attach(cls, model: "Model", settings: "Settings", report: "Reporter") -> Self:
        """A new adapter, or one that goes on from `settings.network_weights`."""
        everything = cls.targets_of(model, settings)
        sizes: Mapping[Target, Size] = cls.sizes_of(everything, settings)
        parts = {part for part, rate in zip(("unet", "text"), rates(settings), strict=True) if rate}
        if not settings.network_weights:
            return cls(model, _of(sizes, parts), settings)
        start = read_start(settings, model, everything, cls)
        sizes = start.sizes if settings.dim_from_weights else _of(sizes, parts | {t.part for t in start.sizes})
        check_sizes(start, sizes, cls, settings)
        adapter = cls(model, sizes, settings)
        adapter._go_on_from(start, report)
        return adapter

    # What a type says about itself

    suffixes: frozenset[str]
    """The endings of its keys in a file, besides `alpha`."""

    plus_suffixes: Set[str] = frozenset()
    """Those of the tensors that start at zero, which LoRA+ gives a higher rate (Hayou et al. 2024)."""

    frozen_suffixes: Set[str] = frozenset()
    """Those of tensors that stay as they start."""

    @classmethod
    def targets_of(cls, model: "Model", settings: "Settings") -> list[Target]:
        """The layers this type can adapt, in the order of the file."""
        return targets(model, "conv_dim" in ADAPTERS[settings.LoRA_type].options)

    @classmethod
    def endings(cls, settings: "Settings", everything: Sequence[Target]) -> Set[str]:
        """The endings that keys of a file may have, besides `alpha`."""
        return cls.suffixes

    @classmethod
    @abstractmethod
    def sizes_of(cls, everything: Sequence[Target], settings: "Settings") -> dict[Target, Size]:
        """Rank and alpha of each layer that `settings` ask for; a layer that is left alone is left out."""

    @classmethod
    def is_complete(cls, endings: Set[str], target: Target) -> bool:
        """Whether a file's tensors for a layer, by the endings of their keys, are all there."""
        return endings >= cls.suffixes

    @classmethod
    @abstractmethod
    def size_in(cls, state: Mapping[str, Tensor], target: Target, settings: "Settings") -> Size:
        """Rank and alpha of a layer in a file's tensors."""

    @classmethod
    def size_keys(cls, target: Target) -> tuple[str, str]:
        """The settings that rank and alpha of a layer come from."""
        return ("conv_dim", "conv_alpha") if target.is_spatial else ("network_dim", "network_alpha")

    @classmethod
    @abstractmethod
    def shape_in(cls, state: Mapping[str, Tensor], target: Target) -> tuple[int, int] | None:
        """(outputs, inputs × kernel) of the layer that a file's tensors were made for; None if they contradict."""

    @abstractmethod
    def _put_on(self, root: nn.Module, sizes: Mapping[Target, Size], settings: "Settings") -> None:
        """Give the layers of one part of the model their trainable tensors, of float32."""

    @abstractmethod
    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """The trained tensors of a layer by their ending in the file; `name` is a Kohya name."""

    @abstractmethod
    def initialise(self, name: str, generator: torch.Generator) -> None:
        """Set the tensors of a layer to where training starts, with the model's output unchanged."""

    @abstractmethod
    def delta(self, name: str) -> Tensor:
        """What is added to the layer's weight, in its shape, float32."""

    def bias_delta(self, name: str) -> Tensor | None:
        """What is added to the layer's bias, float32; most types leave it alone."""
        return None

    @abstractmethod
    def scale_norms(self, limit: float) -> list[Tensor]:
        """Shrink each layer's update to a norm of at most `limit`, without reading anything back from the device.

        Returns the norms before, in one tensor for each group of layers of the same shape.
        """

    def trained(self, name: str) -> dict[str, nn.Parameter]:
        """Everything that is trained of a layer; what is not in `weights` is folded into it when a file is written."""
        return self.weights(name)

    def learns(self, name: str) -> dict[str, list[nn.Parameter]]:
        """What the optimizer moves of a layer, by the ending of the tensor it is, or is a part of."""
        trained = self.trained(name).items()
        return {suffix: [weight] for suffix, weight in trained if suffix not in self.frozen_suffixes}

    def is_plus(self, name: str, ending: str) -> bool:
        """Whether a tensor of a layer is one of those that LoRA+ gives a higher rate."""
        return ending in self.plus_suffixes

    def constants(self, name: str) -> dict[str, float]:
        """Single numbers that the file holds for a layer beside its tensors, by their ending."""
        return {"alpha": self.sizes[name].alpha}

    def in_file(self, name: str) -> dict[str, Tensor]:
        """A layer's tensors as the file holds them."""
        return dict(self.weights(name))

    @abstractmethod
    def _add_dropouts(self, settings: "Settings") -> None:
        """Arrange for network, rank and module dropout, which work only while `training`."""

    # What all share

    @property
    def modules(self) -> dict[str, str]:
        """Kohya name of each adapted layer by its path, such as "unet.mid_block.attentions.0.proj_in"."""
        return {f"{target.part}.{target.path}": name for name, target in self.targets.items()}

    @property
    def trains_unet(self) -> bool:
        """Whether the U-Net's part is trained."""
        return bool(self.unet_parameters)

    @property
    def trains_text(self) -> bool:
        """Whether the text encoder's part is trained."""
        return bool(self.text_parameters)

    @property
    def rests(self) -> bool:
        """Whether some of what is trained has no gradient in some steps, and must then stay where it is."""
        return self._drops_modules

    def groups(self) -> list[Group]:
        """What is trained, by the rate it learns at: by part, by block if blocks have rates, LoRA+ apart."""
        found: dict[tuple[str, int, bool], list[nn.Parameter]] = defaultdict(list)
        scales: dict[tuple[str, int, bool], float] = {}
        for name, target in self.targets.items():
            for ending, weights in self.learns(name).items():
                plus = self._plus[target.part] != 1 and self.is_plus(name, ending)
                key = target.part, self._blocks.index(name), plus
                found[key] += [weight for weight in weights if weight.requires_grad]
                scales[key] = self._blocks.rate(name) * (self._plus[target.part] if plus else 1.0)
        in_order = sorted((key for key in found if found[key]), key=lambda key: (key[0] != "unet", *key[1:]))
        return [Group(self._called(*key), key[0], found[key], scales[key]) for key in in_order]

    def _called(self, part: str, block: int, plus: bool) -> str:
        words = {"unet": "unet", "text": "textencoder"}[part], self._blocks.layout.called(block) if block >= 0 else ""
        return " ".join(filter(None, (*words, "plus" if plus else "")))

    def train(self, mode: bool = True) -> Self:
        """Switch the dropouts on (training) or off (sampling)."""
        self.training = mode
        return self

    def state_dict(self, dtype: torch.dtype = torch.float32, whole: bool = False) -> dict[str, Tensor]:
        """What a file holds: every tensor and every alpha by Kohya's key names, as copies on the processor.

        With `whole` it is what a training state holds: the tensors as they are trained, to go on from bit for bit.
        """
        state = {}
        for name in self.sizes:
            for suffix, weight in (self.trained(name) if whole else self.in_file(name)).items():
                state[f"{name}.{suffix}"] = weight.detach().to("cpu", dtype, copy=True).contiguous()
            for suffix, value in self.constants(name).items():
                state[f"{name}.{suffix}"] = torch.tensor(value, dtype=dtype)
        return state

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> Loaded:
        """Take over the tensors of a file; raises `ValueError` when one has another shape, before anything changes.

        What is trained but never in a file is 1 afterwards, unless `state` is a training state's.
        """
        own = {f"{name}.{suffix}": weight for name in self.sizes for suffix, weight in self.trained(name).items()}
        folded = own.keys() - {f"{name}.{suffix}" for name in self.sizes for suffix in self.weights(name)}
        constants = {f"{name}.{suffix}" for name in self.sizes for suffix in self.constants(name)}
        for key, weight in own.items():
            if key in state and state[key].numel() != weight.numel():
                raise ValueError(f"{key} is {list(state[key].shape)}, the adapter's is {list(weight.shape)}")
        names = {key.split(".", 1)[0] for key in state}
        for key, weight in own.items():
            if key in state:
                weight.copy_(state[key].view(weight.shape))
            elif key in folded and key.split(".", 1)[0] in names:
                weight.fill_(1)
        expected = own.keys() | constants
        return Loaded(
            matched=tuple(key for key in state if key in expected),
            missing=tuple(key for key in own if key not in state and key not in folded),
            unexpected=tuple(key for key in state if key not in expected),
        )

    @torch.no_grad()
    def merged(self, name: str) -> Tensor:
        """The layer's weight with the update in it, float32, in the layer's shape."""
        return self.targets[name].layer.weight.float() + self.delta(name)

    @torch.no_grad()
    def merge_into(self, model: "Model") -> None:
        """Add the update to the weights of `model`, a plain one of the same kind, which then draws what this one does.

        Raises `ValueError` when a layer is missing or has another shape, before anything changes.
        """
        parts = {"unet": [model.unet], "text": list(model.text_encoders)}
        roots = {part: list(dict.fromkeys(t.root for t in self.targets.values() if t.part == part)) for part in parts}
        places = {}
        for name, target in self.targets.items():
            place = parts[target.part][_position(target, roots[target.part])]
            try:
                places[name] = place.get_submodule(target.path)
            except AttributeError:
                raise ValueError(f"the model has no layer {target.path}") from None
            if places[name].weight.shape != target.layer.weight.shape:
                raise ValueError(f"{target.path} is {list(places[name].weight.shape)} there")
        for name, layer in places.items():
            layer.weight += self.delta(name).to(layer.weight)
            bias = self.bias_delta(name)
            if bias is not None:
                layer.bias += bias.to(layer.bias)

    # Making one

    def _start_from_nothing(self, settings: "Settings") -> None:
        generator = torch.Generator()
        generator.manual_seed(settings.seed) if settings.seed is not None else generator.seed()
        for name in self.layers:
            self.initialise(name, generator)

    def _choose_what_trains(self, settings: "Settings") -> None:
        unet, text = rates(settings)
        self._plus = plus_ratios(settings)
        self._drops_modules = bool(settings.module_dropout) and "module_dropout" in ADAPTERS[settings.LoRA_type].options
        self.unet_parameters = self._thaw("unet") if unet else []
        self.text_parameters = self._thaw("text") if text else []
        if not self.unet_parameters and not self.text_parameters:
            raise Failure(
                "Nothing would be trained: the rates of U-Net and text encoder are both 0, or those of all blocks.",
                "Set Learning rate, Unet learning rate or Text Encoder learning rate.",
                key="learning_rate",
            )

    def _thaw(self, part: str) -> list[nn.Parameter]:
        names = [name for name, target in self.targets.items() if target.part == part and self._blocks.rate(name)]
        weights = [weight for name in names for some in self.learns(name).values() for weight in some]
        for weight in weights:
            weight.requires_grad_(True)
        return weights

    def _go_on_from(self, start: Start, report: "Reporter") -> None:
        loaded = self.load(start.state)
        fresh = len({key.split(".")[0] for key in loaded.missing})
        text = f"Goes on from {start.path.name}: {len(self.layers) - fresh} of {len(self.layers)} layers taken over"
        report.note(text + (f", {fresh} start from nothing." if fresh else "."), key="network_weights")


def _position(target: Target, roots: Sequence[nn.Module]) -> int:
    """Which of several text encoders a layer is in."""
    encoder = getattr(target, "encoder", None)
    return encoder if encoder is not None and target.part == "text" else roots.index(target.root)


def _of(sizes: Mapping[Target, Size], parts: Set[str]) -> dict[Target, Size]:
    """The layers of these parts of the model."""
    return {target: size for target, size in sizes.items() if target.part in parts}


def _most_common(sizes: Sequence[Size]) -> tuple[int, float]:
    ranked = [(size.rank, size.alpha) for size in sizes if size.rank]
    return max(ranked, key=ranked.count, default=(0, 1.0))


def rates(settings: "Settings") -> tuple[float, float]:
    """Learning rates of U-Net and text encoder; 0 means that this part is not trained."""
    unet, text = (
        settings.learning_rate if rate is None else rate for rate in (settings.unet_lr, settings.text_encoder_lr)
    )
    return unet, 0.0 if settings.stop_text_encoder_training == -1 else text


def blocks(settings: "Settings", layout: Layout) -> Blocks:
    """What the settings say of each block; raises `Failure` with a sentence when it cannot be used."""
    try:
        return blocks_of(settings, layout)
    except ValueError as error:
        key, message = error.args
        raise Failure(f"{label(key)}: {message}", "Correct or empty it.", key) from None


def plus_ratios(settings: "Settings") -> dict[str, float]:
    """How much faster each part's LoRA+ tensors learn than the others: its own ratio, else that for both; 1 if none."""
    if "loraplus_lr_ratio" not in ADAPTERS[settings.LoRA_type].options:
        return {"unet": 1.0, "text": 1.0}
    own = {"unet": settings.loraplus_unet_lr_ratio, "text": settings.loraplus_text_encoder_lr_ratio}
    return {part: ratio or settings.loraplus_lr_ratio or 1.0 for part, ratio in own.items()}
