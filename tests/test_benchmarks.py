"""The benchmarks run: those for machines that are not at hand would otherwise be found broken when one is."""

import argparse
import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import choices, gpu
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


def test_every_row_is_of_real_settings() -> None:
    from trainer.settings import Settings

    for values in gpu.ROWS.values():
        Settings(**values)
    for values in choices.CHOICES.values():
        Settings(**values)


@pytest.mark.parametrize("name", ["fp8 base", "channels_last (automatic when wide)"])
def test_choices_are_compared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WIDE", storage.WIDE)  # put back afterwards
    given = argparse.Namespace(size="tiny", resolution=64, batch=1, type="Standard", mixed_precision="no", turns=1)
    ratio, first, difference = choices.compare(given, name, choices.CHOICES[name])
    assert ratio > 0
    assert first > 0
    assert difference < 0.2
