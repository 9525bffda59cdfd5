"""Checkpoints are read without running anything they hold."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import original_state_dict, tiny_components
from trainer.models.identify import identify
from trainer.models.pickled import load_checkpoint, shapes_in_checkpoint

RAN: list[str] = []


class Callback:
    """Stands for what training frameworks leave in their checkpoints."""

    def __init__(self) -> None:
        self.best = torch.ones(2)

    def __setstate__(self, state: object) -> None:
        RAN.append("a method of an object in the checkpoint")


class Evil:
    """What a pickle of this calls when it is read."""

    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.ones(4, dtype=torch.float16)}


def saved(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("nested", [True, False])
def test_tensors_of_every_type_come_back(tmp_path: Path, nested: bool) -> None:
    types = (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    )
    weights = {str(dtype): torch.arange(6).view(2, 3).to(dtype) for dtype in types}
    weights["slice"] = torch.arange(12.0).view(3, 4)[1:, ::2]
    weights["parameter"] = torch.nn.Parameter(torch.ones(3))
    file = saved(tmp_path / "a.ckpt", {"state_dict": weights, "epoch": 3} if nested else weights)
    found = load_checkpoint(file)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    assert shapes_in_checkpoint(file) == {key: tuple(value.shape) for key, value in weights.items()}


def test_checkpoints_of_training_frameworks_load(tmp_path: Path) -> None:
    content = {
        "state_dict": WEIGHTS,
        "callbacks": {Callback: Callback()},
        "hyper_parameters": {"path": Path("x"), "set": {1, 2}, "function": os.getcwd},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    }
    file = saved(tmp_path / "lightning.ckpt", content)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    assert torch.equal(load_checkpoint(file)["a"], WEIGHTS["a"])
    assert RAN == []


@pytest.mark.parametrize("place", ["beside", "inside", "whole"])
def test_a_checkpoint_cannot_run_code(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "ran"
    evil = Evil(os.mkdir, str(mark))
    content = {
        "beside": {"state_dict": WEIGHTS, "extra": evil},
        "inside": {"state_dict": {**WEIGHTS, "evil": evil}},
        "whole": evil,
    }[place]
    file = saved(tmp_path / "evil.ckpt", content)
    identify(str(file))
    found = load_checkpoint(file)
    assert not mark.exists()
    assert ("a" in found) == (place != "whole")
    torch.load(file, weights_only=False)
    assert mark.exists(), "the file must be able to run code when it is read carelessly"


@pytest.mark.parametrize(
    "call",
    [
        (eval, "__import__('os').mkdir('{mark}')"),
        (exec, "import os; os.mkdir('{mark}')"),
        (getattr, os, "mkdir"),
        (torch.hub.load, "a/b", "c"),
        (sys.setrecursionlimit, 5),
        (torch.load, "other.ckpt"),
    ],
)
def test_no_function_is_called(tmp_path: Path, call: tuple[Any, ...]) -> None:
    mark = tmp_path / "ran"
    arguments = [item.replace("{mark}", str(mark)) if isinstance(item, str) else item for item in call[1:]]
    if call[0] is getattr:
        arguments = ["text", "upper"]
    limit = sys.getrecursionlimit()
    file = saved(tmp_path / "evil.ckpt", {"state_dict": WEIGHTS, "x": Evil(call[0], *arguments)})
    assert torch.equal(load_checkpoint(file)["a"], WEIGHTS["a"])
    assert shapes_in_checkpoint(file)["a"] == (2, 3)
    assert not mark.exists()
    assert sys.getrecursionlimit() == limit


def test_a_program_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "program.ckpt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(file))
    with pytest.raises(ValueError, match=r"is a TorchScript program"):
        load_checkpoint(file)
    with pytest.raises(ValueError, match=r"is a TorchScript program"):
        shapes_in_checkpoint(file)


def test_the_format_from_before_2020_is_a_sentence(tmp_path: Path) -> None:
    file = saved(tmp_path / "old.ckpt", WEIGHTS, _use_new_zipfile_serialization=False)
    assert "from before 2020" in (identify(str(file)).problem or "")
    with pytest.raises(ValueError):
        load_checkpoint(file)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_damaged_checkpoints_are_a_sentence(tmp_path: Path, kept: float) -> None:
    file = saved(tmp_path / "a.ckpt", {"state_dict": original_state_dict({**tiny_components()})})
    data = file.read_bytes()
    file.write_bytes(data[: int(kept if kept >= 1 or kept == 0 else len(data) * kept)])
    with pytest.raises(ValueError, match=r"^is "):
        load_checkpoint(file)
    assert identify(str(file)).problem


def test_odd_contents_are_no_tensors(tmp_path: Path) -> None:
    for content in (3, "text", [1, 2], None, {"state_dict": 5}, {1: torch.ones(2)}):
        file = saved(tmp_path / "odd.ckpt", content)
        assert load_checkpoint(file) == {}
        assert shapes_in_checkpoint(file) == {}
