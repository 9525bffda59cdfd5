"""The table of adapter types; nothing here loads torch."""

from dataclasses import dataclass

from trainer.registry import Registry


@dataclass(frozen=True)
class AdapterType:
    """A row: which module implements it, what the saved file calls it, and whether 3x3 convolutions are trained."""

    module: str
    network_module: str
    convolutions: bool = False


ADAPTERS = Registry(
    "LoRA type",
    {
        "Standard": AdapterType("trainer.adapters.lora", "networks.lora"),
        "Kohya LoCon": AdapterType("trainer.adapters.lora", "networks.lora", convolutions=True),
    },
)
CONVOLUTIONAL = tuple(name for name, row in ADAPTERS.items() if row.convolutions)
"""Types with a rank and alpha of their own for convolutions."""
