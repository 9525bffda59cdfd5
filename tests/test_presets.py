"""Every preset that comes with the program says what it is for, and changes only what it names."""

import json
from pathlib import Path

import pytest

from trainer.settings.kohya import load

PRESETS = sorted((Path(__file__).parents[1] / "presets").glob("*.json"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_loads_whole(path: Path) -> None:
    report = load(path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert len(report.description) > 80
    assert not report.problems
    assert not report.ignored
    assert not report.changed
    assert set(report.values) == set(raw) - {"description"}


def test_there_is_a_choice() -> None:
    assert len([path for path in PRESETS if path.stem != "demo"]) >= 4
