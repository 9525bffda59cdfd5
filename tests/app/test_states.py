"""What the picker of training states lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app import paths, runs, states
from tests.test_states import made
from trainer import runfolder
from trainer.settings import Settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace with a run that saved a state for emergencies, and one in its output folder outside."""
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "workspace"))
    runs.forget()
    run = runfolder.create("train", "cat", Settings(output_dir=str(tmp_path / "out")))
    made(run / runfolder.STATE / "cat-step00000007-state", saved=2000)
    made(tmp_path / "out" / "cat-000001-state", saved=1000)
    yield tmp_path
    paths.restrict(None)
    runs.forget()


def names(shown: dict[str, object]) -> list[str]:
    return [entry["name"] for entry in shown["entries"]]  # type: ignore[attr-defined]


def test_it_opens_with_the_states_of_all_runs_the_newest_first(home: Path) -> None:
    shown = states.listing("")
    assert names(shown) == ["cat-step00000007-state", "cat-000001-state"]
    assert shown["places"][0] == {"name": "States found", "path": ""}
    assert "step 40, epoch 2" in shown["entries"][0]["state"]
    assert "AdamW · cat.safetensors" in shown["entries"][0]["state"]


def test_the_folder_that_is_being_filled_in_counts_too(home: Path) -> None:
    made(home / "elsewhere" / "dog-state", saved=3000)
    assert names(states.listing("", near=str(home / "elsewhere")))[0] == "dog-state"


def test_in_a_folder_states_are_marked_and_in_one_it_can_be_chosen(home: Path) -> None:
    (home / "out" / "pictures").mkdir()
    shown = states.listing(str(home / "out"))
    assert [bool(entry.get("state")) for entry in shown["entries"]] == [True, False]
    assert not shown["state"]
    assert states.listing(str(home / "out" / "cat-000001-state"))["state"]


def test_states_outside_the_allowed_folders_are_not_shown(home: Path) -> None:
    paths.restrict([])
    assert names(states.listing("", near=str(home / "out"))) == ["cat-step00000007-state"]


def test_without_any_state_it_is_the_usual_picker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    runs.forget()
    shown = states.listing("")
    assert shown["path"] == str(tmp_path)
    assert "States found" not in [place["name"] for place in shown["places"]]
