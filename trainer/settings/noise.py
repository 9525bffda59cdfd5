"""What the loss looks at."""

from typing import ClassVar

from trainer.declare import Section, setting

ROUNDED = ("huber", "smooth_l1")
"""Losses that are square for small mistakes and linear for large ones."""


class Loss(Section):
    """Noise that is added to pictures, and how mistakes are weighed."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Noise and loss"

    masked_loss: bool = setting(
        False, "Masked loss", "Only part of a picture counts, as its mask or its transparency says; good for subjects that are cut out.",
        advanced=True,
    )
    conditioning_data_dir: str = setting(
        "", "Mask folder", "Optional. Pictures named as yours are, white where yours count and black where not; masks/cat.png for cat.jpg.",
        kind="folder", when={"masked_loss": True}, advanced=True,
    )
    alpha_mask: bool = setting(
        True, "Transparency as mask", "Where a picture has no mask of its own, what is transparent in it does not count, half transparent half.",
        when={"masked_loss": True}, advanced=True,
    )
    min_snr_gamma: float = setting(
        0.0, "Min SNR gamma", "Keeps easy, nearly clean steps from dominating; 5 is usual and learns faster. 0 = off.", ge=0, soft_max=20
    )
    debiased_estimation_loss: bool = setting(
        False, "Debiased Estimation loss", "Lets noisy steps, where the whole picture is decided, count more; try it instead of Min SNR gamma.",
        advanced=True,
    )
    scale_v_pred_loss_like_noise_pred: bool = setting(
        False, "Scale v prediction loss", "For models that predict velocity: mistakes count as if the model predicted noise; good with Min SNR gamma off.",
        advanced=True,
    )
    v_pred_like_loss: float = setting(
        0.0, "V Pred like loss", "For models that predict noise: adds this much of a velocity loss, so very noisy steps count more; 0.3 is a start. 0 = off.",
        ge=0, le=1, step=0.01, advanced=True,
    )
    noise_offset_type: str = setting(
        "Original", "Noise offset type", "Original moves whole pictures brighter or darker, Multires adds soft clouds of many sizes; Original is usual.",
        choices=("Original", "Multires"),
    )
    noise_offset: float = setting(
        0.0, "Noise offset", "Lets the model learn darker and brighter pictures; 0.05 is usual. 0 = off.", ge=0, le=1, step=0.01,
        when={"noise_offset_type": "Original"},
    )
    noise_offset_random_strength: bool = setting(
        False, "Noise offset random strength", "The offset is anything from 0 to Noise offset in each batch; then 0.1 is usual there.",
        when={"noise_offset_type": "Original"}, advanced=True,
    )
    adaptive_noise_scale: float = setting(
        0.0, "Adaptive noise scale", "Adds this times a picture's own brightness to Noise offset; about a tenth of the offset is usual. 0 = off.",
        ge=-1, le=1, step=0.001, when={"noise_offset_type": "Original"}, advanced=True,
    )
    multires_noise_iterations: int = setting(
        0, "Multires noise iterations", "How many sizes of clouds are added, each smaller in number of pixels; 6 to 10 are usual. 0 = off.",
        ge=0, soft_max=64, when={"noise_offset_type": "Multires"},
    )
    multires_noise_discount: float = setting(
        0.3, "Multires noise discount", "How strong each coarser cloud is beside the one before; 0.1 to 0.3 are usual, 0.8 is much.",
        ge=0, le=1, step=0.01, when={"noise_offset_type": "Multires"},
    )
    ip_noise_gamma: float = setting(
        0.0, "IP noise gamma", "Adds noise the model is not told of, so it forgives its own mistakes when drawing; 0.1 is usual. 0 = off.",
        ge=0, le=1, step=0.01, advanced=True,
    )
    ip_noise_gamma_random_strength: bool = setting(
        False, "IP noise gamma random strength", "That noise has anything from 0 to IP noise gamma in each batch; usually off.",
        advanced=True,
    )
    zero_terminal_snr: bool = setting(
        False, "Zero terminal SNR", "The noisiest step becomes pure noise, so pictures can be very dark or bright; only for models that predict velocity.",
        advanced=True,
    )
    min_timestep: int = setting(
        0, "Min Timestep", "The cleanest step that is trained; raise it (200) to learn layout rather than texture. 0 is usual.",
        ge=0, le=1000, advanced=True,
    )
    max_timestep: int = setting(
        1000, "Max Timestep", "Only steps below this are trained; lower it (600) to learn texture rather than layout. 1000 is usual.",
        ge=1, le=1000, advanced=True,
    )
    loss_type: str = setting(
        "l2", "Loss type", "How a mistake is measured; huber and smooth_l1 are less led astray by odd pictures, l2 is usual.",
        choices=("huber", "smooth_l1", "l1", "l2"), advanced=True,
    )
    huber_schedule: str = setting(
        "snr", "Huber schedule", "Whether noisy steps are as forgiving as clean ones (constant) or more so; snr is usual.",
        choices=("constant", "exponential", "snr"), when={"loss_type": ROUNDED}, advanced=True,
    )
    huber_c: float = setting(
        0.1, "Huber C", "Mistakes above this count less than squared; the smaller, the more is forgiven. 0.1 is usual.",
        gt=0, le=1, step=0.01, when={"loss_type": ROUNDED}, advanced=True,
    )
    huber_scale: float = setting(
        1.0, "Huber scale", "Multiplies Huber C over all steps; raise it to come closer to l2. 1 is usual.",
        gt=0, soft_max=10, step=0.01, when={"loss_type": ROUNDED, "huber_schedule": ("constant", "exponential")}, advanced=True,
    )
    prior_loss_weight: float = setting(
        1.0, "Prior loss weight", "How much regularisation pictures count beside yours: 1 as much, 0.5 half as much, which lets your subject through more.", ge=0, soft_max=1, step=0.01
    )
