"""How long and how fast it learns."""

from typing import ClassVar

from trainer.adapters import types_with
from trainer.declare import Section, setting
from trainer.optimizers import OPTIMIZERS
from trainer.schedules import SCHEDULES

CYCLIC = ("cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay")
"""Schedules that make waves."""


class Duration(Section):
    """How much is trained, and how often the file is saved on the way."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Training"

    train_batch_size: int = setting(
        1, "Train batch size", "Pictures per step. More is smoother and needs more memory: 1 for 8 GB, 2 for 12 GB.", ge=1, soft_max=64
    )
    epoch: int = setting(1, "Epoch", "How often all pictures (times their repeats) are gone through: 10 is a start. More learns more, and by heart sooner.", ge=1, soft_max=100)
    max_train_epochs: int = setting(
        0, "Max train epoch", "Wins over Epoch and Max train steps when it is set. 0 = not set.", ge=0, soft_max=100, advanced=True
    )
    max_train_steps: int = setting(
        0, "Max train steps", "Stop after this many steps whatever the epochs say. 0 = the steps follow from the epochs.",
        ge=0, soft_max=10000, advanced=True,
    )  # fmt: skip
    seed: int | None = setting(
        42, "Seed", "The same seed and settings give the same LoRA. Empty: a new seed each time, which the run names.", ge=0, le=2**32 - 1
    )


class Rates(Section):
    """How fast it learns."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Learning rate"

    learning_rate: float = setting(
        1e-4, "Learning rate", "Size of a learning step: 1e-4 is usual. Too high and the pictures break, too low and nothing happens.",
        ge=0, le=10,
    )  # fmt: skip
    text_encoder_lr: float | None = setting(
        None, "Text Encoder learning rate", "For the part that reads captions; 5e-5 is usual. Empty: as Learning rate; 0: not trained.",
        ge=0, le=10,
    )  # fmt: skip
    unet_lr: float | None = setting(
        None, "Unet learning rate", "For the part that draws; 1e-4 is usual. Empty: as Learning rate; 0: not trained.", ge=0, le=10
    )
    loraplus_lr_ratio: float = setting(
        0.0, "LoRA+ learning rate ratio", "How much faster the half that starts at zero learns; 16 is usual. 0 = as fast as the other.",
        ge=0, soft_max=128, step=1, advanced=True, when={"LoRA_type": types_with("loraplus_lr_ratio")},
    )  # fmt: skip
    loraplus_unet_lr_ratio: float = setting(
        0.0, "LoRA+ Unet learning rate ratio", "The same for the part that draws alone; it wins over the one above. 0 = not set.",
        ge=0, soft_max=128, step=1, advanced=True, when={"LoRA_type": types_with("loraplus_unet_lr_ratio")},
    )  # fmt: skip
    loraplus_text_encoder_lr_ratio: float = setting(
        0.0, "LoRA+ Text Encoder learning rate ratio", "The same for the part that reads captions alone. 0 = not set.",
        ge=0, soft_max=128, step=1, advanced=True, when={"LoRA_type": types_with("loraplus_text_encoder_lr_ratio")},
    )  # fmt: skip
    lr_scheduler: str = setting(
        "cosine", "LR Scheduler", "How the rate changes over the run; the plot shows it. cosine is usual, constant goes with optimizers that find the rate.", choices=SCHEDULES
    )
    lr_scheduler_type: str = setting(
        "", "LR Scheduler type", "A scheduler class of PyTorch by its name, or of any package by its dotted path; it wins over LR Scheduler. Usually empty.",
        choices=("", "CosineAnnealingLR"), custom=True, advanced=True,
    )  # fmt: skip
    lr_scheduler_args: str = setting(
        "", "LR scheduler extra arguments", "name=value, several separated by spaces, such as min_lr_rate=0.05 or T_max=1000 eta_min=1e-5.",
        kind="lines", advanced=True,
    )  # fmt: skip
    lr_warmup: float = setting(
        10.0, "LR warmup (% of total steps)", "The rate rises from zero over this share of the run; 5 to 10 keeps the first steps from breaking things.", ge=0, le=100, step=1
    )
    lr_warmup_steps: int = setting(
        0, "LR warmup steps (override)", "Warm-up in steps instead of a share of the run. 0 = the percentage counts.", ge=0, soft_max=1000, advanced=True
    )
    lr_scheduler_num_cycles: float = setting(
        1.0, "LR # cycles", "LR number of cycles: how many waves the cosine schedules make; 1 is usual, 3 with cosine_with_restarts.", gt=0, soft_max=20,
        when={"lr_scheduler": CYCLIC}, kohya=("lr_num_cycles",),
    )  # fmt: skip
    lr_scheduler_power: float = setting(
        1.0, "LR power", "Bend of the polynomial schedule: 1 is a straight line, 2 falls early.", ge=0, soft_max=10, step=0.01,
        when={"lr_scheduler": "polynomial"}, kohya=("lr_power",),
    )  # fmt: skip
    optimizer: str = setting(
        "AdamW8bit", "Optimizer",
        "AdamW8bit saves memory; AdamW is exact; Prodigy finds the rate itself (set the rate to 1). Any other class by its dotted path.",
        choices=OPTIMIZERS, custom=True,
    )  # fmt: skip
    optimizer_args: str = setting(
        "", "Optimizer extra arguments", "name=value, several separated by spaces, such as weight_decay=0.1 betas=0.9,0.99. "
        "For Adafactor at the rate you give: scale_parameter=False relative_step=False warmup_init=False.",
        kind="lines", advanced=True,
    )  # fmt: skip
    max_grad_norm: float = setting(
        1.0, "Max grad norm", "Larger gradients are shortened to this length, which tames outliers. 0 = never.",
        ge=0, soft_max=10, step=0.1, advanced=True,
    )  # fmt: skip
    stop_text_encoder_training: int = setting(
        0, "Stop TE (% of total steps)", "Stop text encoder training after this share of the run: from there on only the U-Net learns. 0 = never; -1 = from the start.",
        ge=-1, le=100, advanced=True, kohya=("stop_text_encoder_training_pct",),
    )  # fmt: skip
