"""When memory runs out: in which phase it was, and what to try, cheapest first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from trainer.devices import device_name, is_out_of_memory
from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.settings import Settings

LOADING, PREPARING, TRAINING = "loading the model", "preparing the pictures", "training"
"""What a run needs memory for, one after the other."""


@contextmanager
def memory_for(doing: str, s: Settings, device: torch.device) -> Iterator[None]:
    """Turn running out of memory into a `Failure` that says while doing what, and what to try, cheapest first."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        where = "memory" if device.type == "cpu" else f"memory of {device_name(device)}"
        raise Failure(f"There was not enough {where} for {doing}.", memory_advice(s, device, doing)) from error


def memory_advice(s: Settings, device: torch.device, doing: str = TRAINING) -> str:
    """What saves memory in a phase with these settings: first what costs nothing, last what costs quality."""
    loading, preparing, training = (doing == phase for phase in (LOADING, PREPARING, TRAINING))
    width, height = s.resolution
    card = device.type != "cpu"
    text = s.stop_text_encoder_training >= 0 and s.text_encoder_lr != 0
    accumulated = s.train_batch_size * s.gradient_accumulation_steps
    options = (
        # The result is the same, and so is the time.
        (card and s.highvram, "switch highvram off"),
        (training and s.mem_eff_attn is False and s.xformers == "none", "set CrossAttention to sdpa"),
        (training and not s.cache_latents and not s.color_aug, "switch Cache latents on"),
        (preparing and s.vae_batch_size != 1, "set VAE batch size to 1"),
        (
            training and s.dynamo_mode == "reduce-overhead" and s.dynamo_backend == "inductor",
            "set Dynamo mode to default",
        ),
        (card and s.mixed_precision == "no", "use Mixed precision bf16 or fp16"),
        (
            training and s.train_batch_size > 1,
            f"set Train batch size to 1 and Gradient accumulate steps to {accumulated} (the result is the same)",
        ),
        (
            s.sdxl and not preparing and not s.sdxl_cache_text_encoder_outputs,
            "switch Cache text encoder outputs on (the text encoders are not trained then)",
        ),
        # It takes longer.
        (
            training and not s.gradient_checkpointing,
            "switch Gradient checkpointing on (the result is the same, a third slower)",
        ),
        # It is a little less exact.
        (training and s.optimizer in EIGHT_BIT, f"use the optimizer {EIGHT_BIT.get(s.optimizer)}"),
        (not preparing and not s.fp8_base, "switch fp8 base on"),
        # It is much slower.
        (card and not preparing and not s.lowvram, "switch lowvram on (slower)"),
        # It is another result.
        (training and text, "set Text Encoder learning rate to 0"),
        (training and s.network_dim > 16, "use a smaller Network Rank"),
        (not loading and width * height > 512 * 512, f"use a Max resolution smaller than {width},{height}"),
        (True, "close other programs that use the graphics card" if card else "close other programs"),
    )
    return "Try in this order: " + "; ".join(text for applies, text in options if applies) + "."


EIGHT_BIT = {"AdamW": "AdamW8bit", "Lion": "Lion8bit", "SGDNesterov": "SGDNesterov8bit", "PagedAdamW": "PagedAdamW8bit"}
"""Optimizers whose memory could be a quarter, and what that one is called."""
