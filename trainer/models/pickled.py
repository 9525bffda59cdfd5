"""Reading .ckpt files without running anything: an unpickler that knows tensors, and makes inert stubs of the rest.

A .ckpt is a zip with a pickle in it, and a pickle can call any function while it is read. Here only the functions that
rebuild tensors can be called. Checkpoints of training frameworks hold their own classes (callbacks, configs); those
become stubs that do nothing, so the weights beside them still load.
"""

import collections
import importlib
import io
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Inert:
    """Stands for any object that is no tensor: takes whatever it is given and does nothing with it."""

    def __new__(cls, *args: object, **kwargs: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...
    def __call__(self, *args: object, **kwargs: object) -> "Inert":
        return self

    def __setstate__(self, state: object) -> None: ...
    def __setitem__(self, key: object, value: object) -> None: ...
    def append(self, item: object) -> None:
        """Items of list-like stubs are dropped."""

    def extend(self, items: object) -> None:
        """Items of list-like stubs are dropped."""

    def add(self, item: object) -> None:
        """Items of set-like stubs are dropped."""


class Rebuilt:
    """A tensor of which only the shape is known."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


STORED = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
REBUILD = {
    ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"), ("torch", "Size"),
    *(("torch", f"{kind}Storage") for kind in STORED),
}  # fmt: skip
"""All that a pickle may call or name."""


class Unpickler(pickle.Unpickler):
    """Builds plain containers, numbers, texts and tensors; anything else becomes `Inert`."""

    def find_class(self, module: str, name: str) -> Any:
        return getattr(importlib.import_module(module), name) if (module, name) in REBUILD else Inert


class ShapeUnpickler(pickle.Unpickler):
    """As `Unpickler`, but needs no torch: tensors become `Rebuilt`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        return (
            {
                "_rebuild_tensor": lambda storage, offset, size, *rest: Rebuilt(tuple(map(int, size))),
                "_rebuild_tensor_v2": lambda storage, offset, size, *rest: Rebuilt(tuple(map(int, size))),
                "_rebuild_parameter": lambda tensor, *rest: tensor,
                "Size": tuple,
            }.get(name, Inert)
            if module in {"torch", "torch._utils"}
            else Inert
        )

    def persistent_load(self, pid: Any) -> Any:
        return None


LARGEST_PICKLE = 500_000_000
"""Bytes; the weights are beside the pickle, not in it."""

DAMAGED = (
    pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, IndexError, TypeError, ValueError, AttributeError,
    ImportError, RuntimeError, MemoryError, OverflowError, OSError, zlib.error,
)  # fmt: skip
"""What reading a pickle that is not as it should be can raise."""


def shapes_in_checkpoint(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the tensors of a .ckpt, read without torch. Raises `ValueError` with a sentence without its subject."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(Path(name).name == "constants.pkl" for name in archive.namelist()):
                raise ValueError("is a TorchScript program, not a model.")
            inside = [name for name in archive.namelist() if Path(name).name == "data.pkl"]
            if not inside:
                raise ValueError("is a zip file, not a model.")
            if archive.getinfo(inside[0]).file_size > LARGEST_PICKLE:
                raise ValueError("is not a model, or is damaged.")
            found = ShapeUnpickler(io.BytesIO(archive.read(inside[0]))).load()
    except zipfile.BadZipFile:
        raise ValueError("is cut off or damaged. Download it again.") from None
    except DAMAGED as error:
        if type(error) is ValueError and str(error).startswith("is "):
            raise
        raise ValueError("is not a model, or is damaged.") from None
    return {key: tensor.shape for key, tensor in _tensors(found, Rebuilt).items()}


def load_checkpoint(path: Path) -> dict[str, "torch.Tensor"]:
    """The tensors of a .ckpt, memory-mapped. Runs nothing of what the file holds.

    Raises `ValueError` with a sentence without its subject.
    """
    import torch

    # torch.load hands TorchScript archives to another reader; look with torch's own eyes, not with zipfile's.
    try:
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
        if "constants.pkl" in records:
            raise ValueError("is a TorchScript program, not a model.")
        reader = SimpleNamespace(Unpickler=Unpickler, load=_refuse, __name__="trainer.models.pickled")
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=False, pickle_module=reader)
    except DAMAGED as error:
        if type(error) is ValueError and str(error).startswith("is "):
            raise
        raise ValueError("is not a model, or is damaged.") from None
    return _tensors(found, torch.Tensor)


def _refuse(*args: object, **kwargs: object) -> Any:
    raise ValueError("is a checkpoint in a format from before 2020, which is not read here.")


def _tensors(found: Any, kind: type) -> dict[str, Any]:
    inner = found.get("state_dict", found) if isinstance(found, dict) else {}
    if not isinstance(inner, dict):
        inner = found
    return {key: value for key, value in inner.items() if isinstance(key, str) and isinstance(value, kind)}
