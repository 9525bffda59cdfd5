"""Basic captioning writes what was asked, beside the pictures, and loses nothing."""

from pathlib import Path

import pytest
from PIL import Image

from trainer.captioners.basic import Basic, BasicCaptions
from trainer.captioners.captions import joined, picture_files
from trainer.events import Item, Note, read
from trainer.report import Reporter, Stopped


def folder_with(root: Path, captions: dict[str, str | None]) -> Path:
    """A folder with a picture for each name, and caption files where a text is given."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in captions.items():
        Image.new("RGB", (16, 16), "red").save(root / f"{name}.png")
        if text is not None:
            (root / f"{name}.txt").write_text(text, encoding="utf-8")
    return root


def run(tmp_path: Path, **values: object) -> tuple[dict[str, str], list[str]]:
    """(status by picture name, notes) of a run with these settings."""
    with Reporter(tmp_path / "run") as report:
        Basic().run(BasicCaptions(**values), report)
        report.flush()
    events, _ = read(tmp_path / "run" / "events.jsonl")
    items = {Path(event.path).stem: event.status for event in events if isinstance(event, Item)}
    return items, [event.text for event in events if isinstance(event, Note)]


@pytest.mark.parametrize(
    ("prefix", "text", "postfix", "caption"),
    [
        ("sks cat", "a cat on a mat", "", "sks cat, a cat on a mat"),
        ("sks cat,", "a cat", "photo", "sks cat, a cat, photo"),
        ("a photo of ", "a cat", "", "a photo of a cat"),
        ("style: ", "a cat", "", "style: a cat"),
        ("", "a cat", ", photo", "a cat, photo"),
        ("", "a cat", " at night", "a cat at night"),
        ("sks cat", "", "", "sks cat"),
        ("", "  a cat\n", "", "a cat"),
        ("1girl", "1girl, smile", "", "1girl, smile"),
        ("cat", "cats on a mat", "", "cat, cats on a mat"),
        ("sks", "Sks, a cat, photo", "photo", "Sks, a cat, photo"),
        ("photo", "a cat", "photo", "photo, a cat, photo"),
    ],
)
def test_parts_join_properly_and_only_once(prefix: str, text: str, postfix: str, caption: str) -> None:
    assert joined(prefix, text, postfix) == caption
    assert joined(prefix, caption, postfix) == caption


def test_writes_beside_every_picture_and_keeps_what_is_there(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "10_cat ä'ö 🐈", {"a": None, "b": "my own words", "c": ""})
    items, notes = run(tmp_path, image_folder=str(folder), prefix="sks", caption_text="a cat")
    assert items == {"a": "written", "b": "kept", "c": "written"}
    assert (folder / "a.txt").read_text(encoding="utf-8") == "sks, a cat\n"
    assert (folder / "b.txt").read_text(encoding="utf-8") == "my own words"
    assert "2 captions written; 1 existing captions kept" in notes[0]


def test_overwriting_keeps_the_old_words_with_the_run(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "10_cat", {"a": "my own words"})
    items, notes = run(tmp_path, image_folder=str(folder), caption_text="a cat", overwrite_captions=True)
    assert items == {"a": "replaced"}
    assert (tmp_path / "run" / "replaced captions" / "10_cat" / "a.txt").read_text(encoding="utf-8") == "my own words"
    assert any("replaced captions" in note for note in notes)


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "10_cat", {"a": "a cat on a mat"})
    values = {"image_folder": str(folder), "prefix": "sks", "postfix": "photo", "overwrite_captions": True}
    assert run(tmp_path / "1", **values)[0] == {"a": "replaced"}
    assert (folder / "a.txt").read_text(encoding="utf-8") == "sks, a cat on a mat, photo\n"
    assert run(tmp_path / "2", **values)[0] == {"a": "same"}


def test_find_and_replace(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "10_cat", {"a": "a dog on a dog bed", "b": None})
    values = {"image_folder": str(folder), "find_text": "dog", "replacement_text": "cat", "overwrite_captions": True}
    assert run(tmp_path, **values)[0] == {"a": "replaced", "b": "empty"}
    assert (folder / "a.txt").read_text(encoding="utf-8") == "a cat on a cat bed\n"
    assert not (folder / "b.txt").exists()


def test_the_parent_folder_works_too(tmp_path: Path) -> None:
    folder_with(tmp_path / "img" / "10_cat", {"a": None})
    folder_with(tmp_path / "img" / "5_dog", {"b": None})
    assert [path.name for path in picture_files(tmp_path / "img")] == ["a.png", "b.png"]


def test_all_folders_below_and_no_link_that_leads_back(tmp_path: Path) -> None:
    folder_with(tmp_path / "img", {"a": None})
    folder_with(tmp_path / "img" / "deep" / "deeper", {"b": None})
    folder_with(tmp_path / "img" / ".hidden", {"c": None})
    folder_with(tmp_path / "elsewhere", {"d": None})
    for name, target in (("back", tmp_path / "img"), ("linked", tmp_path / "elsewhere")):
        try:
            (tmp_path / "img" / name).symlink_to(target, target_is_directory=True)
        except OSError:  # Windows may not let one
            pytest.skip("no links here")
    assert [path.name for path in picture_files(tmp_path / "img", recursive=True)] == ["a.png", "b.png", "d.png"]
    assert [path.name for path in picture_files(tmp_path / "img")] == ["a.png"]


def test_a_stop_is_obeyed_between_pictures(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "10_cat", {"a": None, "b": None})
    with Reporter(tmp_path / "run") as report:
        report.stop()
        with pytest.raises(Stopped):
            Basic().run(BasicCaptions(image_folder=str(folder), caption_text="x"), report)
    assert not list(folder.glob("*.txt"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"image_folder": ""}, "choose the folder"),
        ({"image_folder": "/no/such/place"}, "there is no folder /no/such/place"),
        ({"caption_extension": "txt"}, "begins with a dot"),
        ({"caption_extension": ".png"}, "ending of pictures"),
        ({"caption_text": ""}, "nothing to do"),
        ({"find_text": "dog"}, "tick Overwrite existing captions"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, values: dict[str, str], sentence: str) -> None:
    folder = folder_with(tmp_path / "10_cat", {"a": None})
    settings = BasicCaptions(**{"image_folder": str(folder), "caption_text": "x", **values})
    assert any(sentence in str(problem) for problem in Basic().check(settings))


def test_good_input_has_no_problems(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "10_cat", {"a": None})
    assert not list(Basic().check(BasicCaptions(image_folder=str(folder), caption_text="x")))
