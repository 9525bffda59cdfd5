"""The table of adapter types, and `attach`, which puts one on a model; nothing here loads torch at import."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.registry import Registry

if TYPE_CHECKING:
    from trainer.adapters.adapter import Adapter
    from trainer.models import Model
    from trainer.report import Reporter
    from trainer.settings import Settings


@dataclass(frozen=True)
class AdapterType:
    """A row: the class that implements it, what the saved file calls it, and whether 3x3 convolutions are trained."""

    path: str
    network_module: str
    convolutions: bool = False


ADAPTERS = Registry(
    "LoRA type",
    {
        "Standard": AdapterType("trainer.adapters.lora.LoRA", "networks.lora"),
        "Kohya LoCon": AdapterType("trainer.adapters.lora.LoRA", "networks.lora", convolutions=True),
    },
)
CONVOLUTIONAL = tuple(name for name, row in ADAPTERS.items() if row.convolutions)
"""Types with a rank and alpha of their own for convolutions."""


def attach(model: "Model", settings: "Settings", report: "Reporter") -> "Adapter":
    """Put the adapter that `settings.LoRA_type` names on U-Net and text encoder, in float32, and return it.

    It starts from nothing (the model's output is unchanged), or from the file in `settings.network_weights`. Raises
    `Failure` with a sentence when that file does not fit.
    """
    import importlib

    module, name = ADAPTERS[settings.LoRA_type].path.rsplit(".", 1)
    kind: type[Adapter] = getattr(importlib.import_module(module), name)
    return kind.attach(model, settings, report)
