"""What the demo left in the form is said beside another model and other pictures, and goes with one click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import training
from app.leftovers import left_of_the_demo, of_the_demo
from trainer.demo.run import train_values
from trainer.settings import Settings


@pytest.fixture(autouse=True)
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "workspace"))
    return train_values()


def keys(values: dict[str, Any]) -> list[str]:
    return [problem.key for problem in left_of_the_demo(Settings(**values))]


def test_nothing_is_said_of_the_demo_itself_and_of_fields_as_they_are_at_first(demo: dict[str, Any]) -> None:
    assert keys(demo) == []
    assert keys({}) == []


def test_other_pictures_are_not_for_the_demo_s_regularisation(demo: dict[str, Any], tmp_path: Path) -> None:
    own = {**demo, "train_data_dir": str(tmp_path)}
    (problem,) = left_of_the_demo(Settings(**own))
    assert (problem.key, problem.fix) == ("reg_data_dir", {"reg_data_dir": ""})
    assert keys({**own, "reg_data_dir": str(tmp_path / "reg")}) == []


def test_another_model_is_not_for_the_demo_s_values(demo: dict[str, Any], tmp_path: Path) -> None:
    own = {**demo, "train_data_dir": str(tmp_path), "pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5"}
    problem = next(left_of_the_demo(Settings(**own)))
    assert "Learning rate 0.004, Max resolution 128,128" in problem.message
    assert problem.fix is not None
    assert set(problem.fix) == {*of_the_demo(), "reg_data_dir"}
    assert "pretrained_model_name_or_path" not in problem.fix
    assert keys({**own, **problem.fix}) == []
    assert keys({**own, "learning_rate": 1e-4, "reg_data_dir": ""}) == []  # somebody was here


def test_it_stands_under_the_fields(demo: dict[str, Any], tmp_path: Path) -> None:
    answer = training.outlook({**demo, "train_data_dir": str(tmp_path)})
    assert "reg_data_dir" in {warning["key"] for warning in answer["warnings"]}
