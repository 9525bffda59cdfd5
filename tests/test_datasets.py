"""Data sets: their folders, their pictures and captions, what is said of them, and that nothing is ever lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app import dataset_pictures as pictures
from app import datasets, paths, runs
from app.dataset_pictures import Changed
from app.datasets import Refused
from trainer.data.folders import read_name
from trainer.settings import Settings


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "work"))
    yield tmp_path / "work"
    paths.restrict(None)


def picture(path: Path, size: tuple[int, int] = (600, 512), color: int = 90, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, color, 30)).save(path, **how)
    return path


def concept(name: str = "mycat") -> Path:
    return datasets.create(name, "asd", "cat", 10).images


# Creating.


def test_a_data_set_has_the_folders_of_the_original() -> None:
    made = datasets.create(" My  cat ", "asd", "cat", "40", 1)
    assert made.path.name == "My cat"
    assert sorted(str(path.relative_to(made.path)) for path in made.path.rglob("*")) == sorted(
        ["img", os.path.join("img", "40_asd cat"), "log", "model", "reg", os.path.join("reg", "1_cat")]
    )
    assert read_name(made.images.name) == (40, "asd cat")


def test_a_style_needs_no_class() -> None:
    assert datasets.create("icons", "ACD3DICON", "", 100).images.name == "100_ACD3DICON"


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        ({"name": ""}, "name", "Name is missing"),
        ({"name": "../up"}, "name", "must not contain /"),
        ({"name": "a\\b"}, "name", "must not contain \\"),
        ({"name": ".hidden"}, "name", "begin with a dot"),
        ({"name": "con"}, "name", "Windows"),
        ({"name": "x" * 200}, "name", "longer"),
        ({"instance": " "}, "instance", "Instance prompt is missing"),
        ({"instance": "a/b"}, "instance", "must not contain /"),
        ({"class_": "cat?"}, "class", "must not contain ?"),
        ({"repeats": 0}, "repeats", "1 or more"),
        ({"repeats": "-3"}, "repeats", "1 or more"),
        ({"repeats": "ten"}, "repeats", "ten is not"),
        ({"repeats": ""}, "repeats", "nothing is not"),
        ({"repeats": "9" * 30}, "repeats", "1 or more"),
        ({"reg_repeats": 0}, "reg_repeats", "1 or more"),
        ({"class_": "", "reg_repeats": 1}, "class", "Class prompt is missing"),
    ],
)
def test_what_cannot_be_made_is_said_at_its_field_and_leaves_nothing(
    given: dict[str, object], field: str, says: str, work: Path
) -> None:
    values = {"name": "mycat", "instance": "asd", "class_": "cat", "repeats": 10, **given}
    with pytest.raises(Refused, match=says.replace("?", r"\?").replace("\\", r"\\")) as refused:
        datasets.create(**values)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert not (work / "datasets").exists()


def test_folders_that_have_names_need_no_prompt() -> None:
    made = datasets.create("places", "", named=True, repeats="")
    assert (made.images.name, made.regularisation) == ("img", None)
    with pytest.raises(Refused, match="Instance prompt is missing"):
        datasets.create("places", "")


def test_a_second_concept_joins_and_the_same_one_with_other_repeats_is_refused() -> None:
    first = concept()
    picture(first / "a.png")
    second = datasets.create("mycat", "asd", "dog", 20).images
    assert {first.name, second.name} == {"10_asd cat", "20_asd dog"}
    assert datasets.create("mycat", "asd", "cat", 10).images == first
    with pytest.raises(Refused, match="has 10_asd cat already"):
        datasets.create("mycat", "asd", "cat", 20)
    assert [path.name for path in first.iterdir()] == ["a.png"]


def test_the_list_knows_every_layout(work: Path) -> None:
    picture(concept("made") / "a.png")
    picture(datasets.create("made", "asd", "cat", 10, 1).regularisation / "r.png")  # type: ignore[operator]
    picture(work / "datasets" / "flat" / "5_dog" / "b.png")
    picture(work / "datasets" / "loose" / "c.png")
    found = {item["name"]: item for item in datasets.overview()}
    assert {name: (item["pictures"], item["regularisation"]) for name, item in found.items()} == {
        "made": (1, 1),
        "flat": (1, 0),
        "loose": (1, 0),
    }
    loose = pictures.look(work / "datasets" / "loose")
    assert [folder["repeats"] for folder in loose["folders"]] == [None]


def test_no_workspace_is_no_error() -> None:
    assert datasets.overview() == []


# Copy info to respective fields.


def test_the_fields_get_the_parent_folders() -> None:
    made = datasets.create("mycat", "asd", "cat", 10, 1)
    picture(made.images / "a.png")
    values = datasets.fields(made.path)
    assert values == {
        "train_data_dir": str(made.path / "img"),
        "reg_data_dir": "",
        "output_dir": str(made.path / "model"),
        "logging_dir": str(made.path / "log"),
    }
    assert made.regularisation is not None
    picture(made.regularisation / "r.png")
    assert datasets.fields(made.path)["reg_data_dir"] == str(made.path / "reg")
    assert Settings(**datasets.fields(made.path)).train_data_dir == str(made.path / "img")


def test_a_folder_from_elsewhere_gives_only_what_it_has(tmp_path: Path) -> None:
    picture(tmp_path / "own" / "10_cat" / "a.png")
    assert datasets.fields(tmp_path / "own") == {"train_data_dir": str(tmp_path / "own"), "reg_data_dir": ""}


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(Refused, match="no pictures in folders named like 10_cat"):
        datasets.fields(concept().parent.parent)


# Repeats.


def test_repeats_are_renamed_and_nothing_is_replaced() -> None:
    folder = concept()
    picture(folder / "a.png")
    renamed = datasets.rename_repeats(folder, "20")
    assert renamed.name == "20_asd cat"
    assert (renamed / "a.png").is_file()
    (renamed.parent / "30_asd cat").mkdir()
    for repeats, says in (("30", "already"), ("0", "1 or more"), ("x", "1 or more")):
        with pytest.raises(Refused, match=says):
            datasets.rename_repeats(renamed, repeats)
    with pytest.raises(Refused, match="has no repeats"):
        datasets.rename_repeats(renamed.parent, 5)
    assert (renamed / "a.png").is_file()


def test_a_running_training_keeps_its_folders(monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    folder = concept()
    image = picture(folder / "a.png")
    run = runs.RunInfo("r", work, "train", "my run", "running", {}, {}, 0.0)
    monkeypatch.setattr(runs, "list_runs", lambda: [run])
    monkeypatch.setattr(runs, "settings_of", lambda run: Settings(train_data_dir=str(folder.parent)))
    for deed in (lambda: datasets.rename_repeats(folder, 20), lambda: pictures.remove(image)):
        with pytest.raises(Refused, match="my run is using these pictures"):
            deed()
    assert image.is_file()
    monkeypatch.setattr(runs, "list_runs", list)
    assert datasets.rename_repeats(folder, 20).name == "20_asd cat"


# Looking.


def test_what_is_seen_of_a_picture() -> None:
    folder = concept()
    picture(folder / "a.png")
    picture(folder / "B.JPG")
    picture(folder / "c.png")
    (folder / "a.txt").write_text("a cat, sitting\n", encoding="utf-8")
    (folder / "b.TXT").write_bytes("café".encode("cp1252"))
    (folder / "c.caption").write_text("other ending")
    (folder / ".hidden.png").write_bytes(b"")
    seen = {item["name"]: item for item in pictures.look(folder.parent.parent)["pictures"]}
    assert list(seen) == ["B.JPG", "a.png", "c.png"]
    assert seen["a.png"]["caption"] == "a cat, sitting"
    assert seen["B.JPG"]["caption"] == "café"
    assert "Windows-1252" in seen["B.JPG"]["note"]
    assert (seen["c.png"]["caption"], seen["c.png"]["others"]) == (None, [".caption"])
    assert pictures.look(folder, ".caption")["pictures"][2]["caption"] == "other ending"


def test_problems_are_said_beside_the_picture() -> None:
    folder = concept()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(folder / "turned.jpg", (600, 512), exif=exif)
    fine = picture(folder / "fine.png")
    small = picture(folder / "small.png", (256, 256))
    whole = picture(folder / "whole.jpg", (800, 800)).read_bytes()
    cut, text, gone = folder / "cut.jpg", folder / "text.png", folder / "gone.png"
    cut.write_bytes(whole[: len(whole) // 2])
    text.write_text("no picture")
    found = pictures.facts([turned, fine, small, cut, text, gone], (512, 512))
    kinds = [[problem["kind"] for problem in item["problems"]] for item in found]
    assert kinds == [["turned"], [], ["small"], ["broken"], ["broken"], ["broken"]]
    assert (found[0]["width"], found[0]["height"]) == (512, 600)
    assert "50 % of its sides" in found[2]["problems"][0]["text"]
    assert "damaged" in found[3]["problems"][0]["text"]
    assert "is text, not a picture" in found[4]["problems"][0]["text"]


def test_the_same_file_twice_is_found_whatever_its_name() -> None:
    folder = concept()
    first = picture(folder / "a.png")
    other = datasets.create("mycat", "asd", "dog", 10).images / "z.png"
    shutil.copy(first, other)
    picture(folder / "b.png", color=91)
    assert pictures.duplicates(folder.parent.parent) == [[str(first), str(other)]]


# Captions.


def test_a_caption_is_saved_beside_the_picture_and_read_back() -> None:
    image = picture(concept() / "a.png")
    assert pictures.read(image, ".txt").text is None
    saved = pictures.save(image, ".txt", "  a cat, äöü 猫\r\nsecond line ", "")
    assert saved.text == "a cat, äöü 猫\nsecond line"
    assert image.with_suffix(".txt").read_bytes() == "a cat, äöü 猫\nsecond line\n".encode()
    assert pictures.read(image, ".txt") == saved
    assert sorted(path.name for path in image.parent.iterdir()) == ["a.png", "a.txt"]


def test_a_caption_that_changed_meanwhile_is_not_overwritten() -> None:
    image = picture(concept() / "a.png")
    mine = pictures.save(image, ".txt", "mine", "")
    image.with_suffix(".txt").write_text("theirs", encoding="utf-8")
    with pytest.raises(Changed) as changed:
        pictures.save(image, ".txt", "mine, edited", mine.version)
    assert changed.value.text == "theirs"
    assert image.with_suffix(".txt").read_text(encoding="utf-8") == "theirs"
    assert pictures.save(image, ".txt", "mine, edited", changed.value.version).text == "mine, edited"
    image.with_suffix(".txt").unlink()  # gone is changed, too
    with pytest.raises(Changed):
        pictures.save(image, ".txt", "again", pictures.Caption("", "0").version)


def test_one_that_appeared_meanwhile_is_not_overwritten_but_the_same_words_are_fine() -> None:
    image = picture(concept() / "a.png")
    image.with_suffix(".txt").write_text("from the captioner", encoding="utf-8")
    with pytest.raises(Changed):
        pictures.save(image, ".txt", "mine", "")
    assert pictures.save(image, ".txt", "from the captioner", "").text == "from the captioner"


def test_no_words_make_no_file_and_an_emptied_caption_stays_empty() -> None:
    image = picture(concept() / "a.png")
    assert pictures.save(image, ".txt", " \n", "").text is None
    assert not image.with_suffix(".txt").exists()
    saved = pictures.save(image, ".txt", "words", "")
    assert pictures.save(image, ".txt", "", saved.version).text == ""
    assert image.with_suffix(".txt").read_bytes() == b""


def test_an_existing_file_keeps_its_name_in_any_case() -> None:
    image = picture(concept() / "Cat.PNG")
    (image.parent / "cat.TXT").write_text("old", encoding="utf-8")
    now = pictures.read(image, ".txt")
    pictures.save(image, ".txt", "new", now.version)
    assert sorted(path.name for path in image.parent.iterdir()) == ["Cat.PNG", "cat.TXT"]


@pytest.mark.parametrize("extension", ["", "txt", ".png", "./../x", ".t/xt", ".a\\b", ".\0", ". x"])
def test_endings_that_could_harm_are_refused(extension: str) -> None:
    image = picture(concept() / "a.png")
    before = image.read_bytes()
    with pytest.raises(Refused):
        pictures.save(image, extension, "words", "")
    assert [path.name for path in image.parent.iterdir()] == ["a.png"]
    assert image.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(concept() / "a.png")

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "write_text", full)
    with pytest.raises(Refused, match=r"a\.txt cannot be written: No space left"):
        pictures.save(image, ".txt", "words", "")


# What the page may touch.


def test_only_allowed_folders(tmp_path: Path, work: Path) -> None:
    inside, outside = picture(concept() / "a.png"), picture(tmp_path / "secret" / "b.png")
    link = inside.parent / "link"
    link.symlink_to(outside.parent)
    paths.restrict(())
    assert datasets.allowed_folder(str(inside.parent)) == inside.parent
    assert pictures.allowed_picture(str(inside)) == inside
    for path in (outside.parent, link, inside.parent / ".." / ".." / ".." / ".." / ".." / "secret"):
        with pytest.raises(Refused, match="may only use folders inside"):
            datasets.allowed_folder(str(path))
    for text in (str(outside), str(link / "b.png"), "a.png", "", "\0", str(inside.with_suffix(".txt")), "/etc/passwd"):
        with pytest.raises(Refused):
            pictures.allowed_picture(text)
    for text in ("", "relative", "\0", str(work / "nowhere"), str(inside)):
        with pytest.raises(Refused):
            datasets.allowed_folder(text)


def test_a_caption_that_is_a_link_out_is_not_followed(tmp_path: Path) -> None:
    image = picture(concept() / "a.png")
    secret = tmp_path / "secret.txt"
    secret.write_text("keep me", encoding="utf-8")
    image.with_suffix(".txt").symlink_to(secret)
    paths.restrict(())
    assert pictures.read(image, ".txt").text is None
    assert pictures.look(image.parent)["pictures"][0]["caption"] is None
    with pytest.raises(Refused, match="leads out"):
        pictures.save(image, ".txt", "mine", "")
    assert secret.read_text(encoding="utf-8") == "keep me"


# Removing.


def test_a_removed_picture_waits_in_the_bin_and_comes_back_with_its_caption() -> None:
    image = picture(concept() / "a.png")
    other = picture(image.parent / "b.png")
    pictures.save(image, ".txt", "words", "")
    gone = pictures.remove(image)
    assert [item["name"] for item in pictures.look(image.parent)["pictures"]] == ["b.png"]
    assert pictures.look(image.parent.parent.parent)["removed"] == [gone]
    assert not image.with_suffix(".txt").exists()
    assert pictures.restore(Path(gone["path"])) == image
    assert pictures.read(image, ".txt").text == "words"
    assert sorted(path.name for path in image.parent.iterdir()) == ["a.png", "a.txt", other.name]


def test_coming_back_replaces_nothing() -> None:
    image = picture(concept() / "a.png")
    gone = pictures.remove(image)
    picture(image, color=1)
    with pytest.raises(Refused, match=r"a\.png is there already"):
        pictures.restore(Path(gone["path"]))
    assert Path(gone["path"]).is_file()
    with pytest.raises(Refused, match="not in a bin"):
        pictures.restore(image)


def test_a_shared_caption_stays_with_the_other_picture() -> None:
    image = picture(concept() / "a.png")
    picture(image.with_suffix(".jpg"))
    pictures.save(image, ".txt", "both", "")
    pictures.remove(image)
    assert pictures.read(image.with_suffix(".jpg"), ".txt").text == "both"
