"""What is written to disk, and when."""

from typing import ClassVar

from trainer.declare import Section, setting


class Saving(Section):
    """How often the file is saved on the way to the last one."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Saving"

    save_every_n_epochs: int = setting(
        1, "Save every N epochs", "So that you can choose the best one afterwards. 0 = only the last.", ge=0, soft_max=100
    )
    save_precision: str = setting(
        "fp16", "Save precision", "fp16 is small and good enough; float keeps every bit, at twice the size.",
        choices=("float", "fp16", "bf16"),
    )  # fmt: skip


class States(Section):
    """Everything needed to stop today and go on tomorrow."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Saving and resuming"

    save_every_n_steps: int = setting(0, "Save every N steps", "0 = not by steps.", ge=0, soft_max=5000)
    save_state: bool = setting(
        False, "Save training state", "Beside each saved file, everything needed to go on from there exactly. A stop always saves one."
    )
    resume: str = setting("", "Resume from saved training state", "A state folder to go on from.", kind="folder")
