"""Measures which programs read the files of which LoRA type, and writes `docs/compatibility.md` from it.

`python -m tests.adapters.compatibility` writes the page anew.
"""

import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters.judges import READERS, Refused
from tests.adapters.made import drawn, read, taught
from tests.tiny import tiny_model
from trainer import formats
from trainer.adapters import ADAPTERS, readers_of
from trainer.models import Model
from trainer.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
TOLERANCE = 1e-4
FAMILIES = {"sd15": "1.5", "sd2": "2", "sdxl": "XL"}
EQUAL, REFUSES, DIFFERS = "equal", "refuses", "**differs**"

SIZES: dict[str, Any] = {"network_dim": 4, "network_alpha": 3, "conv_dim": 2, "conv_alpha": 5}
"""Unequal everywhere, so that none can stand for another."""


@dataclass(frozen=True)
class Case:
    """A LoRA type with some of its options; `families` are those it is tried on."""

    type: str
    words: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    families: tuple[str, ...] = ("sd15", "sdxl")

    @property
    def name(self) -> str:
        return f"{self.type} {self.words}".strip()

    @property
    def settings(self) -> dict[str, Any]:
        """What a training of it is asked with."""
        return {"LoRA_type": self.type, **SIZES, **dict(self.options)}


def case(type: str, words: str = "", families: tuple[str, ...] = ("sd15", "sdxl"), **options: Any) -> Case:
    """A row of the table."""
    return Case(type, words, tuple(options.items()), families)


TYPES = list(ADAPTERS)
ALL = tuple(FAMILIES)
ONE, XL = ("sd15",), ("sdxl",)
CASES = (
    case("Standard", families=ALL),
    case("Kohya LoCon", families=ALL),
    case("LoRA-FA"),
    case("Kohya DyLoRA", conv_dim=4, unit=2),
    case("Kohya LoHa"),
    case("Kohya LoHa", "Tucker", XL, use_tucker=True),
    case("Kohya LoKr", factor=4),
    case("LyCORIS/LoCon", families=ALL),
    case("LyCORIS/LoCon", "attn-mlp, bypass", XL, LyCORIS_preset="attn-mlp", bypass_mode=True),
    case("LyCORIS/LoCon", "Tucker, scalar", ONE, use_tucker=True, use_scalar=True),
    case("LyCORIS/LoCon", "DoRA", dora_wd=True),
    case("LyCORIS/LoCon", "norms", XL, train_norm=True),
    case("LyCORIS/LoHa"),
    case("LyCORIS/LoHa", "Tucker, scalar", ONE, use_tucker=True, use_scalar=True),
    case("LyCORIS/LoHa", "DoRA", XL, dora_wd=True),
    case("LyCORIS/LoKr"),
    case("LyCORIS/LoKr", "both whole", ONE, network_dim=100, conv_dim=100),
    case("LyCORIS/LoKr", "scalar, bypass", ONE, network_dim=1, conv_dim=1, use_scalar=True, bypass_mode=True),
    case("LyCORIS/LoKr", "both decomposed", XL, network_dim=1, conv_dim=1, decompose_both=True),
    case("LyCORIS/LoKr", "DoRA", XL, dora_wd=True, factor=2),
    case("LyCORIS/LoKr", "Tucker", ONE, network_dim=1, conv_dim=1, use_tucker=True),
    case("LyCORIS/DyLoRA", unit=2),
    case("LyCORIS/GLoRA"),
    case("LyCORIS/iA3"),
    case("LyCORIS/iA3", "on outputs", ONE, train_on_input=False),
    case("LyCORIS/BOFT", network_dim=6, conv_dim=8),
    case("LyCORIS/Diag-OFT"),
    case("LyCORIS/Diag-OFT", "rescaled, constrained", ONE, rescaled=True, constrain=0.01),
    case("LyCORIS/Native Fine-Tuning"),
    case("LyCORIS/Native Fine-Tuning", "norms", XL, train_norm=True),
)  # fmt: skip
ALONE = tuple(
    case(row.type, "U-Net alone", row.families, **dict(row.options), text_encoder_lr=0)
    for row in CASES
    if not row.words
)
"""Each type again as it is trained with Text Encoder learning rate 0."""

