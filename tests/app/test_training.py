"""The Training tab: what the browser is told after an edit, and what Start does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from app import drafts, paths, presetbar, training
from app.form import Form
from trainer.adapters import ADAPTERS, WHAT, readers_of
from trainer.settings import SECTIONS, Settings

ID = "aaaaaaaa11111111"


def test_beside_each_lora_type_stand_what_it_is_and_who_reads_it() -> None:
    assert list(WHAT) == list(ADAPTERS)
    for kind in ADAPTERS:
        note = training.outlook({"LoRA_type": kind})["notes"]["LoRA_type"]
        assert note.startswith(WHAT[kind])
        assert readers_of(Settings(LoRA_type=kind)) in note


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.fixture
def form() -> Form:
    with gr.Blocks():
        form = Form("train", Settings)
        for section in SECTIONS:
            form.draw(section)
    return form


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    folder = tmp_path / "cats" / "10_cat"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
    return folder.parent


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, str]]:
    calls: list[tuple[str, Any, str]] = []

    def queue_run(job: str, settings: Any, name: str) -> str:
        calls.append((job, settings, name))
        return "run-1"

    monkeypatch.setattr(training.runs, "queue_run", queue_run)
    return calls


def inputs(form: Form, **values: Any) -> dict[Any, Any]:
    """What gradio hands over: `{component: value}`."""
    return form.write(values)


def ready(cats: Path, tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "train_data_dir": str(cats),
        "output_dir": str(tmp_path / "out"),
        "output_name": "cat",
        "optimizer": "AdamW",
        **more,
    }


def without_model_problems(answer: dict[str, Any]) -> list[str]:
    return [item["key"] for item in answer["problems"] if item["key"] != training.MODEL]


def test_the_answer_to_an_edit_has_the_plan_the_curve_and_keeps_the_draft(cats: Path, tmp_path: Path) -> None:
    values = {
        **{key: str(value) for key, value in ready(cats, tmp_path).items()},
        "epoch": "4",
        "train_batch_size": "2",
    }
    answer = training.answer_check({"browser": ID, "values": values})
    assert answer["sentence"] == "3 images × 10 repeats × 4 epochs / batch 2 = 60 steps"
    assert without_model_problems(answer) == []
    assert "<svg" in answer["drawings"]["train--Rates"]
    assert "<svg" in answer["drawings"]["train--Images"]
    assert answer["drawings"]["train--Captions"].count("<li>") == 3
    assert drafts.load(ID, "train") == values
    json.dumps(answer)


def test_wrong_values_are_named_once_and_kept_in_the_draft(cats: Path, tmp_path: Path) -> None:
    answer = training.answer_check({"browser": ID, "values": {**ready(cats, tmp_path), "epoch": "many"}})
    assert without_model_problems(answer) == ["epoch"]
    assert drafts.load(ID, "train")["epoch"] == "many"  # type: ignore[index]


@pytest.mark.parametrize("data", [{}, {"values": None}, {"browser": 5, "values": [1]}, {"values": {"no_such": 1}}])
def test_nonsense_from_a_browser_is_answered(data: dict[str, Any]) -> None:
    assert training.answer_check(data)["problems"]


def test_fixes_are_written_as_the_inputs_show_them(cats: Path, tmp_path: Path) -> None:
    answer = training.outlook(ready(cats, tmp_path, color_aug=True))
    (problem,) = (item for item in answer["problems"] if item["key"] == "color_aug")
    assert problem["fix"] == {"cache_latents": False, "cache_latents_to_disk": False}
    answer = training.outlook(ready(cats, tmp_path, learning_rate="0"))
    (problem,) = (item for item in answer["problems"] if item["key"] == "learning_rate")
    assert problem["fix"] == {"learning_rate": "1e-4", "unet_lr": ""}


def test_start_with_a_problem_queues_nothing_and_says_where(form: Form, queued: list[Any]) -> None:
    run, answer = training.start(form, inputs(form, epoch="many"))
    assert run is None
    assert queued == []
    assert answer["jump"]
    assert answer["say"].startswith("Not started.")
    assert "epoch" in [item["key"] for item in answer["problems"]]


def test_start_queues_what_the_form_says(
    form: Form, queued: list[Any], cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_active", lambda: "")
    monkeypatch.setattr("trainer.checks.CHECKS", ())
    run, answer = training.start(
        form, inputs(form, **ready(cats, tmp_path, network_dim="24", seed="", learning_rate="2e-4"))
    )
    assert run == "run-1"
    ((job, settings, name),) = queued
    assert (job, name) == ("train", "cat")
    assert (settings.network_dim, settings.seed, settings.learning_rate) == (24, None, 2e-4)
    assert "starting" in answer["say"]


def test_a_start_while_a_run_is_on_says_that_it_waits(
    form: Form, queued: list[Any], cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_active", lambda: "dog")
    monkeypatch.setattr("trainer.checks.CHECKS", ())
    assert training.start(form, inputs(form, **ready(cats, tmp_path)))[1]["say"] == "Queued behind dog."


def test_a_path_outside_the_allowed_folders_is_neither_read_nor_started(
    form: Form, queued: list[Any], cats: Path
) -> None:
    paths.restrict([])
    try:
        run, answer = training.start(form, inputs(form, train_data_dir=str(cats)))
        assert run is None
        (problem,) = (item for item in answer["problems"] if item["key"] == "train_data_dir")
        assert "may only use" in problem["message"]
        assert "3 images" not in json.dumps(answer)
    finally:
        paths.restrict(None)


def test_two_answers_are_never_equal(form: Form) -> None:
    assert training.check(form, inputs(form)) != training.check(form, inputs(form))


# Loading into the form.


def test_a_built_in_preset_leaves_model_and_folders_alone_and_a_saved_one_does_not() -> None:
    from app import presets

    now = {"train_data_dir": "/my/cats", "pretrained_model_name_or_path": "mine", "epoch": "9", "clip_skip": "2"}
    style = next(path for name, path in presets.available() if "style" in name)
    values, text = presetbar.load_file(style, now)
    assert values is not None
    assert (values["train_data_dir"], values["pretrained_model_name_or_path"]) == ("/my/cats", "mine")
    assert "clip_skip" not in values or values["clip_skip"] != "2"
    assert "stay as they were" in text
    saved = presets.save("own", Settings())
    values, _ = presetbar.load_file(str(saved), now)
    assert values is not None
    assert values["train_data_dir"] == ""


def test_the_demo_brings_its_pictures_and_a_place_for_the_result(workspace: Path) -> None:
    values, _ = presetbar.load_file("demo", {"train_data_dir": "/my/cats"})
    assert values is not None
    assert values == training.first_visit()
    assert any((workspace / "datasets").rglob("*.png"))
    assert Path(values["train_data_dir"]).is_relative_to(workspace)


@pytest.mark.parametrize("text", ["", "/no/such/file.json"])
def test_a_file_that_cannot_be_loaded_changes_nothing(text: str) -> None:
    values, report = presetbar.load_file(text, {})
    assert values is None
    assert "bad" in report


def test_saving_asks_before_it_replaces_and_refuses_wrong_values(workspace: Path) -> None:
    raw = {"epoch": "3"}
    assert presetbar.save_file("a", raw, False)[1] is not None
    told, path = presetbar.save_file("a", {"epoch": "4"}, False)
    assert path is None
    assert "already" in told["say"]
    assert json.loads((workspace / "presets" / "a.json").read_text())["epoch"] == 3
    assert presetbar.save_file("a", {"epoch": "4"}, True)[1] is not None
    told, path = presetbar.save_file("b", {"epoch": "many"}, False)
    assert path is None
    assert not (workspace / "presets" / "b.json").exists()


def test_a_token_on_the_page_would_need_a_file_and_is_sent_elsewhere() -> None:
    _, problems, _ = training.examine({"huggingface_repo_id": "me/lora", "huggingface_token": "hf_x"})
    (found,) = [problem for problem in problems if problem.key == "huggingface_token"]
    assert "HF_TOKEN" in found.message
    assert found.fix == {"huggingface_token": ""}
    assert "hf_x" not in str(found)
