"""The U-Net compiled by block: the same results, the same names, and nothing that fails in silence."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import trainings
from tests.tiny import Listener, listener, tiny_model, tiny_sd15
from tests.trainings import losses, make_pictures, tensors
from trainer import compiling
from trainer.adapters import attach
from trainer.compiling import BACKENDS, Compiled, compile_unet, why_not
from trainer.events import Note, Phase
from trainer.settings import Settings

thorough = pytest.mark.skipif("LOOM_LARGE_TESTS" not in os.environ, reason="takes minutes: set LOOM_LARGE_TESTS")

REFERENCE = (
    "no", "eager", "aot_eager", "inductor", "aot_ts_nvfuser", "nvprims_nvfuser", "cudagraphs", "ofi", "fx2trt", "onnxrt",
    "tensorrt", "ipex", "tvm",
)  # fmt: skip


class Small:
    """The tiny model with an adapter that has learnt something."""

    def __init__(self, **values: Any) -> None:
        self.model = tiny_model()
        self.s = Settings(optimizer="AdamW", seed=1, **values)
        self.adapter = attach(self.model, self.s, listener())
        self.report = Listener()
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.adapter.unet_parameters:
                weight.add_(0.1 * torch.randn(weight.shape, generator=source))

    def compile(self) -> Compiled:
        compiled = compile_unet(self.model.unet, self.s, self.report)  # type: ignore[arg-type]
        assert compiled is not None
        return compiled

    def pass_of(self, height: int = 8, width: int = 8) -> tuple[Tensor, list[Tensor]]:
        source = torch.Generator().manual_seed(7)
        x, told = torch.randn(1, 4, height, width, generator=source), torch.randn(1, 77, 16, generator=source)
        for weight in self.adapter.unet_parameters:
            weight.grad = None
        output = self.model.unet(x, torch.tensor([500]), told, return_dict=False)[0]
        output.square().mean().backward()
        return output.detach(), [weight.grad for weight in self.adapter.unet_parameters if weight.grad is not None]


def assert_same(one: tuple[Tensor, list[Tensor]], other: tuple[Tensor, list[Tensor]]) -> None:
    assert torch.allclose(one[0], other[0], atol=1e-5)
    assert len(one[1]) == len(other[1]) > 0
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one[1], other[1], strict=True))


def test_compiled_it_gives_the_same_for_every_picture_size() -> None:
    small = Small(dynamo_backend="eager")
    sizes = [(8, 8), (8, 16)]
    plain = [small.pass_of(*size) for size in sizes]
    names = list(small.model.unet.state_dict())
    compiled = small.compile()
    before = torch.get_rng_state()
    graphs = count_graphs()
    for size, wanted in zip(sizes, plain, strict=True):
        assert_same(small.pass_of(*size), wanted)
    assert count_graphs() > graphs
    assert list(small.model.unet.state_dict()) == names
    assert torch.equal(torch.get_rng_state(), before)  # rehearsals leave no trace
    assert small.report.notes == []
    assert [phase for phase, *_ in small.report.phases] == ["compiling the model"] * 2
    graphs = count_graphs()
    with torch.no_grad():  # pictures are drawn by the U-Net as it was
        small.model.unet(torch.randn(2, 4, 8, 8), torch.tensor(3), torch.randn(2, 77, 16))
    small.pass_of()
    assert count_graphs() == graphs
    compiled.undo()
    assert_same(small.pass_of(), plain[0])


def count_graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def test_a_backend_that_fails_is_told_of_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such kernel\nand much more")

    small = Small(dynamo_backend="eager")
    plain = small.pass_of()
    Compiled(small.model.unet, {"backend": broken}, small.report)  # type: ignore[arg-type]
    assert_same(small.pass_of(), plain)
    assert_same(small.pass_of(), plain)
    (note,) = small.report.notes
    assert note.startswith("Dynamo backend: the U-Net could not be compiled and is used as it is.")
    assert "no such kernel" in note
    assert "much more" not in note


def test_a_backward_that_fails_is_found_before_it_is_needed() -> None:
    from torch._dynamo.backends.common import aot_autograd

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no backward here")

    small = Small(dynamo_backend="aot_eager")
    plain = small.pass_of()
    backend = aot_autograd(fw_compiler=lambda graph, inputs: graph.forward, bw_compiler=broken)
    Compiled(small.model.unet, {"backend": backend}, small.report)  # type: ignore[arg-type]
    assert_same(small.pass_of(), plain)
    assert "no backward here" in small.report.notes[0]


def test_running_out_of_memory_is_no_matter_of_compiling() -> None:
    def hungry(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    small = Small(dynamo_backend="eager")
    Compiled(small.model.unet, {"backend": hungry}, small.report)  # type: ignore[arg-type]
    with pytest.raises(torch.OutOfMemoryError):
        small.pass_of()
    assert small.report.notes == []


def test_too_many_sizes_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "GRAPHS", 1)
    torch._dynamo.reset()
    small = Small(dynamo_backend="eager")
    plain = small.pass_of()
    small.compile()
    assert_same(small.pass_of(), plain)
    assert "limit" in small.report.notes[0]


@pytest.mark.parametrize("options", [
    {"dynamo_backend": "eager", "gradient_checkpointing": True, "module_dropout": 0.2},
    {"dynamo_backend": "eager", "dynamo_use_dynamic": True, "dynamo_use_fullgraph": True, "fp8_base": True},
], ids=str)  # fmt: skip
def test_a_compiled_run_is_the_same_run(options: dict[str, Any], tmp_path: Path) -> None:
    model, data = tiny_sd15(tmp_path / "model"), make_pictures(tmp_path / "data")
    s = trainings.settings(model, data, tmp_path / "out", max_train_steps=2, **options)
    plain = losses(trainings.run(s.changed(dynamo_backend="no"), tmp_path / "plain"))
    wanted = tensors(tmp_path / "out" / "small.safetensors")
    found = trainings.run(s, tmp_path / "compiled")
    assert losses(found) == pytest.approx(plain, abs=1e-5)
    assert any(isinstance(event, Phase) and event.name == "compiling the model" for event in found)
    assert [event.text for event in found if isinstance(event, Note) and event.key == "dynamo_backend"] == []
    saved = tensors(tmp_path / "out" / "small.safetensors")
    assert saved.keys() == wanted.keys()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=thorough)])
def test_backends_give_the_same_or_are_not_used(backend: str) -> None:
    if reason := why_not(backend, "cpu"):
        pytest.skip(reason)
    small = Small(dynamo_backend=backend)
    plain = small.pass_of()
    small.compile()
    assert_same(small.pass_of(), plain)
    assert small.report.notes == [] or "it learns something else" in small.report.notes[0]


def test_a_backend_that_computes_another_gradient_is_not_used() -> None:
    """Some do, and no error says so: a tenth too much of what goes back is a different LoRA."""

    class TooMuch(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * 1.1

    small = Small(dynamo_backend="eager")
    plain = small.pass_of()
    compiled = small.compile()
    region: Any = compiled.regions[0]._compiled_call_impl
    inner = region.compiled
    region.compiled = lambda *args, **others: TooMuch.apply(inner(*args, **others))
    assert_same(small.pass_of(), plain)
    (note,) = small.report.notes
    assert note.startswith("Dynamo backend: the U-Net could not be compiled and is used as it is.")
    assert "a gradient is 10% off" in note


def test_backends_are_those_people_know_and_each_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(BACKENDS) == REFERENCE
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    said = {name: why_not(name, "cpu") for name in BACKENDS}
    assert {name for name, reason in said.items() if reason is None} == {"no", "eager", "aot_eager"}
    assert said["ofi"] == "ofi is no longer part of PyTorch"
    assert said["tensorrt"] == "tensorrt needs the package torch_tensorrt, which is not installed here"
    assert said["inductor"] == "inductor needs a C++ compiler, and none is installed here"
    assert why_not("inductor", "cuda") == "inductor needs the package triton, which is not installed here"
    assert why_not("cudagraphs", "cuda") is None


def test_what_pytorch_offers_is_what_the_table_says() -> None:
    offered = set(torch._dynamo.list_backends(None))
    inside = {name for name, needs in BACKENDS.items() if needs == "" and name != "no"}
    gone = {name for name, needs in BACKENDS.items() if needs == "-"}
    assert inside <= offered
    assert not gone & offered
