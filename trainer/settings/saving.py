"""What is written to disk, and when."""

from typing import ClassVar

from trainer.declare import Section, setting


class Saving(Section):
    """How often the file is saved on the way to the last one."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Saving"

    save_every_n_epochs: int = setting(
        1, "Save every N epochs", "So that you can choose the best one afterwards; 1 keeps each epoch. 0 = only the last.", ge=0, soft_max=100
    )
    save_precision: str = setting(
        "fp16", "Save precision", "fp16 is small and good enough; float keeps every bit, at twice the size.",
        choices=("float", "fp16", "bf16"),
    )  # fmt: skip


class States(Section):
    """Everything needed to stop today and go on tomorrow."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Saving and resuming"

    save_every_n_steps: int = setting(0, "Save every N steps", "Also save after every so many steps, such as 500, where epochs are long. 0 = not by steps.", ge=0, soft_max=5000)
    save_last_n_steps: int = setting(
        0,
        "Save last N steps",
        "Of the files saved every N steps, those of the last N steps are kept and older ones of this run removed. 0 = keep all.",
        ge=0, soft_max=20000,
    )  # fmt: skip
    save_last_n_steps_state: int = setting(
        0, "Save last N steps state", "The same for training states. 0 = as for the files.", ge=0, soft_max=20000
    )
    save_last_n_epochs: int = setting(
        0,
        "Save last N epochs",
        "So many of the files saved every N epochs are kept, older ones of this run are removed. 0 = keep all.",
        ge=0, soft_max=100,
    )  # fmt: skip
    save_last_n_epochs_state: int = setting(
        0, "Save last N epochs state", "The same for training states. 0 = as for the files.", ge=0, soft_max=100
    )
    save_state: bool = setting(
        False, "Save training state", "Beside each saved file, everything needed to go on from there exactly. A stop always saves one."
    )
    save_state_on_train_end: bool = setting(
        False, "Save training state at end of training", "Only beside the last file; more epochs can then be added later."
    )
    resume: str = setting(
        "", "Resume from saved training state", "A state folder to go on from; Browse lists those that were saved.", kind="state",
        aside='(path to "last-state" state folder)',
    )  # fmt: skip
