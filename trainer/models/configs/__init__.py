"""Small files all models of a family share, so that a single file loads with no network: configs and tokenizer."""

from pathlib import Path

HERE = Path(__file__).parent

SD15, SD2, SDXL = HERE / "sd15", HERE / "sd2", HERE / "sdxl"
CONFIGS = {"sd15": SD15, "sd2": SD2, "sdxl": SDXL}
"""model_index.json and one JSON a component of each family, as in its diffusers folder.

Stable Diffusion 2 for 768 pixels differs only in what it predicts, an inpainting model only in the number of its input
channels: the loader changes that."""

TOKENIZER = HERE / "tokenizer"
"""The CLIP tokenizer of all families (77 positions, padded with the end token)."""
