"""WD14 captioning from settings to caption files, with a tagger of a few kilobytes whose answers are known."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app import captioning
from tests.captioners.tiny_tagger import tagger
from tests.models.test_download import NAME, ROOT, Hub
from trainer.captioners import tagger as taggers
from trainer.captioners.wd14 import REPOSITORIES, SOURCE, Wd14, Wd14Captions
from trainer.declare import by_name
from trainer.events import Item, Note, Phase, read
from trainer.report import Failure, Reporter, Stopped
from trainer.workspace import VARIABLE

COLORS = {"red": (255, 0, 0, 255), "green": (0, 255, 0, 255), "blue": (0, 0, 255, 255), "clear": (0, 0, 0, 0)}
ALWAYS = "^_^, alice (striped) (wonderland)"
"""What the tiny tagger finds on every picture at 0.35."""
TAGS = {
    "red": f"red theme, red top, red left, {ALWAYS}",
    "green": f"green theme, {ALWAYS}",
    "blue": f"blue theme, {ALWAYS}",
    "clear": f"white background, red top, red left, {ALWAYS}",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tagger(tmp_path_factory.mktemp("models") / "tagger")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "10_cat"
    folder.mkdir()
    for name, color in COLORS.items():
        Image.new("RGBA", (12, 12), color).save(folder / f"{name}.png")
    return folder


def run(tmp_path: Path, model: Path, name: str = "run", **values: Any) -> tuple[dict[str, Item], list[str], list[str]]:
    """(result by picture name, notes, phases) of a run over `tmp_path`'s pictures."""
    settings = Wd14Captions(**{"image_folder": str(tmp_path / "10_cat"), "repo_id": str(model), **values})
    assert [str(problem) for problem in Wd14().check(settings)] == []
    with Reporter(tmp_path / name) as report:
        Wd14().run(settings, report)
        report.flush()
    events, _ = read(tmp_path / name / "events.jsonl")
    items = {Path(event.path).stem: event for event in events if isinstance(event, Item)}
    phases = [event.name for event in events if isinstance(event, Phase)]
    return items, [event.text for event in events if isinstance(event, Note)], phases


def red(tmp_path: Path, model: Path, **values: Any) -> str:
    """The caption of the red picture."""
    items, _, _ = run(tmp_path, model, overwrite_captions=not values.get("append_tags"), **values)
    return items["red"].text


def test_tags_are_written_beside_the_pictures(tmp_path: Path, model: Path, pictures: Path) -> None:
    items, notes, phases = run(tmp_path, model, batch_size=3)
    assert {name: item.text for name, item in items.items()} == TAGS
    assert {item.status for item in items.values()} == {"written"}
    assert (pictures / "blue.txt").read_text(encoding="utf-8") == TAGS["blue"] + "\n"
    assert "4 captions written." in notes
    assert phases[0] == "loading the tagger"
    assert "captioning" in phases
    assert notes[-1] == (
        "Tags by frequency: ^_^ 4, alice (striped) (wonderland) 4, red top 2, red left 2, blue theme 1, white background 1, "
        "green theme 1, red theme 1."
    )


def test_the_whole_frequency_table_is_in_the_log(
    tmp_path: Path, model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, model)
    assert "      4  ^_^\n" in capsys.readouterr().out
    _, notes, _ = run(tmp_path, model, "again", overwrite_captions=True, frequency_tags=False)
    assert not any("frequency" in note for note in notes)


