"""Reading the tensors of a model file, memory-mapped, without running anything it holds."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(path: Path, format: str) -> dict[str, "Tensor"]:
    """Every tensor by its key; `format` is "safetensors" or "ckpt". Raises `ValueError` for a broken file."""
    if format == "ckpt":
        from trainer.models.pickled import load_checkpoint

        return load_checkpoint(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"cannot be read ({error}).") from None
