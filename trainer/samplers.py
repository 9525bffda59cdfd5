"""The table of samplers for sample pictures: name -> diffusers scheduler class and its options."""

from trainer.registry import Registry

SAMPLERS: Registry[str] = Registry("sampler", {"euler_a": "", "ddim": ""})