@pytest.mark.parametrize(
    ("values", "caption"),
    [
        ({"thresh": 0.5}, "red theme, red top, red left, alice (striped) (wonderland)"),
        ({"thresh": 0.5, "general_threshold": 0.35}, TAGS["red"]),
        ({"thresh": 0.1, "general_threshold": 0.9, "character_threshold": 0.7}, "red theme, red top, red left"),
        ({"thresh": 0.9, "character_threshold": 0.25}, "red theme, red top, red left, alice (striped) (wonderland), hatter (wonderland)"),
        ({"remove_underscore": False}, "red_theme, red_top, red_left, ^_^, alice_(striped)_(wonderland)"),
        ({"undesired_tags": "red top, Red_Left,^_^"}, "red theme, alice (striped) (wonderland)"),
        ({"character_tags_first": True, "thresh": 0.5}, "alice (striped) (wonderland), red theme, red top, red left"),
        ({"character_tag_expand": True, "thresh": 0.5}, "red theme, red top, red left, alice (striped), wonderland"),
        ({"tag_replacement": r"red top,red\, above;red_left,;^_^,smile"}, "red theme, red, above, smile, alice (striped) (wonderland)"),
        ({"use_rating_tags": True, "thresh": 0.5}, "explicit, red theme, red top, red left, alice (striped) (wonderland)"),
        ({"use_rating_tags_as_last_tag": True, "thresh": 0.9}, "red theme, red top, red left, explicit"),
        ({"use_rating_tags": True, "use_rating_tags_as_last_tag": True, "thresh": 0.9}, "red theme, red top, red left, explicit"),
        ({"use_quality_tags": True, "use_rating_tags": True, "thresh": 0.9}, "best quality, explicit, red theme, red top, red left"),
        ({"use_quality_tags_as_last_tag": True, "thresh": 0.9}, "red theme, red top, red left, best quality"),
        ({"always_first_tags": "red_left,cat,red top", "thresh": 0.9}, "red left, red top, red theme"),
        ({"caption_separator": " | ", "prefix": "sks", "postfix": "photo", "thresh": 0.9}, "sks | red theme | red top | red left | photo"),
        ({"prefix": "a photo of ", "thresh": 0.9}, "a photo of red theme, red top, red left"),
        ({"thresh": 1, "prefix": "sks"}, "sks"),
        ({"thresh": 1}, ""),
    ],
    ids=lambda value: ", ".join(map(str, value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_each_setting_does_what_it_says(
    tmp_path: Path, model: Path, pictures: Path, values: dict[str, Any], caption: str
) -> None:
    assert red(tmp_path, model, **values) == caption


def test_captions_that_are_there_are_kept_replaced_or_continued(tmp_path: Path, model: Path, pictures: Path) -> None:
    (pictures / "red.txt").write_text("a red square, red top", encoding="utf-8")
    items, notes, _ = run(tmp_path, model, "1", thresh=0.9)
    assert (items["red"].status, items["red"].text) == ("kept", "a red square, red top")
    assert any("1 existing captions kept" in note for note in notes)
    items, notes, _ = run(tmp_path, model, "2", thresh=0.9, append_tags=True)
    assert (items["red"].status, items["red"].text) == ("extended", "a red square, red top, red theme, red left")
    assert items["blue"].status == "same"
    old = tmp_path / "2" / "replaced captions" / "10_cat" / "red.txt"
    assert old.read_text(encoding="utf-8") == "a red square, red top"
    assert any(str(old.parent.parent) in note for note in notes)
    items, _, _ = run(tmp_path, model, "3", thresh=0.9, append_tags=True)
    assert items["red"].status == "same", "nothing is appended twice"
    items, _, _ = run(tmp_path, model, "4", thresh=0.9, overwrite_captions=True)
    assert (items["red"].status, items["red"].text) == ("replaced", "red theme, red top, red left")


def test_nothing_to_do_loads_nothing(tmp_path: Path, model: Path, pictures: Path) -> None:
    run(tmp_path, model, "1")
    _, _, phases = run(tmp_path, model, "2")
    assert "loading the tagger" not in phases


def test_sub_folders_and_what_was_in_them(tmp_path: Path, model: Path, pictures: Path) -> None:
    for below in ("a/one", "b/one"):
        (pictures / below).mkdir(parents=True)
        Image.new("RGB", (12, 12), "blue").save(pictures / below / "deep.png")
        (pictures / below / "deep.txt").write_text(f"from {below}", encoding="utf-8")
    items, _, _ = run(tmp_path, model, "1", overwrite_captions=True)
    assert "deep" not in items
    settings = {"recursive": True, "overwrite_captions": True}
    assert Wd14().plan(Wd14Captions(image_folder=str(pictures), recursive=True))["images"] == 6
    run(tmp_path, model, "2", **settings)
    assert (pictures / "a" / "one" / "deep.txt").read_text(encoding="utf-8") == TAGS["blue"] + "\n"
    kept = tmp_path / "2" / "replaced captions" / "10_cat"
    assert [(kept / below / "deep.txt").read_text() for below in ("a/one", "b/one")] == ["from a/one", "from b/one"]


def test_a_broken_picture_is_named_and_the_others_go_on(tmp_path: Path, model: Path, pictures: Path) -> None:
    (pictures / "green.png").write_bytes(b"\x89PNG broken")
    items, notes, _ = run(tmp_path, model, batch_size=4)
    assert {name: item.status for name, item in items.items()} == {
        "blue": "written", "clear": "written", "green": "unreadable", "red": "written",
    }  # fmt: skip
    assert any(note.startswith("green.png ") for note in notes)
    assert not (pictures / "green.txt").exists()


def test_a_stop_is_obeyed_between_batches(tmp_path: Path, model: Path, pictures: Path) -> None:
    with Reporter(tmp_path / "run") as report:
        report.stop()
        with pytest.raises(Stopped):
            Wd14().run(Wd14Captions(image_folder=str(pictures), repo_id=str(model)), report)
    assert not list(pictures.glob("*.txt"))


def test_words_that_the_tagger_does_not_know_are_told(tmp_path: Path, model: Path, pictures: Path) -> None:
    values: dict[str, Any] = {"undesired_tags": "red topp,red left", "tag_replacement": "dragon,cat"}
    _, notes, _ = run(tmp_path, model, use_quality_tags=True, **values)
    assert "Undesired tags: this tagger has no tag red topp; did you mean red top?" in notes
    assert "Tag replacement: this tagger has no tag dragon." in notes
    assert not any("no quality tags" in note for note in notes)
    (problem,) = Wd14().notes(Wd14Captions(use_quality_tags=True))
    assert str(problem) == "Use quality tags: this tagger knows no quality tags, so none will be written."


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"image_folder": ""}, "Image folder to caption: choose the folder that holds your pictures."),
        ({"repo_id": " "}, "Repo ID: choose a tagger."),
        ({"repo_id": "/no/such"}, "Repo ID: /no/such is not the folder of a WD14 tagger; it must hold model.onnx and selected_tags.csv."),
        ({"caption_separator": ""}, "Caption Separator: is empty, so tags would run together."),
        ({"tag_replacement": "cat"}, "Tag replacement: 'cat' is not a pair such as long hair,hair down."),
        ({"append_tags": True, "overwrite_captions": True}, "Append TAGs: keeps what Overwrite existing captions in folder would replace;"),
        ({"force_download": True}, "Force model re-download: "),
    ],
    ids=lambda value: "" if isinstance(value, str) else ", ".join(value),
)  # fmt: skip
def test_bad_input_is_named(model: Path, pictures: Path, values: dict[str, Any], sentence: str) -> None:
    settings = Wd14Captions(**{"image_folder": str(pictures), "repo_id": str(model), **values})
    (problem,) = Wd14().check(settings)
    assert str(problem).startswith(sentence)
    if problem.fix:
        assert list(Wd14().check(settings.changed(**problem.fix))) == []


