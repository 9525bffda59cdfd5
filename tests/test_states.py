"""Finding training states on disk."""

import json
import os
from pathlib import Path

import pytest

from trainer import states

WHOLE = {"current_step": 40, "current_epoch": 2, "optimizer": "AdamW", "base_model": {"name": "/m/cat.safetensors"}}


def made(folder: Path, saved: float = 0.0, text: str = json.dumps(WHOLE)) -> Path:
    folder.mkdir(parents=True)
    (folder / states.PROGRESS).write_text(text, encoding="utf-8")
    os.utime(folder / states.PROGRESS, (saved, saved))
    return folder


def test_a_state_says_what_it_is(tmp_path: Path) -> None:
    folder = made(tmp_path / "cat-state", saved=1000)
    assert states.look(folder) == states.Found(folder, 40, 2, 1000, "AdamW", "/m/cat.safetensors")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"current_step": "x"}', '{"current_step": 1, "base_model": 3}', "\0"]
)
def test_what_is_no_state_is_none(text: str, tmp_path: Path) -> None:
    assert states.look(made(tmp_path / "broken-state", text=text)) is None
    assert states.look(tmp_path / "nowhere") is None


def test_the_newest_come_first_and_each_comes_once(tmp_path: Path) -> None:
    old, new = made(tmp_path / "a" / "z-state", 10), made(tmp_path / "b" / "a-state", 20)
    made(tmp_path / "a" / ".half-state", 30)
    made(tmp_path / "a" / "other", 30)
    (tmp_path / "a" / "torn-state").mkdir()
    found = states.newest([tmp_path / "a", tmp_path / "gone", tmp_path / "b", tmp_path / "a"])
    assert [state.folder for state in found] == [new, old]
