"""What the LyCORIS types and the Kohya types of the same methods have beside rank and alpha."""

from typing import ClassVar

from trainer.adapters import types_with
from trainer.adapters.lycoris.presets import PRESETS
from trainer.declare import Section, setting


class Lycoris(Section):
    """Options of LoHa, LoKr and the LyCORIS types; each is shown for the types that it means something to."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "LyCORIS"

    LyCORIS_preset: str = setting(
        "full", "LyCORIS Preset", "Which layers are trained: a name, or a .toml file of your own. full-lin leaves out 3x3 convolutions, attn-mlp all convolutions' blocks.",
        choices=PRESETS, custom=True, when={"LoRA_type": types_with("LyCORIS_preset")},
    )  # fmt: skip
    factor: int = setting(
        -1, "LoKr factor", "Size of the small matrix, where it divides the layer: the larger, the smaller the file. -1 splits as evenly as can be.",
        ge=-1, soft_max=64, when={"LoRA_type": types_with("factor")},
    )  # fmt: skip
    decompose_both: bool = setting(
        False, "LoKr decompose both", "Give the small matrix the rank too, where it is large enough: a smaller file.",
        advanced=True, when={"LoRA_type": types_with("decompose_both")},
    )  # fmt: skip
    use_cp: bool = setting(
        False, "Use CP decomposition", "Another word of LoKr for Use Tucker decomposition; one of them is enough.",
        advanced=True, when={"LoRA_type": types_with("use_cp")},
    )  # fmt: skip
    use_tucker: bool = setting(
        False, "Use Tucker decomposition", "3x3 convolutions get a small core of their own: a smaller file for the same rank.",
        advanced=True, when={"LoRA_type": types_with("use_tucker")},
    )  # fmt: skip
    dora_wd: bool = setting(
        False, "DoRA Weight Decompose", "Learn the length of each output's weights apart from their direction (DoRA): often better at low ranks, and slower.",
        when={"LoRA_type": types_with("dora_wd")},
    )  # fmt: skip
    use_scalar: bool = setting(
        False, "Use Scalar", "Start from random factors times a learned number that is 0 at first, instead of from one factor of zeros. Usually off.",
        advanced=True, when={"LoRA_type": types_with("use_scalar")},
    )  # fmt: skip
    bypass_mode: bool = setting(
        False, "Bypass mode", "Run the update beside the layer instead of adding it to the layer's weight: the same result, less memory for LoKr; rank dropout of LoCon then drops ranks, not outputs.",
        advanced=True, when={"LoRA_type": types_with("bypass_mode")},
    )  # fmt: skip
    train_norm: bool = setting(
        False, "Train Norm", "Train the normalisation layers in the chosen blocks too. Usually off.",
        advanced=True, when={"LoRA_type": types_with("train_norm")},
    )  # fmt: skip
    rank_dropout_scale: bool = setting(
        False, "Rank Dropout Scale", "With Rank dropout: raise what is left, so that its sum stays the same.",
        advanced=True, when={"LoRA_type": types_with("rank_dropout_scale")},
    )  # fmt: skip
    constrain: float = setting(
        0.0, "Constrain OFT", "How far each block may turn, as a share of the layer's outputs; 0.001 is usual (COFT). 0 = no limit.",
        ge=0, step=0.0001, advanced=True, when={"LoRA_type": types_with("constrain")},
    )  # fmt: skip
    rescaled: bool = setting(
        False, "Rescaled OFT", "Learn a factor for each output beside the rotation. LyCORIS reads it, ComfyUI leaves it out.",
        advanced=True, when={"LoRA_type": types_with("rescaled")},
    )  # fmt: skip
    train_on_input: bool = setting(
        True, "iA3 train on input", "One factor for each input of a layer instead of each output. Usually on.",
        when={"LoRA_type": types_with("train_on_input")},
    )  # fmt: skip
    unit: int = setting(
        1, "DyLoRA Unit / Block size", "How many ranks are learned together: 4 is usual, more leaves fewer sizes to choose from later. It must divide the rank.",
        ge=1, soft_max=64, when={"LoRA_type": types_with("unit")},
    )  # fmt: skip