PLACES = [
    (row, family) for row in sorted((*CASES, *ALONE), key=lambda row: TYPES.index(row.type)) for family in row.families
]


@dataclass(frozen=True)
class Measured:
    """What each reader makes of a file, and what merging it into the model gives: a word and the largest difference."""

    words: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    change: float = 0.0
    """How much the adapter changes the outputs of what it is on, at least: without a change nothing would be shown."""


def outputs(model: Model) -> list[Tensor]:
    """What the U-Net and each text encoder make of fixed inputs."""
    return [drawn(model.unet), *(read(encoder) for encoder in model.text_encoders)]


@cache
def plain(family: str) -> list[Tensor]:
    """The outputs of the model without an adapter."""
    return outputs(tiny_model(family=family))


@cache
def measure(row: Case, family: str) -> Measured:
    """Train nothing, but give the adapter weights that matter; save it; let everybody read it."""
    model, adapter = taught(family=family, **row.settings)
    adapter.train(False)
    live = outputs(model)
    words, errors = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        file = formats.save(Path(folder) / "a.safetensors", adapter.state_dict(), {"ss_network_dim": "4"})
        for reader, load in READERS.items():
            try:
                errors[reader] = _error(outputs(load(file, tiny_model(family=family))), live)
                words[reader] = EQUAL if errors[reader] <= TOLERANCE else DIFFERS
            except Refused:
                words[reader] = REFUSES
    other = tiny_model(family=family)
    adapter.merge_into(other)
    errors["merged"] = _error(outputs(other), live)
    words["merged"] = EQUAL if errors["merged"] <= TOLERANCE else DIFFERS
    changes = [float((mine - theirs).abs().max()) for mine, theirs in zip(live, plain(family), strict=True)]
    return Measured(words, errors, min(changes if adapter.trains_text else changes[:1]))


def _error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference, of values beyond 1 in relation to them."""
    return max(float(((a - b).abs() / b.abs().clamp(min=1)).max()) for a, b in zip(found, wanted, strict=True))


HEAD = """# Which programs can use which file

Generated: the test `tests/adapters/test_compatibility.py` measures every row and compares this page with what it found;
`python -m tests.adapters.compatibility` writes it anew.

Each row is an adapter on a tiny model of the family (Stable Diffusion {families}), with random weights, ranks and alphas
that differ between linear layers and convolutions, on U-Net and text encoders, or on the U-Net alone. Its file is read by
programs and by a formula that share no line with the trainer, on a fresh model, and the outputs of U-Net and text encoders
are compared with those of the live adapter. **equal** is within {tolerance:g}, of values beyond 1 in relation to them; **refuses** is an error or a
warning instead of a picture. *LyCORIS* is the loader of lycoris-lora 4.1.3, *diffusers* its `load_lora_weights`, *formula*
the papers' formulas written out in `tests/adapters/formulas.py`, *merged* the adapter added to the weights of the model.

The last column is what the page says beside LoRA type; what it says about ComfyUI and Forge was tried with those programs
and is not measured here.

| LoRA type | Options | Model | LyCORIS | diffusers | formula | merged | Who can use it |
|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page as Markdown, from measurements."""
    lines = []
    for row, family in PLACES:
        words = measure(row, family).words
        cells = [row.type, row.words, FAMILIES[family], *(words[name] for name in (*READERS, "merged"))]
        lines.append("| " + " | ".join([*cells, readers_of(Settings(**row.settings))]) + " |")
    return HEAD.format(families=", ".join(FAMILIES.values()), tolerance=TOLERANCE) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(page(), encoding="utf-8")