def test_a_table_that_is_none_is_named_before_the_start(tmp_path: Path, pictures: Path) -> None:
    folder = tagger(tmp_path / "tagger")
    (folder / "selected_tags.csv").write_text("cat\ndog\n", encoding="utf-8")
    (problem,) = Wd14().check(Wd14Captions(image_folder=str(pictures), repo_id=str(folder)))
    assert problem.message == f"{folder / 'selected_tags.csv'} has no columns name and category in its first line."


def test_without_onnxruntime_it_says_how_to_get_it(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taggers, "find_spec", lambda name: None)
    (problem,) = Wd14().check(Wd14Captions(image_folder=str(pictures)))
    assert str(problem).startswith("Repo ID: needs the package onnxruntime, which is not installed.")
    assert "-m pip install onnxruntime" in problem.message


def test_without_a_connection_it_says_what_to_download_and_where(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "workspace"))
    with pytest.raises(Failure) as failure:
        run(tmp_path, Path("unused"), repo_id=REPOSITORIES[1])
    assert failure.value.key == "repo_id"
    kept = tmp_path / "workspace" / "models" / "wd-v1-4-convnext-tagger-v2"
    assert f"download model.onnx and selected_tags.csv of {REPOSITORIES[1]}" in failure.value.advice
    assert str(kept) in failure.value.advice
    tagger(kept)
    assert SOURCE.local(REPOSITORIES[1]) == kept


