"""The benchmarks run: those for machines that are not at hand would otherwise be found broken when one is."""

import argparse
import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import activations, choices, gpu
from benchmarks.gpu import make_model
from benchmarks.resident import held
from trainer import storage


def options(model: Path, row: str) -> argparse.Namespace:
    return argparse.Namespace(row=row, family=["sdxl"], model=str(model), steps=3, dim=4, type="Standard", tiny=True)


def test_a_row_of_the_graphics_card_table(tmp_path: Path) -> None:
    model = gpu.make_model(tmp_path, "sdxl", tiny=True)
    found = gpu.run_row(options(model, "bf16, fp8 base, checkpointing"))
    assert found["images"] > 0
    assert 0.5 < found["loss"] < 2
    text = gpu.line(6.76, subprocess.CompletedProcess([], 0, json.dumps(found), ""))
    assert text.split()[2] == "ms"


def test_a_row_that_cannot_run_says_why() -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: no such kernel")
    assert gpu.line(1.0, failed).strip() == "RuntimeError: no such kernel"
    told = subprocess.CompletedProcess([], 0, json.dumps({"failed": "There was not enough memory."}), "")
    assert gpu.line(1.0, told).strip() == "There was not enough memory."


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_lowvram_and_fp8_leave_less_on_the_card(family: str, tmp_path: Path) -> None:
    """Counted: with lowvram only what one layer needs is there at a time, with fp8 base half, with highvram all."""
    model = make_model(tmp_path, family, tiny=True)
    plain, high, small, low = (
        held(model, family, values) for values in ({}, {"highvram": True}, {"fp8_base": True}, {"lowvram": True})
    )
    assert plain[1:] == (0, 0)
    assert high[0] == plain[0] < high[0] + high[2]
    assert small[0] < 0.75 * plain[0]
    assert 0 < small[1] < plain[0]
    assert low[0] + low[1] < 0.5 * plain[0]


def test_every_row_is_of_real_settings() -> None:
    from trainer.settings import Settings

    for values in gpu.ROWS.values():
        Settings(**values)
    for values in choices.CHOICES.values():
        Settings(**values)


def test_what_is_kept_for_backward_is_counted_without_a_model() -> None:
    unet = activations.unet_of("sd15", 4)
    one, two = (activations.kept(unet, "sd15", batch, 128, 128, False) for batch in (1, 2))
    assert 1.9 * one < two < 2.1 * one
    assert activations.kept(unet, "sd15", 1, 128, 128, True) < 0.3 * one


@pytest.mark.parametrize("name", ["fp8 base", "channels_last (automatic when wide)"])
def test_choices_are_compared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WIDE", storage.WIDE)  # put back afterwards
    given = argparse.Namespace(size="tiny", resolution=64, batch=1, type="Standard", mixed_precision="no", turns=1)
    ratio, first, difference = choices.compare(given, name, choices.CHOICES[name])
    assert ratio > 0
    assert first > 0
    assert difference < 0.2
