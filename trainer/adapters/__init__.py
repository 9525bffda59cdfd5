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
    """A row: the class that implements it, what the saved file calls it, and which settings mean something to it.

    `options` are names of settings, `readers` says which programs can use such a file.
    """

    path: str
    network_module: str
    options: frozenset[str]
    readers: str
    algo: str = ""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SIZE = _names("network_dim network_alpha network_weights dim_from_weights")
CONV = _names("conv_dim conv_alpha")
DROPOUTS = _names("network_dropout rank_dropout module_dropout")
BLOCKS = _names("down_lr_weight mid_lr_weight up_lr_weight block_lr_zero_threshold")
BLOCK_SIZES = _names("block_dims block_alphas")
CONV_BLOCK_SIZES = _names("conv_block_dims conv_block_alphas")
ALL_BLOCKS = BLOCKS | BLOCK_SIZES | CONV_BLOCK_SIZES
PLUS = _names("loraplus_lr_ratio loraplus_unet_lr_ratio loraplus_text_encoder_lr_ratio")
NORMS = _names("scale_weight_norms")

CHOICE = _names("LyCORIS_preset")
CORE = _names("use_tucker")
DORA = _names("bypass_mode dora_wd use_scalar rank_dropout_scale")
NORM_LAYERS = _names("train_norm")
ROTATION = (SIZE | CONV | DROPOUTS | NORM_LAYERS | _names("rank_dropout_scale")) - _names("network_alpha conv_alpha")

EVERYWHERE = "Every program that reads LoRA files can use it: ComfyUI, Forge, AUTOMATIC1111, diffusers and others."
NOT_DIFFUSERS = "ComfyUI, Forge and LyCORIS can use it; diffusers cannot."
TURNED = "ComfyUI and LyCORIS can use it; Forge and diffusers cannot."
WHOLE = "LyCORIS and ComfyUI can use it; diffusers cannot."
NOBODY = "No known program can use it; this one can go on from it."

KOHYA = "trainer.adapters"
ENGINE = "trainer.adapters.lycoris.engine.Lycoris"


def _lycoris(options: frozenset[str], readers: str, algo: str) -> AdapterType:
    return AdapterType(ENGINE, "lycoris.kohya", CHOICE | options, readers, algo)


ADAPTERS = Registry(
    "LoRA type",
    {
        "Standard": AdapterType(
            f"{KOHYA}.lora.LoRA", "networks.lora", SIZE | DROPOUTS | ALL_BLOCKS | PLUS | NORMS, EVERYWHERE
        ),
        "Kohya LoCon": AdapterType(
            f"{KOHYA}.lora.LoRA", "networks.lora", SIZE | CONV | DROPOUTS | ALL_BLOCKS | PLUS | NORMS, EVERYWHERE
        ),
        "LoRA-FA": AdapterType(
            f"{KOHYA}.lora_fa.LoRAFA", "networks.lora_fa", SIZE | CONV | DROPOUTS | ALL_BLOCKS | PLUS | NORMS,
            EVERYWHERE,
        ),
        "Kohya DyLoRA": AdapterType(
            f"{KOHYA}.dylora.DyLoRA", "networks.dylora", SIZE | CONV | ALL_BLOCKS | PLUS | NORMS | _names("unit"),
            EVERYWHERE,
        ),
        "Kohya LoHa": AdapterType(
            ENGINE, "networks.loha", SIZE | CONV | CORE | PLUS | _names("rank_dropout module_dropout"),
            NOT_DIFFUSERS, "loha",
        ),
        "Kohya LoKr": AdapterType(
            ENGINE, "networks.lokr", SIZE | CONV | CORE | PLUS | _names("factor rank_dropout module_dropout"),
            NOT_DIFFUSERS, "lokr",
        ),
        "LyCORIS/LoCon": _lycoris(
            SIZE | CONV | DROPOUTS | PLUS | NORMS | CORE | DORA | NORM_LAYERS, EVERYWHERE, "locon"
        ),
        "LyCORIS/LoHa": _lycoris(
            SIZE | CONV | DROPOUTS | PLUS | NORMS | CORE | DORA | NORM_LAYERS, NOT_DIFFUSERS, "loha"
        ),
        "LyCORIS/LoKr": _lycoris(
            SIZE | CONV | DROPOUTS | PLUS | NORMS | CORE | DORA | NORM_LAYERS | _names("factor use_cp decompose_both"),
            NOT_DIFFUSERS, "lokr",
        ),
        "LyCORIS/DyLoRA": _lycoris(
            SIZE | CONV | NORMS | NORM_LAYERS | _names("network_dropout unit"), EVERYWHERE, "dylora"
        ),
        "LyCORIS/GLoRA": _lycoris(
            SIZE | CONV | DROPOUTS | PLUS | NORMS | NORM_LAYERS | _names("rank_dropout_scale"), NOT_DIFFUSERS, "glora"
        ),
        "LyCORIS/iA3": _lycoris(_names("network_weights train_on_input"), NOBODY, "ia3"),
        "LyCORIS/BOFT": _lycoris(ROTATION, TURNED, "boft"),
        "LyCORIS/Diag-OFT": _lycoris(ROTATION | _names("constrain rescaled"), TURNED, "diag-oft"),
        "LyCORIS/Native Fine-Tuning": _lycoris(
            DROPOUTS | NORM_LAYERS | _names("network_weights rank_dropout_scale"), WHOLE, "full"
        ),
    },
)  # fmt: skip

