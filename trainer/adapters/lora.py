"""LoRA (Hu et al. 2021) on attention layers, and LoCon: the same on convolutions.

y = W x + (alpha / rank) B A x, with A of kaiming-uniform weights and B of zeros at the start. On a convolution, A is a
convolution of the layer's own kernel with `rank` outputs, and B one of 1x1.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainer.adapters import ADAPTERS
from trainer.adapters.adapter import Adapter, blocks
from trainer.adapters.blocks import CONV_DIMS, given, layout_of
from trainer.adapters.injected import NAME, Injected
from trainer.adapters.start import Size
from trainer.adapters.walk import Target, targets

if TYPE_CHECKING:
    from peft import LoraConfig

    from trainer.models import Model
    from trainer.settings import Settings

DOWN, UP = "lora_down.weight", "lora_up.weight"


class LowRank(Adapter):
    """What the LoRA family shares: its files, its sizes, its formula."""

    suffixes = frozenset({DOWN, UP})
    plus_suffixes = frozenset({UP})

    @classmethod
    def targets_of(cls, model: "Model", settings: "Settings") -> list[Target]:
        """The attention layers, and what stands in resnets and samplers if convolutions are trained."""
        return targets(model, cls.trains_convolutions(settings))

    @classmethod
    def trains_convolutions(cls, settings: "Settings") -> bool:
        """Whether the layers of resnets and samplers are adapted: with a rank for them, or a file that says."""
        return bool(_conv_size(settings).rank or given(settings, CONV_DIMS) or settings.dim_from_weights)

    @classmethod
    def sizes_of(cls, everything: Sequence[Target], settings: "Settings") -> dict[Target, Size]:
        """Network rank and alpha for linear layers and 1x1 convolutions, convolution rank and alpha for larger ones.

        Blocks may have others; those that do not learn are left out.
        """
        of_blocks = blocks(settings, layout_of(target.name for target in everything))
        linear, spatial = Size(settings.network_dim, settings.network_alpha), _conv_size(settings)
        usual = {target: spatial if target.is_spatial else linear for target in everything}
        sizes = {
            target: Size(*of_blocks.size(target.name, target.is_spatial, size.rank, size.alpha))
            for target, size in usual.items()
        }
        return {target: size for target, size in sizes.items() if size.rank > 0}

    @classmethod
    def size_in(cls, state: Mapping[str, Tensor], target: Target, settings: "Settings") -> Size:
        """The rank is the number of A's outputs; without an alpha it counts once."""
        rank = state[f"{target.name}.{DOWN}"].shape[0]
        return Size(rank, float(state.get(f"{target.name}.alpha", rank)))

    @classmethod
    def shape_in(cls, state: Mapping[str, Tensor], target: Target) -> tuple[int, int] | None:
        """B's outputs and A's inputs, if both have one rank."""
        down, up = state[f"{target.name}.{DOWN}"], state[f"{target.name}.{UP}"]
        if down.ndim not in (2, 4) or up.ndim not in (2, 4) or not down.numel() or up[0].numel() != down.shape[0]:
            return None
        return up.shape[0], down[0].numel()

    def initialise(self, name: str, generator: torch.Generator) -> None:
        """A as `start_of_down` draws it on the processor, so that every device starts alike; B zero."""
        weights = self.weights(name)
        with torch.no_grad():
            weights[DOWN].copy_(self.start_of_down(weights[DOWN].shape, generator))
            weights[UP].zero_()

    def start_of_down(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Kaiming uniform with a = sqrt 5: uniform within 1 / sqrt(inputs × kernel)."""
        return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)

    @torch.no_grad()
    def delta(self, name: str) -> Tensor:
        """(alpha / rank) B A in the shape of the layer's weight."""
        weights, size = self.weights(name), self.sizes[name]
        down, up = weights[DOWN], weights[UP]
        product = up.flatten(1) @ down.flatten(1) * (size.alpha / size.rank)
        return product.view(up.shape[0], *down.shape[1:])

    @torch.no_grad()
    def scale_norms(self, limit: float) -> list[Tensor]:
        """Multiply A and B by sqrt(limit / n) wherever n = |(alpha / rank) B A| is larger than `limit`.

        |B A|² is the sum of (Bᵀ B) ∘ (A Aᵀ), rank by rank: the update itself is never formed. Layers of one shape are
        done together and nothing is read back from the device.
        """
        groups: dict[tuple[torch.Size, torch.Size, Size], list[str]] = defaultdict(list)
        for name, size in self.sizes.items():
            weights = self.weights(name)
            groups[weights[DOWN].shape, weights[UP].shape, size].append(name)
        norms = []
        for (*_, size), names in groups.items():
            down, up = ([self.weights(name)[key].data for name in names] for key in (DOWN, UP))
            A, B = torch.stack(down).flatten(2), torch.stack(up).flatten(2)
            squares = ((B.mT @ B) * (A @ A.mT)).sum((1, 2)).clamp(min=0)
            n = squares.sqrt() * (size.alpha / size.rank)
            root = list((limit / n.clamp(min=limit)).sqrt().unbind())
            torch._foreach_mul_(down, root)
            torch._foreach_mul_(up, root)
            norms.append(n)
        return norms


def _conv_size(settings: "Settings") -> Size:
    """Rank and alpha of larger convolutions; rank 0 for types that have none."""
    has_size = "conv_dim" in ADAPTERS[settings.LoRA_type].options
    return Size(settings.conv_dim, settings.conv_alpha) if has_size else Size(0, 1.0)


class LoRA(LowRank, Injected):
    """Low-rank updates of linear layers and convolutions."""

    @classmethod
    def trains_convolutions(cls, settings: "Settings") -> bool:
        """As in the reference, LoCon adapts what is not spatial in resnets even without a rank for convolutions."""
        return "conv_dim" in ADAPTERS[settings.LoRA_type].options or bool(given(settings, CONV_DIMS))

    def peft_config(self, sizes: Mapping[str, Size]) -> "LoraConfig":
        """A rank and alpha for each path; the pattern is the path itself."""
        from peft import LoraConfig

        common = max(set(sizes.values()), key=list(sizes.values()).count)
        others = {path.replace(".", r"\."): size for path, size in sizes.items() if size != common}
        return LoraConfig(
            r=common.rank,
            lora_alpha=common.alpha,
            target_modules=list(sizes),
            rank_pattern={path: size.rank for path, size in others.items()},
            alpha_pattern={path: size.alpha for path, size in others.items()},
        )

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """A and B."""
        down, up = self.inner(name)
        return {DOWN: down.weight, UP: up.weight}  # type: ignore[dict-item]

    def inner(self, name: str) -> tuple[nn.Module, nn.Module]:
        """A and B."""
        layer = self.layers[name]
        return layer.lora_A[NAME], layer.lora_B[NAME]
