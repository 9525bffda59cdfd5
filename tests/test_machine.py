"""What this machine cannot do is a sentence under its label before the start, with a fix that cures it."""

from typing import Any

import pytest

from trainer import checks, hardware, machine
from trainer.hardware import FP8_BASE, UNKNOWN, Hardware
from trainer.settings import Settings

CPU, CARD = Hardware(), Hardware("cuda", "a card")
MAC = Hardware(
    "mps", "a Mac", {FP8_BASE: "8-bit weights are not supported by a Mac", "fp8": "a Mac cannot multiply in 8 bits"}
)


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a compiler and triton, without xformers and other backends."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "triton" else None)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")


PROBLEMS: list[tuple[Hardware, dict[str, Any], str]] = [
    (CPU, {"full_fp16": True}, "Full fp16 training (experimental): fp16 is for graphics cards"),
    (
        CPU,
        {"full_bf16": True, "mixed_precision": "bf16"},
        "Full bf16 training (experimental): bf16 is for graphics cards",
    ),
    (CARD, {"full_fp16": True, "full_bf16": True}, "Full fp16 training (experimental): excludes Full bf16"),
    (
        CARD,
        {"full_fp16": True, "mixed_precision": "bf16"},
        "Full fp16 training (experimental): needs Mixed precision fp16; it is bf16.",
    ),
    (CARD, {"full_bf16": True}, "Full bf16 training (experimental): needs Mixed precision bf16; it is fp16."),
    (MAC, {"fp8_base": True}, "fp8 base: 8-bit weights are not supported by a Mac."),
    (MAC, {"fp8_base_unet": True}, "fp8 base U-Net only: 8-bit weights are not supported by a Mac."),
    (MAC, {"mixed_precision": "fp8"}, "Mixed precision: a Mac cannot multiply in 8 bits; use bf16, and fp8 base"),
    (CARD, {"lowvram": True, "highvram": True}, "lowvram: highvram and lowvram are opposites"),
    (CARD, {"dynamo_backend": "ofi"}, "Dynamo backend: ofi is no longer part of PyTorch; use inductor."),
    (CARD, {"dynamo_backend": "tvm"}, "Dynamo backend: tvm needs the package tvm"),
    (CPU, {"dynamo_backend": "cudagraphs"}, "Dynamo backend: cudagraphs is for NVIDIA graphics cards"),
]
REMARKS: list[tuple[Hardware, dict[str, Any], str]] = [
    (CARD, {"xformers": "xformers"}, "CrossAttention: the package xformers is not installed here; sdpa is used"),
    (CARD, {"mem_eff_attn": True}, "Memory efficient attention: sdpa takes as little memory"),
    (CPU, {"lowvram": True}, "lowvram: has no effect on the processor"),
    (CPU, {"highvram": True}, "highvram: has no effect on the processor"),
    (CARD, {"fp8_base": True, "fp8_base_unet": True}, "fp8 base U-Net only: has no effect beside fp8 base."),
    (CARD, {"mixed_precision": "fp8"}, "Mixed precision: fp8 keeps the U-Net's frozen weights in 8 bits"),
    (CARD, {"full_fp16": True, "optimizer": "AdamW"}, "Full fp16 training (experimental): AdamW divides by numbers"),
    (CPU, {"dynamo_backend": "inductor"}, "Dynamo backend: takes many minutes on a processor"),
    (CARD, {"dynamo_backend": "eager"}, "Dynamo backend: eager makes nothing faster"),
]


@pytest.mark.parametrize(("here", "values", "sentence"), PROBLEMS)
def test_what_cannot_be_done(
    here: Hardware, values: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "hardware", lambda: here)
    s = Settings(**{"optimizer": "AdamW8bit", **values})
    found = [*machine.problems(s), *checks.precision(s)]
    assert any(str(item).startswith(sentence) for item in found), found
    assert found[0].fix
    cured = s.changed(**found[0].fix)
    assert not [*machine.problems(cured), *checks.precision(cured)]


@pytest.mark.parametrize(("here", "values", "sentence"), REMARKS)
def test_what_does_not_do_what_one_may_expect(
    here: Hardware, values: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "hardware", lambda: here)
    s = Settings(**{"optimizer": "AdamW8bit", **values})
    assert not list(machine.problems(s))
    found = list(machine.remarks(s))
    assert any(str(item).startswith(sentence) for item in found), found
    if found[0].fix:
        assert not any(item.key == found[0].key for item in machine.remarks(s.changed(**found[0].fix)))


@pytest.mark.parametrize("here", [CPU, CARD, MAC, UNKNOWN])
def test_the_defaults_can_be_done_everywhere(here: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "hardware", lambda: here)
    assert not [*machine.problems(Settings()), *machine.remarks(Settings())]


def test_while_nothing_is_known_of_the_machine_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "hardware", lambda: UNKNOWN)
    s = Settings(fp8_base=True, full_bf16=True, mixed_precision="bf16", dynamo_backend="cudagraphs", lowvram=True)
    assert not list(machine.problems(s))
