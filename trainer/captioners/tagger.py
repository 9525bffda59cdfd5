"""A WD14 tagger (ConvNeXt, ViT, SwinV2 … trained on Danbooru's tags by SmilingWolf) as ONNX: pictures in, probabilities out."""

import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from trainer.captioners.sources import first_line
from trainer.captioners.tags import Probabilities, Tag
from trainer.data.images import open_picture, shrink
from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.report import Reporter

MODEL = "model.onnx"
KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""Numbers that a model may take."""
PROVIDERS = {"CUDAExecutionProvider": "graphics card (CUDA)", "CPUExecutionProvider": "processor"}
"""What may calculate, the fastest first, by onnxruntime's name."""
WHITE = 255

Pixels = np.ndarray[Any, np.dtype[np.float32]]


def missing() -> str | None:
    """Why nothing can be tagged here, as the end of a sentence; None where onnxruntime is installed. It is not loaded."""
    if find_spec("onnxruntime") is not None:
        return None
    return (
        "needs the package onnxruntime, which is not installed. Start launch.py again, which installs it, or run: "
        f"{sys.executable} -m pip install onnxruntime"
    )


def prepared(image: Image.Image, side: int) -> Pixels:
    """An RGB picture as the taggers were trained: in the middle of a white square, [side, side, BGR], 0 to 255.

    Shrinking averages areas, growing is bicubic.
    """
    longest = max(image.size)
    square = np.full((longest, longest, 3), WHITE, np.uint8)
    left, top = (longest - image.width) // 2, (longest - image.height) // 2
    square[top : top + image.height, left : left + image.width] = np.asarray(image)
    if longest >= side:
        pixels = shrink(square, side, side)
    else:
        pixels = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(pixels[..., ::-1], np.float32)


class Tagger:
    """A model that is loaded and ready, on the best device that onnxruntime can use here."""

    def __init__(self, folder: Path, vocabulary: Sequence[Tag], report: "Reporter", key: str) -> None:
        """Raises `Failure` about the setting `key` when `folder` holds no tagger."""
        self.folder, self.vocabulary, self.key = folder, vocabulary, key
        self.session = self._open(report)
        (asked, *_), (answer, *_) = self.session.get_inputs(), self.session.get_outputs()
        self.input, self.output = asked.name, answer.name
        self.kind = KINDS.get(asked.type, np.float32)
        self.side = self._side(asked.shape)
        self.fixed = asked.shape[0] if isinstance(asked.shape[0], int) and asked.shape[0] > 0 else None
        """How many pictures the model takes at once; None: any number."""
        if isinstance(answer.shape[-1], int):
            self._compare(answer.shape[-1])

    def _open(self, report: "Reporter") -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise Failure(
                f"onnxruntime cannot be loaded: {first_line(error)}", missing() or REPAIR, self.key
            ) from error
        onnxruntime.set_default_logger_severity(3)  # what it says below that is for its own developers
        providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
        if providers[0] != "CPUExecutionProvider":
            onnxruntime.preload_dlls()  # the libraries that PyTorch brought
        try:
            session = onnxruntime.InferenceSession(self.folder / MODEL, providers=providers)
        except Exception as error:  # onnxruntime has a class of its own for every reason
            advice = f"Download it again, or choose another tagger. It lies in {self.folder}."
            raise Failure(f"The tagger's {MODEL} cannot be loaded: {first_line(error)}", advice, self.key) from error
        used = session.get_providers()[0]
        report.note(f"The tagger works on the {PROVIDERS.get(used, used)}.{_faster(used)}")
        return session

    def _side(self, shape: Sequence[Any]) -> int:
        """Height and width of the pictures that the model takes, from its input [pictures, height, width, 3]."""
        if len(shape) == 4 and shape[3] == 3 and isinstance(shape[1], int) and shape[1] == shape[2]:
            return shape[1]
        raise Failure(
            f"{self.folder / MODEL} is no WD14 tagger: its input is {_listed(shape)}, not pictures × side × side × 3.",
            "Choose one of the list, or another tagger of the same kind.",
            self.key,
        )

    def _compare(self, outputs: int) -> None:
        if outputs != len(self.vocabulary):
            raise Failure(
                f"{self.folder}: selected_tags.csv has {len(self.vocabulary)} tags, and {MODEL} has {outputs} outputs.",
                "Take both files from the same tagger: download them again.",
                self.key,
            )

    def read(self, path: Path) -> Pixels:
        """A picture file as the model takes it. Raises `Unreadable`."""
        return prepared(open_picture(path), self.side)

    def probabilities(self, pictures: Sequence[Pixels]) -> Probabilities:
        """How likely each tag is for each picture: [pictures, tags], 0 to 1."""
        count = self.fixed or len(pictures)
        rows = []
        for start in range(0, len(pictures), count):
            batch = np.zeros((count, self.side, self.side, 3), self.kind)
            some = pictures[start : start + count]
            batch[: len(some)] = some
            rows.append(self._run(batch)[: len(some)])
        found = np.concatenate(rows).astype(np.float32)
        self._compare(found.shape[-1])
        if not ((found >= 0) & (found <= 1)).all():
            raise Failure(
                f"{self.folder / MODEL} gives {found.min():g} to {found.max():g}, which are no probabilities.",
                "Choose one of the list, or another tagger of the same kind.",
                self.key,
            )
        return found

    def _run(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        try:
            return np.asarray(self.session.run([self.output], {self.input: batch})[0])
        except Exception as error:  # see _open
            raise Failure(
                f"The tagger failed: {first_line(error)}", "With a smaller Batch size it needs less memory.", self.key
            ) from error


REPAIR = f"Install it (again): {sys.executable} -m pip install --force-reinstall --no-deps onnxruntime"


def _faster(used: str) -> str:
    if used != "CPUExecutionProvider" or shutil.which("nvidia-smi") is None:
        return ""
    return " For the graphics card, replace the package onnxruntime by onnxruntime-gpu."


def _listed(shape: Sequence[Any]) -> str:
    return " × ".join(str(size) if size is not None else "?" for size in shape)
