"""Whether this machine can do what the settings ask of it: precision, memory, attention, compiling. Torch-free."""

from collections.abc import Iterator
from typing import Any

from trainer import hardware
from trainer.attention import why_not_xformers
from trainer.compiling import why_not
from trainer.declare import Problem, by_name
from trainer.hardware import FP8_BASE
from trainer.settings import Settings

KNOWN = by_name(Settings)
FULL = {"full_fp16": "fp16", "full_bf16": "bf16"}


def _problem(key: str, message: str, fix: dict[str, Any] | None = None, fix_label: str = "") -> Problem:
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def problems(s: Settings) -> Iterator[Problem]:
    """What cannot be done here, or not together."""
    yield from _half_weights(s)
    yield from _small_weights(s)
    if s.highvram and s.lowvram:
        message = f"{KNOWN['highvram'].label} and {KNOWN['lowvram'].label} are opposites; untick one."
        yield _problem("lowvram", message, {"lowvram": False}, "Untick lowvram")
    device = hardware.hardware().device
    if reason := why_not(s.dynamo_backend, device):
        other = "inductor" if why_not("inductor", device) is None else "no"
        yield _problem("dynamo_backend", f"{reason}; use {other}.", {"dynamo_backend": other}, f"Use {other}")


def _half_weights(s: Settings) -> Iterator[Problem]:
    if s.full_fp16 and s.full_bf16:
        message = f"excludes {KNOWN['full_bf16'].label}: weights have one format. Untick one."
        word, other = ("fp16", "full_bf16") if s.mixed_precision == "fp16" else ("bf16", "full_fp16")
        yield _problem("full_fp16", message, {other: False, "mixed_precision": word}, f"Use {word}")
        return
    for key, word in FULL.items():
        if not getattr(s, key):
            continue
        if hardware.hardware().device == "cpu":
            message = f"{word} is for graphics cards; the processor trains in float32. Untick it."
            yield _problem(key, message, {key: False}, "Untick it")
        elif s.mixed_precision != word:
            message = f"needs {KNOWN['mixed_precision'].label} {word}; it is {s.mixed_precision}."
            yield _problem(key, message, {"mixed_precision": word}, f"Use {word}")


def _small_weights(s: Settings) -> Iterator[Problem]:
    reason = hardware.hardware().refuses.get(FP8_BASE)
    for key in ("fp8_base", "fp8_base_unet"):
        if getattr(s, key) and reason:
            message = f"{reason}. Untick it; {KNOWN['gradient_checkpointing'].label} saves memory on any device."
            yield _problem(key, message, {"fp8_base": False, "fp8_base_unet": False}, "Untick it")


def remarks(s: Settings) -> Iterator[Problem]:
    """What can be done, but does not do what one may expect."""
    device = hardware.hardware().device
    if s.xformers == "xformers" and not s.mem_eff_attn and (reason := why_not_xformers(device)):
        yield _problem("xformers", f"{reason}; sdpa is used, with the same result.", {"xformers": "sdpa"}, "Use sdpa")
    if s.mem_eff_attn and device == "cuda":
        message = "sdpa takes as little memory on this graphics card and is faster."
        yield _problem("mem_eff_attn", message, {"mem_eff_attn": False, "xformers": "sdpa"}, "Use sdpa")
    for key in ("highvram", "lowvram"):
        if getattr(s, key) and device == "cpu":
            yield _problem(key, "has no effect on the processor, which has one memory.", {key: False}, "Untick it")
    if s.fp8_base and s.fp8_base_unet:
        message = f"has no effect beside {KNOWN['fp8_base'].label}."
        yield _problem("fp8_base_unet", message, {"fp8_base_unet": False}, "Untick it")
    if s.mixed_precision == "fp8" and not s.fp8_base and device not in ("cpu", ""):
        message = f"fp8 keeps the U-Net's frozen weights in 8 bits, as {KNOWN['fp8_base_unet'].label} does."
        yield _problem("mixed_precision", message)
    if s.full_fp16 and s.optimizer in ("AdamW", "PagedAdamW", "PagedAdamW32bit", "AdamWScheduleFree"):
        message = f"{s.optimizer} divides by numbers that fp16 rounds to 0; AdamW8bit, Adafactor or bf16 are safer."
        yield _problem("full_fp16", message, {"optimizer": "AdamW8bit"}, "Use AdamW8bit")
    if s.dynamo_backend == "inductor" and device == "cpu":
        message = "takes many minutes on a processor and makes nothing faster there; it is for graphics cards."
        yield _problem("dynamo_backend", message, {"dynamo_backend": "no"}, "Use no")
    if s.dynamo_backend in ("eager", "aot_eager"):
        message = f"{s.dynamo_backend} makes nothing faster: it is for finding faults. inductor does."
        yield _problem("dynamo_backend", message, {"dynamo_backend": "inductor"}, "Use inductor")
