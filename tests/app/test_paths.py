"""What the page may show of the machine, and what the picker lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import paths
from trainer.captioners.blip import BlipCaptions
from trainer.settings import Settings


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace and a folder outside it; the limits are lifted afterwards."""
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / "workspace").mkdir()
    for name in ("sets/10_cat", "sets/3_a b", "sets/plain", "sets/.hidden"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("sets/one.PNG", "sets/model.safetensors", "sets/notes.txt", "sets/preset.json"):
        (tmp_path / name).write_bytes(b"x" * 10)
    yield tmp_path
    paths.restrict(None)


def names(found: dict[str, object]) -> list[str]:
    return [entry["name"] for entry in found["entries"]]  # type: ignore[attr-defined]


def test_folders_come_first_and_hidden_ones_not_at_all(files: Path) -> None:
    found = paths.listing(str(files / "sets"))
    assert names(found) == ["10_cat", "3_a b", "plain"]
    assert [entry["repeats"] for entry in found["entries"]] == [True, True, False]
    assert (found["images"], found["repeated"], found["error"]) == (1, 2, "")
    assert found["parent"] == str(files)


def test_files_are_filtered_by_what_is_wanted(files: Path) -> None:
    assert names(paths.listing(str(files / "sets"), "file"))[3:] == ["model.safetensors"]
    assert names(paths.listing(str(files / "sets"), "preset"))[3:] == ["preset.json"]


def test_it_opens_at_the_folder_of_a_file_and_at_the_nearest_one_there_is(files: Path) -> None:
    at_file = paths.listing(str(files / "sets" / "model.safetensors"), "file")
    assert (at_file["path"], at_file["error"]) == (str(files / "sets"), "")
    gone = paths.listing(str(files / "sets" / "gone" / "deeper"))
    assert gone["path"] == str(files / "sets")
    assert "does not exist" in gone["error"]


@pytest.mark.parametrize("text", ["", "\0", "~nobody-here/x", '"quoted"', "a" * 5000, "hub/name"])
def test_nothing_a_person_types_breaks_it(files: Path, text: str) -> None:
    assert Path(paths.listing(text)["path"]).is_dir()


def test_a_file_of_sample_prompts_has_to_be_inside_too(files: Path) -> None:
    paths.restrict([files / "sets"])
    for text, allowed in {
        str(files / "sets" / "notes.txt"): True, str(files / "no.txt"): False, "/etc/prompts.txt": False,
        "a cat --n /etc/x.txt": True, "a cat\n/etc/x.txt": True,
    }.items():  # fmt: skip
        found = [problem.key for problem in paths.problems(Settings, {"sample_prompts": text})]
        assert found == ([] if allowed else ["sample_prompts"]), text


def test_everything_is_allowed_until_it_is_restricted(files: Path) -> None:
    assert paths.is_allowed(files / "sets")
    paths.restrict([files / "sets" / "10_cat"])
    assert paths.is_allowed(files / "workspace" / "runs")
    assert paths.is_allowed(files / "sets" / "10_cat" / "a.png")
    assert not paths.is_allowed(files / "sets")
    assert not paths.is_allowed(files / "sets" / "10_cat" / ".." / "plain")
    assert not paths.is_allowed(str(files / "sets" / "10_cat") + "x")


def test_a_link_does_not_lead_out(files: Path) -> None:
    paths.restrict([])
    link = files / "workspace" / "door"
    try:
        os.symlink(files / "sets", link)
    except OSError:
        pytest.skip("this system does not let us make links")
    assert not paths.is_allowed(link / "one.PNG")
    assert paths.listing(str(link))["path"] == str(files / "workspace")


def test_the_picker_stays_inside_and_offers_no_way_up(files: Path) -> None:
    paths.restrict([])
    found = paths.listing(str(files / "sets"))
    assert found["path"] == str(files / "workspace")
    assert found["parent"] == ""
    assert "outside" in found["error"]
    assert all(paths.is_allowed(place["path"]) for place in found["places"])


def test_a_path_outside_is_a_problem_of_its_field_and_a_hub_name_is_not(files: Path) -> None:
    paths.restrict([])
    values = {
        "train_data_dir": str(files / "sets"),
        "pretrained_model_name_or_path": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    }
    (problem,) = paths.problems(Settings, values)
    assert problem.key == "train_data_dir"
    paths.restrict(None)
    assert list(paths.problems(Settings, values)) == []


@pytest.mark.parametrize("name", ["Salesforce/blip-image-captioning-large", "demo", "somebody/a.captioner-v2"])
def test_the_name_of_a_captioner_is_no_path(files: Path, name: str) -> None:
    paths.restrict([])
    assert list(paths.problems(BlipCaptions, {"model": name})) == []


@pytest.mark.parametrize("path", ["/etc", "../elsewhere", "a/b/c", "~/models"])
def test_the_folder_of_a_captioner_has_to_be_inside(files: Path, path: str) -> None:
    paths.restrict([])
    (problem,) = paths.problems(BlipCaptions, {"model": path})
    assert problem.key == "model"


def test_a_dataset_config_may_not_lead_out(files: Path) -> None:
    """The folders it names are looked into before anything starts, so they are checked before that."""
    paths.restrict([])
    inside, outside = files / "workspace" / "img", files / "sets"
    inside.mkdir()
    file = files / "workspace" / "data.toml"
    for folder, allowed in ((inside, True), (outside, False), (Path("../sets"), False)):
        file.write_text(f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{folder.as_posix()}"\n')
        found = list(paths.problems(Settings, {"dataset_config": str(file)}))
        assert [problem.key for problem in found] == [] if allowed else ["dataset_config"]
    file.write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img"\nconditioning_data_dir = "/"\n')
    (problem,) = paths.problems(Settings, {"dataset_config": str(file)})
    assert "it names /" in problem.message
    (outside / "data.toml").write_text("")
    (problem,) = paths.problems(Settings, {"dataset_config": str(outside / "data.toml")})
    assert "it names" not in problem.message
