"""torch.compile for the U-Net (Ansel et al. 2024): which backends there are, and what happens when one fails.

Torch-free at import: the page asks here too.
"""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.report import Reporter
    from trainer.settings import Settings

INSIDE, GONE = "", "-"
BACKENDS: dict[str, str] = {
    "no": INSIDE, "eager": INSIDE, "aot_eager": INSIDE, "inductor": INSIDE, "aot_ts_nvfuser": GONE,
    "nvprims_nvfuser": GONE, "cudagraphs": INSIDE, "ofi": GONE, "fx2trt": GONE, "onnxrt": GONE,
    "tensorrt": "torch_tensorrt", "ipex": "intel_extension_for_pytorch", "tvm": "tvm",
}  # fmt: skip
"""The names people know, and what each needs: a package, nothing, or a PyTorch of long ago."""

MODES = ("default", "reduce-overhead", "max-autotune")
RECORDING = ("reduce-overhead", "max-autotune")
"""Modes that record whole steps: what one step gave is overwritten by the next."""

COMPILERS = ("c++", "g++", "clang++", "clang-cl", "cl", "icx")
GRAPHS = 512
"""Variants of a block that are compiled (widths times picture sizes), at most; PyTorch's 8 would end it silently."""

EXACT, ROUGH = 0.01, 0.25
"""How far a compiled gradient may be off in float32, and where half precision rounds it."""

REGIONS = ("BasicTransformerBlock", "ResnetBlock2D")
"""Classes of the blocks that are compiled one by one: nearly all the work, and alike but for their width.

Measured: the whole tiny U-Net as one piece takes ten times as long to compile, and again for every picture size.
"""


def why_not(backend: str, device_type: str) -> str | None:
    """Why a backend cannot compile for this kind of device ("": not known yet), without the sentence's end; or None."""
    needs = BACKENDS[backend]
    if needs == GONE:
        return f"{backend} is no longer part of PyTorch"
    if needs and importlib.util.find_spec(needs) is None:
        return f"{backend} needs the package {needs}, which is not installed here"
    if backend == "cudagraphs" and device_type not in ("cuda", ""):
        return "cudagraphs is for NVIDIA graphics cards"
    if backend == "inductor":
        return _why_not_inductor(device_type)
    return None


def _why_not_inductor(device_type: str) -> str | None:
    if device_type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return "inductor needs a C++ compiler, and none is installed here"
    if device_type in ("cuda", "xpu") and importlib.util.find_spec("triton") is None:
        return "inductor needs the package triton, which is not installed here"
    return None


def compile_unet(unet: "nn.Module", s: "Settings", report: "Reporter") -> "Compiled | None":
    """Have the U-Net's training passes compiled, in place: no name in it changes. With backend "no", nothing."""
    if s.dynamo_backend == "no":
        return None
    options: dict[str, Any] = {
        "backend": s.dynamo_backend,
        "fullgraph": s.dynamo_use_fullgraph,
        "dynamic": s.dynamo_use_dynamic,
    }
    if s.dynamo_backend == "inductor" and s.dynamo_mode != "default":
        options["mode"] = s.dynamo_mode
    # Compiled dropouts draw other numbers, so that nothing could be compared.
    drops = s.network_dropout or s.rank_dropout or s.module_dropout
    return Compiled(unet, options, report, compares=not drops)


class Region:
    """Stands in a block where PyTorch keeps its compiled self. Without gradients the block is as it was: pictures are
    drawn too seldom to be worth a second compilation."""

    def __init__(self, owner: "Compiled", block: "nn.Module", options: dict[str, Any]) -> None:
        import torch

        self.owner = owner
        self.plain: Callable[..., Any] = block._call_impl
        self.compiled: Callable[..., Any] = torch.compile(self.plain, **options)

    def __call__(self, *args: Any, **others: Any) -> Any:
        """What the block gives."""
        import torch

        compiled = torch.is_grad_enabled() and not self.owner.resting
        return (self.compiled if compiled else self.plain)(*args, **others)


