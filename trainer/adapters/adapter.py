"""What all adapter types share: the walk over the model, freezing, files to go on from, saving, loading, dropouts.

A type is a subclass in a file of its own; it says how peft makes it (`peft_config`), which tensors the file holds for a
layer (`weights`), what a new one starts with (`initialise`) and what it adds to the layer's weight (`delta`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.adapters import ADAPTERS
from trainer.adapters.start import Size, Start, check_sizes, read_start
from trainer.adapters.walk import Target, targets
from trainer.report import Failure

if TYPE_CHECKING:
    from peft import PeftConfig

    from trainer.models import Model
    from trainer.report import Reporter
    from trainer.settings import Settings

NAME = "default"
"""peft's name for the one adapter there is."""


@dataclass(frozen=True)
class Loaded:
    """Which keys of a file found their place in the adapter, and which did not."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class Adapter(ABC):
    """A trainable update on top of a frozen model.

    `unet_parameters` and `text_parameters` are what is trained: a part whose rate is 0 has none, but is in the file all
    the same, so that the file is complete for every program that reads it. `dim`, `alpha`, `conv_dim` and `conv_alpha`
    are what most layers have; `sizes` says it of each.
    """

    def __init__(self, model: "Model", sizes: Mapping[Target, Size], settings: "Settings") -> None:
        """Put a new adapter on `model`; its weights are float32 and drawn from `settings.seed`."""
        self.sizes = {target.name: size for target, size in sizes.items()}
        self.targets = {target.name: target for target in sizes}
        self.dim, self.alpha = _most_common([size for target, size in sizes.items() if not target.is_spatial])
        self.conv_dim, self.conv_alpha = _most_common([size for target, size in sizes.items() if target.is_spatial])
        self.training = True
        for root in dict.fromkeys(target.root for target in sizes):
            self._inject(root, {target.path: size for target, size in sizes.items() if target.root is root})
        self.layers = {name: target.root.get_submodule(target.path) for name, target in self.targets.items()}
        self._start_from_nothing(settings)
        self._choose_what_trains(settings)
        self._add_dropouts(settings)

    @classmethod
    def attach(cls, model: "Model", settings: "Settings", report: "Reporter") -> Self:
        """A new adapter, or one that goes on from `settings.network_weights`."""
        everything = targets(model, "conv_dim" in ADAPTERS[settings.LoRA_type].options)
        sizes: Mapping[Target, Size] = cls.sizes_of(everything, settings)
        if not settings.network_weights:
            return cls(model, sizes, settings)
        start = read_start(settings, model, everything, cls)
        if settings.dim_from_weights:
            sizes = start.sizes
        check_sizes(start, sizes)
        adapter = cls(model, sizes, settings)
        adapter._go_on_from(start, report)
        return adapter

    # What a type says about itself

    suffixes: frozenset[str]
    """The endings of its keys in a file, besides `alpha`."""

    @classmethod
    @abstractmethod
    def sizes_of(cls, everything: Sequence[Target], settings: "Settings") -> dict[Target, Size]:
        """Rank and alpha of each layer that `settings` ask for; a layer that is left alone is left out."""

    @classmethod
    @abstractmethod
    def size_in(cls, state: Mapping[str, Tensor], name: str) -> Size:
        """Rank and alpha of the layer `name` in a file's tensors."""

    @classmethod
    @abstractmethod
    def shape_in(cls, state: Mapping[str, Tensor], name: str) -> tuple[int, int] | None:
        """(outputs, inputs × kernel) of the layer that a file's tensors were made for; None if they contradict."""

    @abstractmethod
    def peft_config(self, sizes: Mapping[str, Size]) -> "PeftConfig":
        """peft's description of the adapter on one part of the model; `sizes` by module path."""

    @abstractmethod
    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """The trained tensors of a layer by their ending in the file; `name` is a Kohya name."""

    @abstractmethod
    def initialise(self, name: str, generator: torch.Generator) -> None:
        """Set the tensors of a layer to where training starts, with the model's output unchanged."""

    @abstractmethod
    def delta(self, name: str) -> Tensor:
        """What is added to the layer's weight, in its shape, float32."""

    @abstractmethod
    def inner(self, name: str) -> tuple[nn.Module, nn.Module]:
        """The modules whose outputs are the layer's rank-sized inner values and the update itself, for dropouts."""

    @abstractmethod
    def scale_norms(self, limit: float) -> list[Tensor]:
        """Shrink each layer's update to a norm of at most `limit`, without reading anything back from the device.

        Returns the norms before, in one tensor for each group of layers of the same shape.
        """

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

    def train(self, mode: bool = True) -> Self:
        """Switch the dropouts on (training) or off (sampling)."""
        self.training = mode
        return self

    def state_dict(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """What a file holds: every tensor and every alpha by Kohya's key names, as copies on the processor."""
        state = {}
        for name, size in self.sizes.items():
            for suffix, weight in self.weights(name).items():
                state[f"{name}.{suffix}"] = weight.detach().to("cpu", dtype, copy=True).contiguous()
            state[f"{name}.alpha"] = torch.tensor(size.alpha, dtype=dtype)
        return state

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> Loaded:
        """Take over the tensors of a file; raises `ValueError` when one has another shape, before anything changes."""
        own = {f"{name}.{suffix}": weight for name in self.sizes for suffix, weight in self.weights(name).items()}
        alphas = {f"{name}.alpha" for name in self.sizes}
        for key, weight in own.items():
            if key in state and state[key].numel() != weight.numel():
                raise ValueError(f"{key} is {list(state[key].shape)}, the adapter's is {list(weight.shape)}")
        for key, weight in own.items():
            if key in state:
                weight.copy_(state[key].view(weight.shape))
        expected = own.keys() | alphas
        return Loaded(
            matched=tuple(key for key in state if key in expected),
            missing=tuple(key for key in own if key not in state),
            unexpected=tuple(key for key in state if key not in expected),
        )

    # Making one

    def _inject(self, root: nn.Module, sizes: Mapping[str, Size]) -> None:
        from peft import inject_adapter_in_model

        with torch.random.fork_rng(devices=[]):  # peft draws weights that `initialise` replaces
            inject_adapter_in_model(self.peft_config(sizes), root, adapter_name=NAME)
        root.requires_grad_(False)

    def _start_from_nothing(self, settings: "Settings") -> None:
        generator = torch.Generator()
        generator.manual_seed(settings.seed) if settings.seed is not None else generator.seed()
        for name, layer in self.layers.items():
            layer._cast_input_dtype = partial(_cast_unless_autocast, layer._cast_input_dtype)
            for weight in self.weights(name).values():
                weight.data = weight.data.float()
            self.initialise(name, generator)

    def _choose_what_trains(self, settings: "Settings") -> None:
        unet, text = rates(settings)
        self.unet_parameters = self._thaw("unet") if unet else []
        self.text_parameters = self._thaw("text") if text else []
        if not self.unet_parameters and not self.text_parameters:
            raise Failure(
                "Nothing would be trained: the rates of U-Net and text encoder are both 0.",
                "Set Learning rate, Unet learning rate or Text Encoder learning rate.",
                key="learning_rate",
            )

    def _thaw(self, part: str) -> list[nn.Parameter]:
        names = [name for name, target in self.targets.items() if target.part == part]
        weights = [weight for name in names for weight in self.weights(name).values()]
        for weight in weights:
            weight.requires_grad_(True)
        return weights

    def _go_on_from(self, start: Start, report: "Reporter") -> None:
        loaded = self.load(start.state)
        fresh = len({key.split(".")[0] for key in loaded.missing})
        text = f"Goes on from {start.path.name}: {len(self.layers) - fresh} of {len(self.layers)} layers taken over"
        report.note(text + (f", {fresh} start from nothing." if fresh else "."), key="network_weights")

    # Dropouts

    def _add_dropouts(self, settings: "Settings") -> None:
        p, rank_p, module_p = settings.network_dropout, settings.rank_dropout, settings.module_dropout
        if not (p or rank_p or module_p):
            return
        for name in self.layers:
            down, up = self.inner(name)
            if p or rank_p:
                down.register_forward_hook(partial(self._drop_inner, p, rank_p))
            if module_p:
                up.register_forward_hook(partial(self._drop_module, module_p))

    def _drop_inner(self, p: float, rank_p: float, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Network dropout on each inner value, then rank dropout on each picture's ranks."""
        if not self.training:
            return output
        if p:
            output = F.dropout(output, p)
        if rank_p:
            ranks = output.shape[1] if output.ndim == 4 else output.shape[-1]
            kept = (torch.rand(output.shape[0], ranks, device=output.device) > rank_p) / (1 - rank_p)
            shape = (-1, ranks, 1, 1) if output.ndim == 4 else (-1, *(1,) * (output.ndim - 2), ranks)
            output = output * kept.to(output.dtype).view(shape)
        return output

    def _drop_module(self, p: float, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        # Drawn on the processor: no wait for the device. Checkpointing replays the draw.
        return torch.zeros_like(output) if self.training and torch.rand(()).item() < p else output


def _most_common(sizes: Sequence[Size]) -> tuple[int, float]:
    size = max(sizes, key=sizes.count, default=Size(0, 1.0))
    return size.rank, size.alpha


def rates(settings: "Settings") -> tuple[float, float]:
    """Learning rates of U-Net and text encoder; 0 means that this part is not trained."""
    unet, text = (
        settings.learning_rate if rate is None else rate for rate in (settings.unet_lr, settings.text_encoder_lr)
    )
    return unet, 0.0 if settings.stop_text_encoder_training == -1 else text


def _cast_unless_autocast(cast: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    """peft casts its input to float32; under autocast that would be undone at once, and cost memory."""
    return x if torch.is_autocast_enabled(x.device.type) else cast(x, dtype)
