"""The demo's data set is put in place once, whole, and left alone afterwards."""

from pathlib import Path

import pytest
from PIL import Image

from trainer.demo import dataset
from trainer.demo.dataset import install_demo
from trainer.demo.measure import concept_score


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_what_is_installed(tmp_path: Path) -> None:
    folders = install_demo(tmp_path / "demo")
    pictures = sorted((folders.images / "10_sks creature").iterdir())
    assert 12 <= len(pictures) <= 14
    assert {file.suffix for file in pictures} == {".png", ".jpg", ".webp"}
    for file in pictures:
        with Image.open(file) as picture:
            assert picture.size == (128, 128)
            assert concept_score(picture) > 0.85, file
    shapes = sorted((folders.regularisation / "1_shapes").glob("*.png"))
    assert len(shapes) == dataset.SHAPES
    for file in shapes:
        with Image.open(file) as picture:
            assert concept_score(picture) < 0.1
        assert " on a" in file.with_suffix(".txt").read_text(encoding="utf-8")


def test_no_creature_stands_on_yellow() -> None:
    assert "yellow" not in dataset.BACKGROUNDS


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    folders = install_demo(tmp_path / "demo")
    caption = folders.images / "10_sks creature" / "creature01.txt"
    caption.write_text("mine", encoding="utf-8")
    (folders.images / "10_sks creature" / "creature02.jpg").unlink()
    before = contents(tmp_path)
    assert install_demo(tmp_path / "demo") == folders
    assert contents(tmp_path) == before


def test_two_installations_are_equal(tmp_path: Path) -> None:
    install_demo(tmp_path / "one")
    install_demo(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_interrupted_installation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "save_picture", full)
    with pytest.raises(OSError, match="No space"):
        install_demo(tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []
    monkeypatch.undo()
    assert len(contents(install_demo(tmp_path / "demo").images)) == 14
