"""What the machine can do, asked in a process of its own so that the page need not load torch."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from functools import cache


@dataclass(frozen=True)
class Hardware:
    """`device` is a torch device type; `refuses` tells by precision ("fp16", "bf16") why it cannot be used here."""

    device: str = "cpu"
    name: str = "the processor"
    refuses: dict[str, str] = field(default_factory=dict)
    memory: int = 0


@cache
def hardware() -> Hardware:
    """The machine's facts; the first call may take seconds, later ones nothing."""
    if "torch" in sys.modules:
        return look()
    command = [sys.executable, "-m", "trainer.hardware"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
    try:
        return Hardware(**json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return Hardware()


def look() -> Hardware:
    """The facts, read from torch in this process."""
    import torch

    from trainer.devices import device_memory, device_name, pick_device, supports

    device = pick_device()
    reasons = {word: supports(dtype, device) for word, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16))}
    refuses = {word: reason for word, reason in reasons.items() if reason}
    return Hardware(device.type, device_name(device), refuses, device_memory(device))


if __name__ == "__main__":
    print(json.dumps(asdict(look())))
