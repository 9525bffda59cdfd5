"""What the machine can do: the device, its number formats, its memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.report import Reporter
    from trainer.settings import Settings

DTYPES = {
    "no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "float": torch.float32,
    "fp8": torch.bfloat16,  # what is not multiplied in 8 bits
}  # fmt: skip
WORDS = {torch.float32: "no", torch.float16: "fp16", torch.bfloat16: "bf16"}


def pick_device() -> torch.device:
    """The machine's accelerator (CUDA, ROCm, XPU, MPS …); the processor without one or with ACCELERATE_USE_CPU set."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return torch.device("cpu")
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def device_name(device: torch.device) -> str:
    """What people call it: "NVIDIA GeForce RTX 3060", "the processor"."""
    if device.type == "cpu":
        return "the processor"
    if device.type == "mps":
        return f"{platform.machine()} Mac graphics"
    module = torch.get_device_module(device)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else device.type


def device_memory(device: torch.device) -> int:
    """Bytes of memory the device has in all; 0 when it does not say."""
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().total)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    module = torch.get_device_module(device)
    return int(module.get_device_properties(device).total_memory) if hasattr(module, "get_device_properties") else 0


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has used: on an accelerator of its memory, on the processor of the machine's."""
    if device.type == "cpu":
        import psutil

        info = psutil.Process().memory_info()
        return int(getattr(info, "peak_wset", 0) or _peak_resident() or info.rss)
    module = torch.get_device_module(device)
    return int(module.max_memory_allocated(device)) if hasattr(module, "max_memory_allocated") else 0


def memory_use(device: torch.device) -> tuple[int, int]:
    """(the most bytes used so far, bytes there are), as a run tells them."""
    return peak_memory(device), device_memory(device)


def _peak_resident() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def supports(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why `dtype` cannot be used for mixed precision on `device`, as a sentence without its end; None when it can."""
    if dtype == torch.float32:
        return None
    word = WORDS[dtype]
    if device.type == "cpu":
        return f"{word} is for graphics cards; the processor is faster and more exact without"
    missing = f"{word} is not supported by {device_name(device)}"
    if device.type == "cuda" and dtype == torch.bfloat16:
        return None if torch.cuda.is_bf16_supported(including_emulation=False) else missing
    try:
        # The two operations everything is made of; what a device cannot do it refuses here.
        with torch.no_grad(), torch.autocast(device.type, dtype):
            x = torch.ones(1, 8, 8, 8, device=device)
            torch.nn.functional.conv2d(x, torch.ones(8, 8, 3, 3, device=device)).flatten(1) @ torch.ones(
                288, 8, device=device
            )
    except (RuntimeError, TypeError, NotImplementedError):
        return missing
    return None


def why_not_float8(device: torch.device) -> str | None:
    """Why weights cannot be kept in 8 bits on `device` ("fp8 base"), without the sentence's end; None when they can."""
    try:
        torch.ones(8, device=device).to(torch.float8_e4m3fn).to(torch.float16).mul_(2)
    except (RuntimeError, TypeError, NotImplementedError):
        return f"8-bit weights are not supported by {device_name(device)}"
    return None


def why_not_fp8(device: torch.device) -> str | None:
    """Why `device` cannot multiply in 8 bits (Mixed precision "fp8"), without the sentence's end; None when it can."""
    if device.type == "cpu":
        return "fp8 is for graphics cards; the processor is faster and more exact without"
    try:
        one = torch.ones((), device=device)
        eight = torch.ones(16, 16, device=device).to(torch.float8_e4m3fn)
        torch._scaled_mm(eight, eight.t(), one, one, out_dtype=torch.bfloat16)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError, ValueError):
        return f"{device_name(device)} cannot multiply in 8 bits (RTX 40, H100 and later can)"
    return None


class Scaler(torch.amp.GradScaler):
    """Keeps small fp16 gradients from vanishing (Micikevicius et al. 2018, section 3.2); does nothing unless enabled.

    Gradients that are fp16 themselves, as with "Full fp16 training", are accepted.
    """

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: torch.Tensor, found_inf: torch.Tensor, allow_fp16: bool
    ) -> dict[torch.device, torch.Tensor]:
        return super()._unscale_grads_(optimizer, inv_scale, found_inf, True)


@dataclass
class Precision:
    """Where and in which number format is calculated: `dtype` is of the frozen weights and large operations, `trained`
    of the weights that are trained, `eight_bit` whether linear layers multiply in float8."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    trained: torch.dtype = torch.float32
    eight_bit: bool = False

    def __post_init__(self) -> None:
        self.scaler = Scaler(self.device.type, enabled=self.dtype == torch.float16)
        self.scaler.scale(torch.zeros((), device=self.device))  # so that it can step in a process without a batch, too

    def autocast(self) -> AbstractContextManager[object]:
        """Inside, large operations run in `dtype` and delicate ones in float32."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)


def choose_precision(s: Settings, report: Reporter) -> Precision:
    """The device and the wanted precision. On the processor it is float32, and a note says so; elsewhere a precision
    that the device lacks is a `Failure`."""
    device, dtype, word = pick_device(), DTYPES[s.mixed_precision], s.mixed_precision
    if (s.fp8_base or s.fp8_base_unet) and (lack := why_not_float8(device)):
        key = "fp8_base" if s.fp8_base else "fp8_base_unet"
        raise Failure(f"fp8 base: {lack}.", "Untick it, or use Gradient checkpointing to save memory.", key)
    reason = why_not_fp8(device) if word == "fp8" else supports(dtype, device)
    if reason and device.type == "cpu":
        report.note(f"Mixed precision: {reason}, so this run uses no (float32).", key="mixed_precision")
        return Precision(device)
    if reason:
        # What does the same on this device, as nearly as possible.
        others = ("bf16", "fp16") if word == "fp8" else ("fp16",) if word == "bf16" else ()
        other = next((name for name in others if supports(DTYPES[name], device) is None), "no")
        raise Failure(f"Mixed precision: {reason}.", f"Use {other}.", "mixed_precision")
    trained = dtype if s.full_fp16 or s.full_bf16 else torch.float32
    return Precision(device, dtype, trained, eight_bit=word == "fp8")


def lower(weights: Iterable[torch.nn.Parameter], precision: Precision) -> None:
    """Put trained weights into the format that is wanted of them ("Full fp16 training", "Full bf16 training")."""
    if precision.trained != torch.float32:
        for weight in weights:
            weight.data = weight.data.to(precision.trained)


def put(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the processor on the device, without waiting for what the device is busy with."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


OUT_OF_MEMORY = ("out of memory", "not enough memory", "alloc_cpu", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any device means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in OUT_OF_MEMORY)