class Compiled:
    """A U-Net whose blocks are compiled. Nothing fails or falls back silently.

    The first pass of each picture size is rehearsed, backward too, and its gradients compared with those of the blocks
    as they were. Whatever cannot be compiled, or is compiled wrongly, is found here: then a note says so and the U-Net
    goes on as it was.
    """

    def __init__(
        self, unet: "nn.Module", options: dict[str, Any], report: "Reporter", compares: bool = True
    ) -> None:
        self.unet, self.report, self.compares = unet, report, compares
        self.resting = False
        self.plain: Callable[..., Any] = unet._call_impl
        self.regions = [block for block in unet.modules() if type(block).__name__ in REGIONS]
        self.marks_steps = options.get("mode") in RECORDING
        self.rehearsed: set[Any] = set()
        for block in self.regions:
            block._compiled_call_impl = Region(self, block, options)  # type: ignore[assignment]
        unet._compiled_call_impl = self  # type: ignore[assignment]

    def undo(self) -> None:
        """From now on nothing is compiled."""
        for module in (self.unet, *self.regions):
            module._compiled_call_impl = None

    def __call__(self, *args: Any, **others: Any) -> Any:
        """What the U-Net gives."""
        import torch

        from trainer.devices import is_out_of_memory

        if not torch.is_grad_enabled():
            return self.plain(*args, **others)
        with many_graphs():
            try:
                self._rehearse(args, others)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self.undo()
                text = f"Dynamo backend: the U-Net could not be compiled and is used as it is. {_reason(error)}"
                self.report.note(text, "warning", "dynamo_backend")
            else:
                self._mark_step()
            return self.plain(*args, **others)

    def _rehearse(self, args: tuple[Any, ...], others: dict[str, Any]) -> None:
        """A pass forward and backward if none like it was seen before, and one without compiling to compare with."""
        like = _likeness((args, others))
        if like in self.rehearsed:
            return
        self.report.phase("compiling the model")
        found = self._gradients(args, others)
        if self.compares:
            self.resting = True
            try:
                wrong = _distance(found, self._gradients(args, others))
            finally:
                self.resting = False
            if not wrong <= (EXACT if self._is_exact() else ROUGH):
                raise RuntimeError(f"Compiled, it learns something else: a gradient is {wrong:.0%} off")
        self.rehearsed.add(like)

    def _is_exact(self) -> bool:
        import torch

        first = next(self.unet.parameters())
        return first.dtype == torch.float32 and not torch.is_autocast_enabled(first.device.type)

    def _gradients(self, args: tuple[Any, ...], others: dict[str, Any]) -> "list[Tensor]":
        """Those of a pass to what is trained and what was given; they leave no trace, not even in chance."""
        import torch

        weights = [weight for weight in self.unet.parameters() if weight.requires_grad]
        given = [item for item in _tensors((args, others)) if item.requires_grad]
        device = next(self.unet.parameters()).device
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            self._mark_step()
            output = self.plain(*args, **others)
            output = output[0] if isinstance(output, tuple) else output.sample
            # The states of a trained text encoder are needed again: nothing in front of the U-Net may be used up.
            gradients = torch.autograd.grad(1024 * output.float().square().mean(), weights + given, allow_unused=True)
        # Copies: what a recorded step gave is overwritten by the next.
        return [gradient.clone() for gradient in gradients if gradient is not None]

    def _mark_step(self) -> None:
        import torch

        if self.marks_steps:
            torch.compiler.cudagraph_mark_step_begin()


@contextmanager
def many_graphs() -> Iterator[None]:
    """Inside, PyTorch may compile for many widths and picture sizes, and fails aloud when even these are too many."""
    import torch._dynamo.config

    wanted: dict[str, Any] = {
        "recompile_limit": GRAPHS, "accumulated_recompile_limit": 4 * GRAPHS, "fail_on_recompile_limit_hit": True,
    }  # fmt: skip
    with torch._dynamo.config.patch(**wanted):
        yield


def _likeness(value: Any) -> Any:
    """What compiled code depends on: shapes and formats of tensors, and everything else as it is."""
    if isinstance(value, dict):
        value = sorted(value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_likeness, value))
    if hasattr(value, "shape"):
        return tuple(value.shape), str(value.dtype), bool(value.requires_grad)
    return value


def _tensors(value: Any) -> "Iterator[Tensor]":
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "requires_grad"):
        yield value


def _distance(found: "list[Tensor]", wanted: "list[Tensor]") -> float:
    """By how much of its own length the worst gradient is off; those that hardly count are measured by all of them."""
    import torch

    lengths = torch.stack([gradient.float().norm() for gradient in wanted])
    off = torch.stack([(one.float() - other.float()).norm() for one, other in zip(found, wanted, strict=True)])
    return float((off / lengths.clamp(min=float(0.01 * lengths.norm()) + 1e-30)).max())


def _reason(error: BaseException) -> str:
    """The first line of an error; the libraries' advice to developers is left out."""
    error = getattr(error, "inner_exception", None) or error  # PyTorch's own only says which backend it was
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{lines[0][:300].rstrip('.:')}."
