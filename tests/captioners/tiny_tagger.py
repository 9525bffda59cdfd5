"""A WD14 tagger of a few kilobytes whose answers are closed forms: `model.onnx`, written byte by byte, and its CSV.

Every tag is a logistic function of a weighted mean of the pixels, so what a picture must give is known beforehand.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SIDE, STEEP = 8, 20.0
Weights = np.ndarray[Any, np.dtype[np.float64]]
BLUE, GREEN, RED = range(3)
"""Channels as the taggers take them."""


def mean(channel: int, rows: slice = slice(None), columns: slice = slice(None), side: int = SIDE) -> Weights:
    """Weights that give the mean of a channel, 0 to 1, over some rows and columns."""
    weights = np.zeros((side, side, 3))
    weights[rows, columns, channel] = 1
    return weights / weights.sum() / 255


def more(channel: int, side: int = SIDE) -> Weights:
    """By how much a channel is above the mean of the others, -1 to 1."""
    others = [other for other in range(3) if other != channel]
    return mean(channel, side=side) - sum((mean(other, side=side) for other in others), np.zeros(())) / 2


def logistic(value: float, at: float = 0.5) -> float:
    """How likely a tag is whose weighted mean is `value`."""
    return 1 / (1 + math.exp(-STEEP * (value - at)))


def certain(likely: float) -> tuple[Weights, float]:
    """(weights, threshold `at`) of a tag that is as likely for every picture."""
    return np.zeros((SIDE, SIDE, 3)), math.log(likely / (1 - likely)) / -STEEP


TOP, LEFT = slice(0, SIDE // 2), slice(0, SIDE // 2)
TAGS: Mapping[str, tuple[str, Weights, float]] = {
    "general": ("9", mean(GREEN), 0.0),
    "explicit": ("9", mean(RED), 0.0),
    "red_theme": ("0", more(RED), 0.5),
    "green_theme": ("0", more(GREEN), 0.5),
    "blue_theme": ("0", more(BLUE), 0.5),
    "white_background": ("0", sum((mean(c) for c in range(3)), np.zeros(())) / 3, 0.75),
    "red_top": ("0", mean(RED, TOP), 0.5),
    "red_left": ("0", mean(RED, columns=LEFT), 0.5),
    "^_^": ("0", *certain(0.4)),
    "sword": ("0", *certain(0.2)),
    "alice_(striped)_(wonderland)": ("4", *certain(0.6)),
    "hatter_(wonderland)": ("4", *certain(0.3)),
    "bad quality": ("quality", mean(GREEN), 0.0),
    "best quality": ("quality", mean(RED), 0.0),
}
"""Category, weights and where the tag is half likely, by name."""


def tagger(folder: Path, tags: Mapping[str, tuple[str, Weights, float]] = TAGS, batch: int | None = None) -> Path:
    """The folder of a tagger with these tags; `batch` fixes how many pictures it takes at once."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{at},{name},{category},{1000 - at}" for at, (name, (category, _, _)) in enumerate(tags.items())]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows, ""]), encoding="utf-8")
    weights = np.stack([STEEP * weights for _, weights, _ in tags.values()], -1)
    bias = np.array([-STEEP * at for _, _, at in tags.values()])
    (folder / "model.onnx").write_bytes(onnx(weights, bias, batch))
    return folder


def onnx(weights: Weights, bias: Weights, batch: int | None = None, last: str = "Sigmoid") -> bytes:
    """The model last(flatten(input) W + b), W [height, width, channels, tags], as an ONNX file (onnx.proto, IR 8)."""
    *size, count = weights.shape
    nodes = [
        _node("Flatten", ["input"], "flat", _bytes(5, _bytes(1, b"axis") + _number(3, 1) + _number(20, 2))),
        _node("MatMul", ["flat", "W"], "scores"),
        _node("Add", ["scores", "b"], "logits"),
        _node(last, ["logits"], "likely"),
    ]
    tensors = [_tensor("W", weights.reshape(-1, count)), _tensor("b", bias)]
    graph = b"".join(
        [
            *(_bytes(1, node) for node in nodes),
            _bytes(2, b"tagger"),
            *(_bytes(5, tensor) for tensor in tensors),
            _bytes(11, _value("input", [batch, *size])),
            _bytes(12, _value("likely", [batch, count])),
        ]
    )
    return _number(1, 8) + _bytes(8, _number(2, 13)) + _bytes(7, graph)


def _node(kind: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    named = b"".join(_bytes(1, name.encode()) for name in inputs)
    return named + _bytes(2, output.encode()) + _bytes(4, kind.encode()) + attributes


def _tensor(name: str, values: Weights) -> bytes:
    sizes = b"".join(_number(1, size) for size in values.shape)
    return sizes + _number(2, 1) + _bytes(8, name.encode()) + _bytes(9, values.astype("<f4").tobytes())


def _value(name: str, shape: list[int | None]) -> bytes:
    sizes = [_bytes(2, b"batch") if size is None else _number(1, size) for size in shape]
    shaped = b"".join(_bytes(1, size) for size in sizes)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, shaped)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    some = []
    while value > 127:
        some.append(value & 127 | 128)
        value >>= 7
    return bytes([*some, value])
