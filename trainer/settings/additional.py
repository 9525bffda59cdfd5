"""Options of sd-scripts that people paste as they find them."""

from typing import ClassVar

from trainer.declare import Section, setting
from trainer.settings.sd_scripts import SECRET_FLAGS


class Additional(Section):
    """Options of sd-scripts as guides and other people's presets give them; each has, or is, something on this page."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Additional parameters"

    additional_parameters: str = setting(
        "", "Additional parameters",
        "Paste flags such as --max_grad_norm=0 --network_train_unet_only: each is moved to its field, or its sentence says what it is here.",
        kind="lines", advanced=True, hides=SECRET_FLAGS,
    )  # fmt: skip
