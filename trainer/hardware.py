"""What the machine can do, asked in a process of its own so that the page need not load torch."""

import importlib.util
import json
import re
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Hardware:
    """`device` is a torch device type; `refuses` says why not, by precision: "fp16", "bf16", "fp8", "fp8 base"."""

    device: str = "cpu"
    name: str = "the processor"
    refuses: dict[str, str] = field(default_factory=dict)
    memory: int = 0
    count: int = 0
    """How many graphics cards there are."""


FP8_BASE = "fp8 base"
"""Weights kept in 8 bits, as against "fp8", calculations in 8 bits."""

UNKNOWN = Hardware(device="", name="")
"""What is known while nobody has answered yet: no check finds fault with it."""

_asking: threading.Thread | None = None


def hardware() -> Hardware:
    """The machine's facts. The first call may take seconds; after `ask_early`, `UNKNOWN` until they are there."""
    return UNKNOWN if asking() else _answer()


def ask_early() -> None:
    """Begin to look, without waiting: for a page that must be quick."""
    global _asking
    if _asking is None:
        _asking = threading.Thread(target=_answer, daemon=True)
        _asking.start()


def asking() -> bool:
    """Whether the answer is still on its way."""
    return _asking is not None and _asking.is_alive()


def wait() -> None:
    """Wait for the answer that `ask_early` asked for: for a decision that needs it."""
    if _asking is not None:
        _asking.join()


@cache
def _answer() -> Hardware:
    if "torch" in sys.modules:
        return look()
    if sys.platform != "darwin" and built_for_the_processor():
        return Hardware()
    command = [sys.executable, "-m", "trainer.hardware"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False
        )
        return Hardware(**json.loads(done.stdout.strip().splitlines()[-1]))
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError, TypeError):
        return Hardware()


def built_for_the_processor() -> bool:
    """Whether the installed torch knows no accelerator at all, read from its version file without loading it."""
    spec = importlib.util.find_spec("torch")
    try:
        text = Path(spec.origin or "").with_name("version.py").read_text(encoding="utf-8") if spec else ""
    except OSError:
        return False
    found = dict(re.findall(r"^(cuda|hip|xpu)\b[^=]*= *(\S+)", text, re.MULTILINE))
    return len(found) == 3 and set(found.values()) == {"None"}


def look() -> Hardware:
    """The facts, read from torch in this process."""
    import torch

    from trainer.devices import device_memory, device_name, pick_device, supports, why_not_float8, why_not_fp8

    device = pick_device()
    reasons = {word: supports(dtype, device) for word, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16))}
    reasons |= {"fp8": why_not_fp8(device), FP8_BASE: why_not_float8(device)}
    refuses = {word: reason for word, reason in reasons.items() if reason}
    count = torch.accelerator.device_count() if device.type != "cpu" else 0
    return Hardware(device.type, device_name(device), refuses, device_memory(device), count)


if __name__ == "__main__":
    print(json.dumps(asdict(look())))
