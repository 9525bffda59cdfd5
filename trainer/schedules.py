"""Learning-rate schedules as pure functions: step in, factor of the base rate out."""

from trainer.registry import Registry

SCHEDULES: Registry[str] = Registry("LR scheduler", {"constant": "", "cosine": "", "cosine_with_restarts": "", "polynomial": "", "cosine_with_min_lr": ""})
