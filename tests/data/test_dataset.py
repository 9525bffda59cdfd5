"""Scanning and verifying data sets: what is found, what is left out, and that it is said."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.made import dataset_of, noise, write
from tests.photos import CAPTIONS, PHOTOS, make_photo_dataset
from trainer.data import images
from trainer.data.buckets import pool_counts
from trainer.data.dataset import Dataset, scan, verify
from trainer.events import Item, Note, read
from trainer.report import Reporter
from trainer.settings import Settings


def scanned(folder: Path | str, reg: Path | str = "", **values: object) -> Dataset:
    return scan(Settings(train_data_dir=str(folder), reg_data_dir=str(reg), **values))


def test_real_photographs(tmp_path: Path) -> None:
    dataset = scanned(make_photo_dataset(tmp_path / "bilder und mehr"))
    found = {f"{picture.subset}/{picture.path.name}": picture for picture in dataset.pictures}
    assert set(found) == set(PHOTOS)
    assert {name: picture.size for name, picture in found.items()} == {
        name: size for name, (_, size, _) in PHOTOS.items()
    }
    for name, picture in found.items():
        caption = CAPTIONS.get(f"{picture.subset}/{picture.path.stem}.txt")
        assert picture.caption == (caption or picture.subset.split("_", 1)[1])
        assert (picture.caption_path is not None) == (caption is not None)
        assert picture.repeats == int(name[0])
    assert dataset.skipped == ()
    assert [subset.name for subset in dataset.subsets] == ["2_places", "3_tabby cat"]
    assert len(dataset.entries()) == 3 * 3 + 9 * 2
    counts = pool_counts(dataset, Settings(max_resolution="256,256"))
    assert sum(counts.values()) == 27
    assert len(counts) > 2


def test_repeats_captions_and_several_folders(tmp_path: Path) -> None:
    write(tmp_path / "2_cat", a=(32, 32), b=(32, 32))
    write(tmp_path / "5_my_dog", c=(32, 32))
    (tmp_path / "2_cat" / "a.txt").write_text("a cat, sitting")
    dataset = scanned(tmp_path)
    assert [(picture.path.stem, picture.repeats, picture.caption) for picture in dataset.pictures] == [
        ("a", 2, "a cat, sitting"),
        ("b", 2, "cat"),
        ("c", 5, "my_dog"),
    ]
    assert any("1 of 2 pictures has no .txt file and gets the caption “cat”" in note for note in dataset.notes)


def test_caption_extension_is_forgiving(tmp_path: Path) -> None:
    write(tmp_path / "1_x", a=(32, 32), b=(32, 32))
    (tmp_path / "1_x" / "a.caption").write_text("one")
    (tmp_path / "1_x" / "b.CAPTION").write_text("two")
    for extension in (".caption", "caption", " .Caption"):
        assert [picture.caption for picture in scanned(tmp_path, caption_extension=extension).pictures] == [
            "one",
            "two",
        ]
    notes = scanned(tmp_path, caption_extension=".txt").notes
    assert any(".caption stand beside 2 of them, but Caption file extension is .txt" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "caption", "note"),
    [
        (b"", "", "a.txt: empty"),
        (b" \n \n", "", "a.txt: empty"),
        (b"first\nsecond", "first", "a.txt: only the first line"),
        ("stra\xdfe".encode("cp1252"), "straße", "a.txt: not in UTF-8, read as Windows-1252"),
        ("straße 猫".encode("utf-16"), "straße 猫", ""),
        ("\ufeffstraße".encode(), "straße", ""),
    ],
)
def test_odd_captions_are_used_and_told(tmp_path: Path, content: bytes, caption: str, note: str) -> None:
    write(tmp_path / "1_x", a=(32, 32))
    (tmp_path / "1_x" / "a.txt").write_bytes(content)
    dataset = scanned(tmp_path)
    assert dataset.pictures[0].caption == caption
    assert [note in one for one in dataset.notes] == ([True] if note else [])


def test_a_caption_that_is_a_folder_is_no_caption(tmp_path: Path) -> None:
    write(tmp_path / "1_x", a=(32, 32))
    (tmp_path / "1_x" / "a.txt").mkdir()
    assert scanned(tmp_path).pictures[0].caption == "x"


def test_an_unreadable_caption_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "1_x", a=(32, 32))
    (tmp_path / "1_x" / "a.txt").write_text("hidden")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    dataset = scanned(tmp_path)
    assert dataset.pictures[0].caption == "x"
    assert any("a.txt cannot be read (Permission denied)" in note for note in dataset.notes)


def test_bad_pictures_are_left_out_with_the_reason(tmp_path: Path) -> None:
    folder = write(tmp_path / "1_x", good=(40, 30))
    (folder / "zero.png").touch()
    (folder / "text.jpg").write_text("no picture")
    noise(20, 20).save(folder / "jpeg.png", format="JPEG")
    write(folder / "deeper", lost=(20, 20))
    dataset = scanned(tmp_path)
    assert [picture.path.name for picture in dataset.pictures] == ["good.png", "jpeg.png"]
    assert {item.path.name: item.why for item in dataset.skipped} == {
        "zero.png": "is empty (0 bytes)",
        "text.jpg": "is text, not a picture",
    }
    assert any("jpeg.png is a JPEG file named .png" in note for note in dataset.notes)
    assert any("deeper" in note and "not used" in note for note in dataset.notes)


def test_missing_or_empty_folders_make_an_empty_data_set(tmp_path: Path) -> None:
    for folder in ("", tmp_path / "no", tmp_path):
        dataset = scanned(folder)
        assert dataset.pictures == ()
        assert dataset.entries() == []


def test_changes_are_seen_at_the_next_look(tmp_path: Path) -> None:
    folder = write(tmp_path / "1_x", a=(40, 30))
    assert scanned(tmp_path).pictures[0].size == (40, 30)
    noise(64, 48).save(folder / "a.png")
    (folder / "a.txt").write_text("one")
    assert [(picture.size, picture.caption) for picture in scanned(tmp_path).pictures] == [((64, 48), "one")]
    (folder / "a.txt").write_text("other")
    (folder / "b.png").touch()
    again = scanned(tmp_path)
    assert again.pictures[0].caption == "other"
    assert len(again.skipped) == 1


def test_looking_again_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "1_x", a=(40, 30), b=(40, 30))
    (folder / "a.txt").write_text("one")
    first = scanned(tmp_path)

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened again")

    monkeypatch.setattr(images.Image, "open", opened)
    monkeypatch.setattr(Path, "read_bytes", opened)
    assert scanned(tmp_path) == first


REPEATS = st.lists(st.integers(1, 9), max_size=8)


def looped(repeats: list[int], wanted: int) -> list[int]:
    """The established rule as a loop: register in order until there are enough, then one more each, round and round."""
    shown: dict[int, int] = {}
    count = 0
    first = True
    while repeats and count < wanted:
        for place, own in enumerate(repeats):
            if first:
                shown[place] = own
                count += own
            else:
                shown[place] += 1
                count += 1
            if count >= wanted:
                break
        first = False
    return list(shown.values())


@given(REPEATS, REPEATS)
def test_regularisation_is_balanced_as_by_the_loop(train: list[int], reg: list[int]) -> None:
    dataset = dataset_of([((64, 64), one) for one in train], [((64, 64), one) for one in reg])
    shown = [repeats for picture, repeats in dataset.repeated() if picture.is_reg]
    assert shown == looped(reg, sum(train))
    assert len(dataset.entries()) == sum(train) + sum(shown)
    if train and reg:
        assert sum(train) <= sum(shown) <= sum(train) + 8


def test_regularisation_folder(tmp_path: Path) -> None:
    write(tmp_path / "img" / "4_sks cat", a=(64, 64))
    write(tmp_path / "reg" / "1_cat", **{f"r{number}": (64, 64) for number in range(6)})
    dataset = scanned(tmp_path / "img", reg=tmp_path / "reg")
    assert len(dataset.pictures) == 1
    assert len(dataset.reg_pictures) == 6
    assert [picture.path.stem for picture in dataset.entries()] == ["a"] * 4 + ["r0", "r1", "r2", "r3"]
    assert any("2 of 6 regularisation pictures are not used" in note for note in dataset.notes)
    assert all(picture.caption == "cat" for picture in dataset.reg_pictures)


def test_verify_leaves_out_what_cannot_be_decoded_and_says_it_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "img" / "2_x", a=(64, 64), b=(200, 200), c=(64, 64))
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.jpg").touch()
    dataset = scanned(tmp_path / "img")
    assert len(dataset.pictures) == 3, "the header of b.png is whole"
    with Reporter(tmp_path / "run") as report:
        checked = verify(dataset, report)
    assert [picture.path.stem for picture in checked.pictures] == ["a", "c"]
    assert [item.path.name for item in checked.skipped] == ["zero.jpg", "b.png"]
    events, _ = read(tmp_path / "run" / "events.jsonl")
    items = [Path(event.path).name for event in events if isinstance(event, Item) and event.status == "skipped"]
    assert items == ["zero.jpg", "b.png"]
    notes = [event.text for event in events if isinstance(event, Note)]
    assert sum(note.startswith("2 of 4 pictures are left out: ") for note in notes) == 1
    assert sum("get the caption “x”" in note for note in notes) == 1
    assert any(event.kind == "phase" for event in events)


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "1_x", a=(64, 64))
    try:
        noise(20, 20).save(bytes(folder) + b"/bad\xff.png", "PNG")
    except OSError:
        pytest.skip("this file system has no such names")
    dataset = scanned(tmp_path)
    assert [picture.path.stem for picture in dataset.pictures] == ["a"]
    assert "not valid UTF-8" in dataset.skipped[0].why
    str(dataset.skipped[0]).encode("utf-8")


def test_large_repeats_are_counted_and_not_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks at every keystroke; thirty million entries would make it wait."""
    (tmp_path / "100000_x").mkdir()
    for number in range(300):
        Image.new("RGB", (64, 64)).save(tmp_path / "100000_x" / f"{number}.bmp")

    def written_out(dataset: Dataset) -> None:
        raise AssertionError("entries were written out")

    monkeypatch.setattr(Dataset, "entries", written_out)
    assert list(pool_counts(scanned(tmp_path), Settings()).values()) == [300 * 100_000]


def test_cache_files_of_other_programs_are_neither_trusted_nor_destroyed(tmp_path: Path) -> None:
    folder = write(tmp_path / "1_x", a=(64, 64))
    stale = folder / "a_0064x0064_sd.npz"
    stale.write_bytes(b"what sd-scripts left there")
    dataset = scan(Settings(train_data_dir=str(tmp_path), cache_latents_to_disk=True))
    assert dataset.notes[-1].startswith("1_x: 1 cache file of other programs (a_0064x0064_sd.npz): neither used")
    assert len(dataset.pictures) == 1
    assert stale.read_bytes() == b"what sd-scripts left there"