def test_the_words_of_the_kohya_gui() -> None:
    labels = {item.label for item in by_name(Wd14Captions).values()}
    assert labels >= {
        "Repo ID", "Force model re-download", "Caption file extension", "Caption Separator", "Tag replacement",
        "Character tag expand", "Undesired tags", "Prefix to add to WD14 caption", "Postfix to add to WD14 caption",
        "Append TAGs", "Use rating tags", "Use rating tags as last tag", "Use quality tags", "Use quality tags as last tag",
        "Character tags first", "Recursive", "Remove underscore", "Show tags frequency", "Threshold", "General threshold",
        "Character threshold", "Batch size", "Max dataloader workers",
    }  # fmt: skip


def test_the_page_says_what_it_knows_beforehand(pictures: Path) -> None:
    raw = {"image_folder": str(pictures), "repo_id": REPOSITORIES[0], "use_quality_tags": True, "thresh": "2"}
    answer = captioning.checker(Wd14())({"values": raw})
    assert answer["notes"]["image_folder"] == "4 pictures to caption."
    assert answer["notes"]["use_quality_tags"].startswith("This tagger knows no quality tags")
    assert [problem["key"] for problem in answer["problems"]] == ["thresh"]


@pytest.fixture
def hub(model: Path) -> Iterator[Hub]:
    found = Hub(model)
    yield found
    found.server.shutdown()
    found.server.server_close()


CODE = """
import sys
from trainer.__main__ import main
assert "onnxruntime" not in sys.modules and "torch" not in sys.modules
for more in ([], ["--overwrite_captions"], ["--overwrite_captions", "--force_download"]):
    assert main([*sys.argv[1:], *more]) == 0
    print("---")
assert "torch" not in sys.modules
"""


def test_from_the_command_line_with_a_tagger_of_a_hub(tmp_path: Path, pictures: Path, hub: Hub) -> None:
    """The first run downloads, the second asks the hub for nothing, the third downloads again."""
    env = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
                        "NO_PROXY": "127.0.0.1"}  # fmt: skip
    words = ["caption-wd14", "--image_folder", pictures, "--repo_id", NAME, "--workspace", tmp_path / "workspace"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second, third, _ = done.stdout.split("---\n")
    size = sum(map(len, hub.files.values()))
    assert f"Downloading {NAME}: {size / 1e3:.1f} KB, kept for later runs." in first
    assert "Downloading" not in second
    assert "4 already said the same" in second
    assert "Downloading" in third
    assert [name for name, _ in hub.asked] == ["selected_tags.csv", "model.onnx"] * 2
    events, _ = read(Path(first.splitlines()[0]) / "events.jsonl")
    phases = [(event.name, event.done, event.total) for event in events if isinstance(event, Phase)]
    assert ("downloading model", size, size) in phases
    assert (pictures / "red.txt").read_text(encoding="utf-8") == TAGS["red"] + "\n"
    assert json.loads((Path(first.splitlines()[0]) / "settings.json").read_text(encoding="utf-8"))["repo_id"] == NAME
