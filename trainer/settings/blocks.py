"""Ranks and rates of single blocks of the U-Net."""

from typing import ClassVar

from trainer.adapters import types_with
from trainer.declare import Section, setting

RATES = "One number a block, separated by commas; or cosine, sine, linear, reverse_linear or zeros, such as sine+0.25."
BLOCKS = "25 numbers for Stable Diffusion 1.5 and 2, 23 for XL"


class BlockRates(Section):
    """How fast each block of the U-Net learns, as a multiple of its rate. Empty: all alike."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Weights"

    down_lr_weight: str = setting(
        "", "Down LR weights", f"The 12 blocks on the way down (XL: 9). {RATES}",
        when={"LoRA_type": types_with("down_lr_weight")}, advanced=True,
    )  # fmt: skip
    mid_lr_weight: str = setting(
        "", "Mid LR weights", "The block in the middle (XL: 3), such as 0.5. 0 leaves it out.",
        when={"LoRA_type": types_with("mid_lr_weight")}, advanced=True,
    )  # fmt: skip
    up_lr_weight: str = setting(
        "", "Up LR weights", f"The 12 blocks on the way up (XL: 9). {RATES}",
        when={"LoRA_type": types_with("up_lr_weight")}, advanced=True,
    )  # fmt: skip
    block_lr_zero_threshold: str = setting(
        "", "Blocks LR zero threshold", "Blocks whose weight is at most this are not trained and not in the file. Empty: 0.",
        when={"LoRA_type": types_with("block_lr_zero_threshold")}, advanced=True,
    )  # fmt: skip


class BlockSizes(Section):
    """Rank and alpha of each block of the U-Net, where they differ. Empty: Network Rank and Network Alpha."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Blocks"

    block_dims: str = setting(
        "", "Block dims", f"The rank of each block: {BLOCKS}, separated by commas. 0 leaves a block out.",
        when={"LoRA_type": types_with("block_dims"), "dim_from_weights": False}, advanced=True,
    )  # fmt: skip
    block_alphas: str = setting(
        "", "Block alphas", f"The alpha of each block: {BLOCKS}. 0 is the block's rank.",
        when={"LoRA_type": types_with("block_alphas"), "dim_from_weights": False}, advanced=True,
    )  # fmt: skip


class ConvSizes(Section):
    """The same for 3x3 convolutions. Empty: Convolution Rank and Alpha, where the type has them."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Conv"

    conv_block_dims: str = setting(
        "", "Conv dims", f"The rank of the convolutions of each block: {BLOCKS}. 0 leaves them alone.",
        when={"LoRA_type": types_with("conv_block_dims"), "dim_from_weights": False}, advanced=True, kohya=("conv_dims",),
    )  # fmt: skip
    conv_block_alphas: str = setting(
        "", "Conv alphas", f"The alpha of the convolutions of each block: {BLOCKS}. 0 is their rank.",
        when={"LoRA_type": types_with("conv_block_alphas"), "dim_from_weights": False}, advanced=True,
        kohya=("conv_alphas",),
    )  # fmt: skip
