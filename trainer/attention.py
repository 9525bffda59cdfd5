"""How the U-Net's attention is calculated: one result, several ways to it. Torch-free at import."""

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.models import Model
    from trainer.report import Reporter
    from trainer.settings import Settings

CHOICES = ("none", "sdpa", "xformers")

ROWS = 1024
"""Queries that sliced attention looks at together."""


def why_not_xformers(device_type: str) -> str | None:
    """Why xformers cannot be used on this kind of device, as a sentence without its end; None when it can."""
    if importlib.util.find_spec("xformers") is None:
        return "the package xformers is not installed here"
    if device_type not in ("cuda", ""):
        return "xformers is for NVIDIA and AMD graphics cards"
    return None


def choose_attention(model: "Model", s: "Settings", report: "Reporter") -> None:
    """Set the U-Net's attention to what the settings say; sdpa with a note where that is not to be had."""
    from diffusers.models import attention_processor as made

    if s.mem_eff_attn:
        model.unet.set_attn_processor(SlicedAttention())
        return
    kind = s.xformers
    if kind == "xformers" and (reason := why_not_xformers(model.device.type)):
        report.note(f"CrossAttention: {reason}; sdpa is used, with the same result.", key="xformers")
        kind = "sdpa"
    processors = {
        "none": made.AttnProcessor,
        "sdpa": made.AttnProcessor2_0,
        "xformers": made.XFormersAttnProcessor,
    }
    model.unet.set_attn_processor(processors[kind]())
    if kind == "none":
        for encoder in model.text_encoders:
            encoder.set_attn_implementation("eager")


class SlicedAttention:
    """Attention in slices of its queries, none of which is remembered (Rabe & Staats 2021, section 2).

    Backward calculates a slice again, so that only one block of `ROWS` x keys exists at a time, on every device.
    """

    def __call__(
        self, attn: Any, hidden_states: "Tensor", encoder_hidden_states: "Tensor | None" = None,
        attention_mask: "Tensor | None" = None, temb: "Tensor | None" = None, **others: Any,
    ) -> "Tensor":  # fmt: skip
        """As the U-Net calls its attention: states [B, N, C], others [B, M, C'] or the same ones; no mask."""
        assert attention_mask is None
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(tensor) for tensor in (attn.to_q(hidden_states), attn.to_k(told), attn.to_v(told))
        )  # each [B heads, N or M, C / heads]
        out = attn.batch_to_head_dim(attend_in_slices(query, key, value, attn.scale))
        out = attn.to_out[1](attn.to_out[0](out))
        return (out + hidden_states if attn.residual_connection else out) / attn.rescale_output_factor


def attend_in_slices(query: "Tensor", key: "Tensor", value: "Tensor", scale: float, rows: int = ROWS) -> "Tensor":
    """softmax(scale Q Kᵀ) V, with Q [H, N, d], K [H, M, d] and V [H, M, d], `rows` rows of Q at a time."""
    import torch
    from torch.utils.checkpoint import checkpoint

    def attend(part: "Tensor") -> "Tensor":
        scores = torch.baddbmm(part.new_empty(()), part, key.mT, beta=0, alpha=scale)
        return torch.bmm(scores.float().softmax(-1).to(value.dtype), value)

    parts = query.split(rows, dim=1)
    if not torch.is_grad_enabled():
        return torch.cat([attend(part) for part in parts], dim=1)
    return torch.cat([checkpoint(attend, part, use_reentrant=False) for part in parts], dim=1)
