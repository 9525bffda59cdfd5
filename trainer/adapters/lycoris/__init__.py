"""The LyCORIS types: Yeh et al. 2023, "Navigating Text-To-Image Customization". Nothing here loads torch at import.

`engine.py` puts a trained change beside each layer; each type is a file that says which tensors such a change has, what
they start with, and what they make of the layer's weight; `presets.py` says which layers.
"""

ALGORITHMS: dict[str, str] = {
    "locon": "locon.LoCon",
    "loha": "loha.LoHa",
    "lokr": "lokr.LoKr",
    "dylora": "dylora.DyLoRA",
    "glora": "glora.GLoRA",
    "ia3": "ia3.IA3",
    "diag-oft": "oft.DiagOFT",
    "boft": "oft.BOFT",
    "full": "full.Full",
    "norm": "full.Norm",
}
"""The class of each algorithm, under the name that the ecosystem gives it."""

ALIASES = {"lora": "locon"}
"""Other names of the same."""
