"""How the machine is used."""

from typing import ClassVar

from trainer.declare import Section, setting


class Precision(Section):
    """How exactly the machine calculates, and with how many processor threads."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Machine"

    mixed_precision: str = setting(
        "fp16", "Mixed precision", "fp16 for most graphics cards, bf16 for RTX 30 and later; on the processor it is always no.",
        choices=("no", "fp16", "bf16"),
    )  # fmt: skip
    num_cpu_threads_per_process: int = setting(
        2, "Number of CPU threads per core", "Processor threads the training may use; more than the machine has cores slows it down.",
        ge=1, soft_max=64, advanced=True,
    )  # fmt: skip


class Memory(Section):
    """Ways to fit into less memory."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Memory"

    gradient_accumulation_steps: int = setting(
        1, "Gradient accumulate steps", "Collect this many batches before each learning step: like a larger batch, without its memory.",
        ge=1, soft_max=120,
    )  # fmt: skip
    gradient_checkpointing: bool = setting(
        False, "Gradient checkpointing", "Half the memory for about a third more time; the result is the same."
    )
