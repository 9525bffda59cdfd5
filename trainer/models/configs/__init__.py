"""Small files all models of a family share, so that a single file loads with no network: configs and tokenizer."""

from pathlib import Path

SD15 = Path(__file__).parent / "sd15"
"""model_index.json and one JSON a component of Stable Diffusion 1.5, as in its diffusers folder."""

TOKENIZER = Path(__file__).parent / "tokenizer"
"""The CLIP tokenizer of Stable Diffusion 1.5 (77 positions, padded with the end token)."""
