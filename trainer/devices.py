"""What the machine can do: the device, its number formats, its memory; and what to try when memory runs out."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.report import Reporter
    from trainer.settings import Settings

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "float": torch.float32}
WORDS = {torch.float32: "no", torch.float16: "fp16", torch.bfloat16: "bf16"}


def pick_device() -> torch.device:
    """The machine's accelerator (CUDA, ROCm, XPU, MPS …), else the processor."""
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


@dataclass
class Precision:
    """Where and in which number format is calculated. Trained weights stay float32; `dtype` is for everything else."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        """Keeps small fp16 gradients from vanishing (Micikevicius et al. 2018, section 3.2); does nothing otherwise."""

    def autocast(self) -> AbstractContextManager[object]:
        """Inside, large operations run in `dtype` and delicate ones in float32."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)


def choose_precision(s: Settings, report: Reporter) -> Precision:
    """The device and the wanted precision. On the processor it is float32, and a note says so; elsewhere a precision
    that the device lacks is a `Failure`."""
    device, dtype = pick_device(), DTYPES[s.mixed_precision]
    reason = supports(dtype, device)
    if reason and device.type == "cpu":
        report.note(f"Mixed precision: {reason}, so this run uses no (float32).", key="mixed_precision")
        return Precision(device)
    if reason:
        other = "fp16" if dtype == torch.bfloat16 and supports(torch.float16, device) is None else "no"
        raise Failure(f"Mixed precision: {reason}.", f"Use {other}.", "mixed_precision")
    return Precision(device, dtype)


def put(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the processor on the device, without waiting for what the device is busy with."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


OUT_OF_MEMORY = ("out of memory", "not enough memory", "alloc_cpu", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any device means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in OUT_OF_MEMORY)


@contextmanager
def memory_for(doing: str, s: Settings, device: torch.device) -> Iterator[None]:
    """Turn running out of memory into a `Failure` that says while doing what, and what to try, cheapest first."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        where = "memory" if device.type == "cpu" else f"memory of {device_name(device)}"
        raise Failure(f"There was not enough {where} for {doing}.", memory_advice(s, device)) from error


def memory_advice(s: Settings, device: torch.device) -> str:
    """What saves memory with these settings, from what costs nothing to what costs quality."""
    width, height = s.resolution
    options = (
        (not s.cache_latents, "switch Cache latents on"),
        (device.type != "cpu" and s.mixed_precision == "no", "use Mixed precision fp16 or bf16"),
        (
            s.train_batch_size > 1,
            f"set Train batch size to 1 and Gradient accumulate steps to "
            f"{s.train_batch_size * s.gradient_accumulation_steps} (the result is the same)",
        ),
        (not s.gradient_checkpointing, "switch Gradient checkpointing on (the result is the same, a third slower)"),
        (s.optimizer == "AdamW", "use the optimizer AdamW8bit"),
        (s.stop_text_encoder_training >= 0 and s.text_encoder_lr != 0, "set Text Encoder learning rate to 0"),
        (s.network_dim > 16, "use a smaller Network Rank"),
        (width * height > 512 * 512, f"use a Max resolution smaller than {width},{height}"),
        (True, "close other programs that use the graphics card" if device.type != "cpu" else "close other programs"),
    )
    return "Try in this order: " + "; ".join(text for applies, text in options if applies) + "."
