"""How the machine is used."""

from typing import ClassVar

from trainer.attention import CHOICES
from trainer.compiling import BACKENDS, MODES
from trainer.declare import Section, setting


class Precision(Section):
    """How exactly the machine calculates, and with how many processor threads."""

    tab: ClassVar[str] = "Parameters > Basic"
    title: ClassVar[str] = "Machine"

    mixed_precision: str = setting(
        "fp16", "Mixed precision", "fp16 for most graphics cards, bf16 for RTX 30 and later, fp8 (linear layers in 8 bits, the rest in bf16) for RTX 40 and later; on the processor it is always no.",
        choices=("no", "fp16", "bf16", "fp8"),
    )  # fmt: skip
    num_cpu_threads_per_process: int = setting(
        2, "Number of CPU threads per core", "Processor threads the training may use: 2 is enough beside a graphics card, as many as there are cores without one.",
        ge=1, soft_max=64, advanced=True,
    )  # fmt: skip


class Memory(Section):
    """Ways to fit into less memory."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Memory"

    gradient_accumulation_steps: int = setting(
        1, "Gradient accumulate steps", "Collect this many batches before each learning step: 4 with a batch of 1 learns as from 4, in the memory of 1.",
        ge=1, soft_max=120,
    )  # fmt: skip
    gradient_checkpointing: bool = setting(
        False, "Gradient checkpointing", "Half the memory for about a third more time; the result is the same."
    )
    fp8_base: bool = setting(
        False, "fp8 base", "Keep the frozen model in 8 bits a weight, half of fp16: a little less exact, and slower on a processor."
    )
    fp8_base_unet: bool = setting(
        False, "fp8 base U-Net only", "The same for the U-Net alone; the text encoder stays exact.", advanced=True
    )
    full_fp16: bool = setting(
        False, "Full fp16 training (experimental)", "The LoRA's own weights and gradients in fp16 too. Saves little and loses small steps; needs Mixed precision fp16.",
        advanced=True,
    )  # fmt: skip
    full_bf16: bool = setting(
        False, "Full bf16 training (experimental)", "The LoRA's own weights and gradients in bf16 too. Saves little and loses small steps; needs Mixed precision bf16.",
        advanced=True,
    )  # fmt: skip
    xformers: str = setting(
        "sdpa", "CrossAttention", "How attention is calculated: sdpa is PyTorch's own and fast everywhere; xformers is as good where it is installed; none takes much memory. The result is the same.",
        choices=CHOICES,
    )  # fmt: skip
    mem_eff_attn: bool = setting(
        False, "Memory efficient attention", "Calculate attention in slices, slowly: for devices where sdpa takes too much memory.", advanced=True
    )
    vae_batch_size: int = setting(
        0, "VAE batch size", "Pictures the VAE encodes at once when latents are cached; 0 fits it to the device and the resolution.",
        ge=0, le=32, advanced=True,
    )  # fmt: skip
    highvram: bool = setting(
        False, "highvram", "Leave the VAE and the text encoders on the graphics card: quicker samples, more memory.", advanced=True
    )
    lowvram: bool = setting(
        False, "lowvram", "Keep the frozen U-Net in the computer's memory and fetch it layer by layer: far less memory on the graphics card, and slower.",
        advanced=True,
    )  # fmt: skip


class Compiling(Section):
    """The U-Net compiled by PyTorch: minutes before the first step, then each step is quicker."""

    tab: ClassVar[str] = "Parameters > Advanced"
    title: ClassVar[str] = "Compiling"

    dynamo_backend: str = setting(
        "no", "Dynamo backend", "no: nothing is compiled. inductor is the one that makes training faster; eager and aot_eager are for finding faults.",
        choices=BACKENDS, advanced=True,
    )  # fmt: skip
    dynamo_mode: str = setting(
        "default", "Dynamo mode", "For inductor: reduce-overhead records whole steps (more memory), max-autotune searches long for the fastest kernels.",
        choices=MODES, when={"dynamo_backend": "inductor"}, advanced=True,
    )  # fmt: skip
    dynamo_use_fullgraph: bool = setting(
        False, "Dynamo use fullgraph", "Compile the U-Net as one piece or not at all.",
        when={"dynamo_backend": tuple(name for name in BACKENDS if name != "no")}, advanced=True,
    )  # fmt: skip
    dynamo_use_dynamic: bool = setting(
        False, "Dynamo use dynamic", "Compile once for every picture size; otherwise again when a second size comes.",
        when={"dynamo_backend": tuple(name for name in BACKENDS if name != "no")}, advanced=True,
    )  # fmt: skip