OF_DORA = "LyCORIS can use it; in ComfyUI and Forge 10 to 17 % of the effect differs"
WHAT = {
    "Standard": "Low-rank updates of the attention layers: small, quick, mixes well. The usual choice.",
    "Kohya LoCon": "As Standard, and the convolutions too: better at styles and textures, larger.",
    "LoRA-FA": "As Standard with one half frozen: less memory, learns a little less.",
    "Kohya DyLoRA": "Learns all ranks at once, so that a smaller one can be cut out afterwards; slower to learn.",
    "Kohya LoHa": "Two low-rank updates multiplied: a high rank in a small file; good at styles.",
    "Kohya LoKr": "Kronecker products: the smallest files; the LoKr factor sets how small.",
    "LyCORIS/LoCon": "As Kohya LoCon, with the options of LyCORIS: presets, DoRA, Tucker cores.",
    "LyCORIS/LoHa": "Two low-rank updates multiplied: a high rank in a small file; good at styles.",
    "LyCORIS/LoKr": "Kronecker products: the smallest files; the LoKr factor sets how small.",
    "LyCORIS/DyLoRA": "Learns all ranks at once, block by block; slower to learn.",
    "LyCORIS/GLoRA": "An update that depends on the layer's own weight: more to learn with, larger.",
    "LyCORIS/iA3": "A factor for each input or output: tiny files, for simple things; wants a high rate, as 5e-3.",
    "LyCORIS/BOFT": "Turns the weights in butterfly steps: keeps what the model knows; slow.",
    "LyCORIS/Diag-OFT": "Turns the weights block by block: keeps what the model knows.",
    "LyCORIS/Native Fine-Tuning": "Trains the layers themselves: learns most, needs memory and disk as a model does.",
}
"""What each type is, in a sentence for people who choose."""

OTHER_READERS = (
    ("lokr", "use_tucker", "No known program can use a LoKr with Tucker decomposition; untick it to share the file."),
    ("lokr", "use_cp", "No known program can use a LoKr with CP decomposition; untick it to share the file."),
    ("locon", "dora_wd", f"{OF_DORA}; diffusers leaves DoRA out."),
    ("", "dora_wd", f"{OF_DORA}; diffusers cannot."),
    ("", "train_norm", WHOLE),
    ("diag-oft", "rescaled", "LyCORIS can use it; ComfyUI leaves the rescaling out; Forge and diffusers cannot."),
    ("locon", "use_tucker", NOT_DIFFUSERS),
    ("", "block_alphas", "ComfyUI, Forge and LyCORIS can use it; diffusers gives all attention layers one alpha."),
)
"""Algorithm (or any), a setting, and which programs can use the file when it is set."""


def readers_of(settings: "Settings") -> str:
    """Which programs can use the file that these settings make, in a sentence or two for people."""
    row = ADAPTERS[settings.LoRA_type]
    for algo, option, sentence in OTHER_READERS:
        if option in row.options and algo in ("", row.algo) and getattr(settings, option):
            return sentence
    return row.readers


def types_with(option: str) -> tuple[str, ...]:
    """The LoRA types to which a setting means something: what its `when` names."""
    return tuple(name for name, row in ADAPTERS.items() if option in row.options)


def attach(model: "Model", settings: "Settings", report: "Reporter") -> "Adapter":
    """Put the adapter that `settings.LoRA_type` names on U-Net and text encoder, in float32, and return it.

    It starts from nothing (the model's output is unchanged), or from the file in `settings.network_weights`. Raises
    `Failure` with a sentence when that file does not fit.
    """
    import importlib

    module, name = ADAPTERS[settings.LoRA_type].path.rsplit(".", 1)
    kind: type[Adapter] = getattr(importlib.import_module(module), name)
    return kind.attach(model, settings, report)
