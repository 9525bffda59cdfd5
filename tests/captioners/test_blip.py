"""BLIP describes pictures: with the demo's captioner, which knows drawn shapes."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.captioners.test_basic import folder_with
from tests.tiny import listener
from trainer.captioners import blip
from trainer.captioners.blip import Blip, BlipCaptions
from trainer.demo.pictures import describe, draw, scenes
from trainer.events import Item, Note, Phase, read
from trainer.report import Failure, Reporter, Stopped
from trainer.workspace import VARIABLE


@pytest.fixture
def shapes(tmp_path: Path) -> dict[str, str]:
    """A folder of drawn pictures; what each shows, by name."""
    folder = tmp_path / "2_shapes"
    folder.mkdir()
    shown = {}
    for number, scene in zip(range(4), scenes(11), strict=False):
        draw(scene).save(folder / f"{number}.png")
        shown[str(number)] = describe(scene)
    return shown


def run(tmp_path: Path, name: str = "run", **values: Any) -> tuple[list[Item], list[str], list[str]]:
    """(results, notes, phases) of a run of the demo captioner."""
    settings = BlipCaptions(**{"image_folder": str(tmp_path / "2_shapes"), "model": "demo", **values})
    with Reporter(tmp_path / name) as report:
        Blip().run(settings, report)
        report.flush()
    events, _ = read(tmp_path / name / "events.jsonl")
    items = [event for event in events if isinstance(event, Item)]
    notes = [event.text for event in events if isinstance(event, Note)]
    return items, notes, [event.name for event in events if isinstance(event, Phase)]


def test_describes_what_is_drawn(tmp_path: Path, shapes: dict[str, str]) -> None:
    items, notes, phases = run(tmp_path, prefix="sks", postfix="drawing", num_beams=1)
    assert [item.status for item in items] == ["written"] * 4
    assert phases[0] == "loading BLIP"
    assert "captioning" in phases
    assert notes == ["4 captions written."]
    words = [(set(item.text.split()), set(shapes[Path(item.path).stem].split())) for item in items]
    assert all(item.text.startswith("sks, ") and item.text.endswith(", drawing") for item in items)
    assert sum(len(said & shown) / len(shown) for said, shown in words) / len(words) > 0.7
    assert (tmp_path / "2_shapes" / "0.txt").read_text(encoding="utf-8") == items[0].text + "\n"


def test_a_second_run_keeps_and_a_third_changes_nothing(tmp_path: Path, shapes: dict[str, str]) -> None:
    first, _, _ = run(tmp_path, "1", prefix="sks", num_beams=1)
    again, notes, phases = run(tmp_path, "2", prefix="sks", num_beams=1)
    assert [item.status for item in again] == ["kept"] * 4
    assert "loading BLIP" not in phases, "nothing to do loads nothing"
    assert "tick Overwrite existing captions" in notes[0]
    third, _, _ = run(tmp_path, "3", prefix="sks", num_beams=1, overwrite_captions=True)
    assert [item.status for item in third] == ["same"] * 4
    assert [item.text for item in third] == [item.text for item in first]


def test_batches_and_beams_and_drawing_by_chance(tmp_path: Path, shapes: dict[str, str]) -> None:
    one, _, _ = run(tmp_path, "1", num_beams=3, batch_size=1)
    four, _, _ = run(tmp_path, "2", num_beams=3, batch_size=4, overwrite_captions=True)
    assert [item.text for item in one] == [item.text for item in four]
    drawn = [run(tmp_path, name, beam_search=False, top_p=0.95, overwrite_captions=True)[0] for name in ("3", "4")]
    assert [item.text for item in drawn[0]] == [item.text for item in drawn[1]], "the same words by chance every time"


def test_length_limits_are_obeyed(tmp_path: Path, shapes: dict[str, str]) -> None:
    short, _, _ = run(tmp_path, max_length=4, min_length=1, num_beams=1)
    assert all(len(item.text.split()) <= 4 for item in short)


def test_a_broken_picture_is_named_and_the_others_go_on(tmp_path: Path, shapes: dict[str, str]) -> None:
    (tmp_path / "2_shapes" / "1.png").write_bytes(b"\x89PNG broken")
    items, notes, _ = run(tmp_path, num_beams=1, batch_size=2)
    assert sorted(item.status for item in items) == ["unreadable", "written", "written", "written"]
    assert any("1.png" in note for note in notes)
    assert "1 pictures could not be read" in notes[-1]


def test_a_stop_keeps_what_is_done(tmp_path: Path, shapes: dict[str, str]) -> None:
    with Reporter(tmp_path / "run") as report:
        report.stop()
        with pytest.raises(Stopped):
            Blip().run(BlipCaptions(image_folder=str(tmp_path / "2_shapes"), model="demo"), report)


def test_without_a_connection_it_says_what_to_download_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "workspace"))
    with pytest.raises(Failure) as failure:
        blip.place("Salesforce/blip-image-captioning-base", listener())
    assert "Salesforce/blip-image-captioning-base" in failure.value.reason
    assert str(tmp_path / "workspace" / "models" / "blip-image-captioning-base") in failure.value.advice
    assert "model.safetensors" in failure.value.advice
    assert failure.value.key == "model"


def test_a_model_put_into_the_workspace_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    folder = tmp_path / "models" / "blip-image-captioning-base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert blip.place("Salesforce/blip-image-captioning-base", listener()) == folder


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Failure, match=r"^The BLIP model mine cannot be loaded"):
        blip.load("mine", tmp_path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"min_length": 80}, "Min length: 80 is more than Max length 75."),
        ({"model": "/no/such/folder"}, "Model: /no/such/folder is not the folder of a BLIP model"),
        ({"model": " "}, "Model: choose a model."),
        ({"image_folder": ""}, "Image folder to caption: choose the folder"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, values: dict[str, Any], sentence: str) -> None:
    folder = folder_with(tmp_path / "10_cat", {"a": None})
    settings = BlipCaptions(**{"image_folder": str(folder), "model": "demo", **values})
    assert any(str(problem).startswith(sentence) for problem in Blip().check(settings))


def test_colour_modes_of_real_files(tmp_path: Path) -> None:
    folder = tmp_path / "2_shapes"
    folder.mkdir()
    Image.new("L", (40, 20), 128).save(folder / "grey.png")
    Image.new("RGBA", (20, 40), (255, 0, 0, 0)).save(folder / "clear.png")
    items, _, _ = run(tmp_path, num_beams=1)
    assert [item.status for item in items] == ["written", "written"]
