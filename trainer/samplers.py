"""The table of samplers for sample pictures: name -> diffusers scheduler class and its options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.registry import Registry


@dataclass(frozen=True)
class Sampler:
    """A row: the name of a scheduler class in diffusers and the options it is made with."""

    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    {
        "ddim": Sampler("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
        "pndm": Sampler("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
        "lms": Sampler("LMSDiscreteScheduler", {"steps_offset": 1}),
        "euler": Sampler("EulerDiscreteScheduler", {"steps_offset": 1}),
        "euler_a": Sampler("EulerAncestralDiscreteScheduler", {"steps_offset": 1}),
        "heun": Sampler("HeunDiscreteScheduler", {"steps_offset": 1}),
        "dpm_2": Sampler("KDPM2DiscreteScheduler", {"steps_offset": 1}),
        "dpm_2_a": Sampler("KDPM2AncestralDiscreteScheduler", {"steps_offset": 1}),
        "dpmsolver": Sampler(
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "steps_offset": 1},
        ),
        "dpmsolver++": Sampler("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "steps_offset": 1}),
        "dpmsingle": Sampler("DPMSolverSinglestepScheduler", {}),
    },
    aliases={f"k_{name}": name for name in ("lms", "euler", "euler_a", "dpm_2", "dpm_2_a")},
)
NAMES = (*SAMPLERS, *SAMPLERS.aliases)
"""All names that the Kohya GUI offers; those with k_ are other names for the same."""
