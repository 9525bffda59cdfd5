"""The adapter that is trained."""

from typing import ClassVar

from trainer.adapters import ADAPTERS, types_with
from trainer.declare import Section, setting


class LoraType(Section):
    """What kind of adapter is trained, and where it starts from."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "LoRA"

    LoRA_type: str = setting(
        "Standard",
        "LoRA type",
        "What kind of update is learnt. Standard suits most; LoCon and LoHa styles; what each is stands below.",
        choices=ADAPTERS,
    )
    network_weights: str = setting(
        "", "LoRA network weights", "Optional. An earlier LoRA file to go on from.", kind="file", kohya=("lora_network_weights",), advanced=True
    )
    dim_from_weights: bool = setting(
        False, "DIM from weights", "Take rank and alpha from LoRA network weights instead of the fields below.", advanced=True
    )


class Network(Section):
    """The size of the adapter, and what keeps it from learning by heart."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Network"

    network_dim: int = setting(
        8, "Network Rank (Dimension)", "Size of the update: 8 to 32 is usual. More can hold more detail, makes a larger file, and overfits sooner.",
        ge=1, soft_max=512, when={"LoRA_type": types_with("network_dim"), "dim_from_weights": False},
    )  # fmt: skip
    network_alpha: float = setting(
        1.0, "Network Alpha", "Strength of the update: the rate is scaled by alpha / rank. Equal to the rank is strong, 1 is careful.",
        gt=0, soft_max=1024, when={"LoRA_type": types_with("network_alpha"), "dim_from_weights": False},
    )  # fmt: skip
    conv_dim: int = setting(
        1, "Convolution Rank (Dimension)", "Size of the update of 3x3 convolutions; half of Network Rank is usual. 0 leaves them alone.",
        ge=0, soft_max=512, when={"LoRA_type": types_with("conv_dim"), "dim_from_weights": False},
    )  # fmt: skip
    conv_alpha: float = setting(
        1.0, "Convolution Alpha", "Strength of the convolutions' update, as Network Alpha is for the others; half of their rank is usual.",
        gt=0, soft_max=512, when={"LoRA_type": types_with("conv_alpha"), "dim_from_weights": False},
    )  # fmt: skip
    scale_weight_norms: float = setting(
        0.0, "Scale weight norms", "Upper limit for the size of each layer's update; 1 keeps a LoRA mixable with others. 0 = no limit.",
        ge=0, soft_max=10, step=0.01, advanced=True, when={"LoRA_type": types_with("scale_weight_norms")},
    )  # fmt: skip
    network_dropout: float = setting(
        0.0, "Network dropout", "Share of the update's inner values set to zero at each step; 0.1 to 0.5 against overfitting.",
        ge=0, lt=1, step=0.01, advanced=True, when={"LoRA_type": types_with("network_dropout")},
    )  # fmt: skip
    rank_dropout: float = setting(
        0.0, "Rank dropout", "Share of ranks left out for each picture; 0.1 to 0.3 against overfitting.",
        ge=0, lt=1, step=0.01, advanced=True, when={"LoRA_type": types_with("rank_dropout")},
    )  # fmt: skip
    module_dropout: float = setting(
        0.0, "Module dropout", "Share of layers whose update is left out at each step; 0.1 to 0.3 against overfitting.",
        ge=0, lt=1, step=0.01, advanced=True, when={"LoRA_type": types_with("module_dropout")},
    )  # fmt: skip
