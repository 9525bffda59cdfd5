"""What the loss looks at."""

from typing import ClassVar

from trainer.declare import Section, setting


class Loss(Section):
    """Noise that is added to pictures, and how mistakes are weighed."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Noise and loss"

    min_snr_gamma: float = setting(
        0.0, "Min SNR gamma", "Keeps easy, nearly clean steps from dominating; 5 is usual and learns faster. 0 = off.", ge=0, soft_max=20
    )
    noise_offset: float = setting(
        0.0, "Noise offset", "Lets the model learn darker and brighter pictures; 0.05 is usual. 0 = off.", ge=0, le=1, step=0.01
    )
    prior_loss_weight: float = setting(
        1.0, "Prior loss weight", "How much regularisation pictures count beside yours.", ge=0, soft_max=1, step=0.01
    )
