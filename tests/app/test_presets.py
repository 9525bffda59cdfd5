"""Settings files: names, saving, the report of a load, and the command that does the same."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import gradio as gr
import pytest

from app import paths, presetbar, presets
from app.form import Form
from trainer import commandline
from trainer.jobs import jobs
from trainer.settings import SECTIONS, Settings
from trainer.settings.kohya import Loaded, read


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    return tmp_path


def test_saving_and_loading_is_a_round_trip(workspace: Path) -> None:
    settings = Settings(
        network_dim=33, learning_rate=3e-5, train_data_dir="/data/ä ö 'x' 🐈", seed=None, text_encoder_lr=0.0
    )
    path = presets.save("mycat", settings)
    loaded = presets.load(path)
    assert loaded.settings == settings
    assert (loaded.problems, loaded.ignored) == ([], [])


@pytest.mark.parametrize(
    ("name", "stem"),
    [("my / cat", "my - cat"), ("a" * 300, "a" * 100), ("  x.json ", "x"), ("größe", "größe"), ("../../etc", "etc")],
)
def test_a_name_becomes_a_file_in_the_presets_folder_and_nowhere_else(workspace: Path, name: str, stem: str) -> None:
    assert presets.file_for(name) == workspace / "presets" / f"{stem}.json"


@pytest.mark.parametrize("name", ["", "   ", "...", "con", "NUL", "lpt1", "///"])
def test_a_name_no_file_can_have_is_refused_with_a_sentence(name: str) -> None:
    if name == "///":
        assert presets.file_for(name + "a").name == "a.json"
    with pytest.raises(ValueError, match="name"):
        presets.file_for(name)


def test_own_presets_come_first_and_built_in_ones_are_told_apart(workspace: Path) -> None:
    path = presets.save("zebra", Settings())
    found = presets.available()
    assert found[0] == ("zebra", str(path))
    assert len(found) > 1
    assert all(name.endswith("(built in)") and presets.is_built_in(Path(file)) for name, file in found[1:])
    assert presets.is_own(path)
    assert presets.find("zebra") == path
    assert presets.find(f'"{path}"') == path


def test_the_report_names_everything_and_escapes_it() -> None:
    loaded = read({"lr_num_cycles": 3, "<script>": 1, "network_dim": "many", "epoch": 2})
    html = presets.report("<b>file", loaded, Settings)
    assert "<script>" not in html
    assert "&lt;b&gt;file" in html
    for text in ("LR # cycles", "Network Rank (Dimension)", "&lt;script&gt;", "Epoch", "could not be used"):
        assert text in html


def test_the_command_names_only_what_differs_and_means_the_same(workspace: Path) -> None:
    settings = Settings(
        network_dim=24,
        train_data_dir="/data/my 'cats' $HOME; rm",
        cache_latents=False,
        seed=None,
        sample_prompts="a\nb --n c",
    )
    words = shlex.split(presets.command("train", settings))
    flags = dict(zip(words[4::2], words[5::2], strict=True))
    assert words[1:4] == ["-m", "trainer", "train"]
    assert set(flags) == {"--network_dim", "--train_data_dir", "--cache_latents", "--seed", "--sample_prompts"}
    assert Settings(**{flag[2:]: value for flag, value in flags.items()}) == settings


def test_the_command_line_reads_it_as_the_same_settings() -> None:
    settings = Settings(
        network_dim=24,
        cache_latents=False,
        seed=None,
        optimizer_args="betas=0.9,0.99 eps=1e-8",
        output_name="-v1",
        stop_text_encoder_training=-1,
    )
    words = shlex.split(presets.command("train", settings))
    arguments = vars(commandline.parser(jobs()["train"]).parse_args(words[4:]))
    flags = {key: value for key, value in arguments.items() if key in Settings.model_fields}
    resolved, problems = commandline.resolve(jobs()["train"], Loaded(), flags)
    assert problems == []
    assert resolved == settings


def test_a_saved_preset_is_plain_json_in_the_kohya_gui_s_names(workspace: Path) -> None:
    data = json.loads(presets.save("x", Settings()).read_text(encoding="utf-8"))
    assert {"LoRA_type", "train_data_dir", "network_dim", "lr_warmup", "max_resolution"} <= set(data)


DATASET = '[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "/data/cats"\n'


def test_a_description_of_a_data_set_leaves_the_other_settings_alone(workspace: Path) -> None:
    file = workspace / "cats.toml"
    file.write_text(DATASET, encoding="utf-8")
    now = {"epoch": "7", "dataset_config": ""}
    values, said = presetbar.load_file(str(file), now)
    assert values == {"epoch": "7", "dataset_config": str(file)}
    assert "stays as it was" in said


def test_an_uploaded_description_of_a_data_set_is_kept(workspace: Path) -> None:
    file = workspace / "upload.toml"
    file.write_text(DATASET, encoding="utf-8")
    kept = Path(presets.keep_data_set(file)["dataset_config"])
    assert kept == workspace / "datasets" / "upload.toml"
    assert kept.read_text(encoding="utf-8") == DATASET
    assert [path.name for path in kept.parent.iterdir()] == ["upload.toml"]


def test_a_file_that_another_one_names_is_read_only_where_the_page_may(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "is_allowed", lambda path: Path(path).is_relative_to(workspace))
    outside = tmp_path_factory.mktemp("outside") / "p.txt"
    outside.write_text("a secret", encoding="utf-8")
    file = workspace / "config.toml"
    file.write_text(f"sample_prompts = '{outside}'", encoding="utf-8")
    values, said = presetbar.load_file(str(file), {})
    assert values is not None
    assert values.get("sample_prompts", "") == ""
    assert "a secret" not in said


def test_loading_leaves_nothing_of_the_preset_before(workspace: Path) -> None:
    """What the second file does not name is filled with its default, whatever the first one said."""
    form = Form("train", Settings)
    with gr.Blocks():
        for section in SECTIONS:
            form.draw(section)
    first, _ = presetbar.load_file(
        str(presets.save("first", Settings(sdxl=True, max_train_steps=9, reg_data_dir="r"))), {}
    )
    second = workspace / "second.json"
    second.write_text(json.dumps({"LoRA_type": "Standard", "epoch": 3}), encoding="utf-8")
    values, _ = presetbar.load_file(str(second), first or {})
    shown = {component.elem_id: value for component, value in form.write(values or {}).items()}
    assert (shown["train-sdxl"], shown["train-max_train_steps"], shown["train-reg_data_dir"]) == (False, "0", "")
    assert shown["train-epoch"] == "3"
    assert len(shown) == len(Settings.model_fields)


def test_saving_says_what_the_kohya_gui_cannot_show(workspace: Path) -> None:
    answer, path = presetbar.save_file("wide", {"network_dim": "600"}, False)
    assert path is not None
    assert "Network Rank (Dimension) 600" in answer["say"]
    answer, _ = presetbar.save_file("usual", {}, False)
    assert answer["say"] == "Saved usual."
