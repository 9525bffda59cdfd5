"""What is said about folders: every way to choose the wrong one gets a sentence, and the right one where it is near."""

import os
from pathlib import Path

import pytest

from tests.data.made import write
from trainer.data.folders import folder_problems, listing, named_folders, read_name
from trainer.declare import Problem


def complain(folder: Path | str, required: bool = True) -> list[Problem]:
    return folder_problems(str(folder), "train_data_dir", "Image folder", required)


def the_problem(folder: Path | str) -> Problem:
    (problem,) = complain(folder)
    assert (problem.key, problem.label) == ("train_data_dir", "Image folder")
    return problem


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("10_cat", (10, "cat")),
        ("1_a photo of a cat", (1, "a photo of a cat")),
        ("03_sks_dog", (3, "sks_dog")),
        ("5_", (5, "")),
        ("0_cat", (0, "cat")),
        (" 7_ü 🐈 'x'", (7, "ü 🐈 'x'")),
        ("cat", None),
        ("10cat", None),
        ("cat_10", None),
        ("-3_cat", None),
        ("1.5_cat", None),
        ("_cat", None),
        ("٣_cat", None),
    ],
)
def test_names(name: str, expected: tuple[int, str] | None) -> None:
    assert read_name(name) == expected


def test_everything_that_is_not_used_is_told(tmp_path: Path) -> None:
    for name in ("10_cat", "masks", "0_none", "20240131_trip", ".cache"):
        write(tmp_path / name, a=(32, 32))
    write(tmp_path, loose=(32, 32))
    found, notes = named_folders(tmp_path)
    assert [(one.path.name, one.repeats, one.concept) for one in found] == [("10_cat", 10, "cat")]
    assert len(notes) == 4
    for word in ("masks is not used", "0_none is not used", "20240131 cannot be meant", "1 picture directly in"):
        assert sum(word in note for note in notes) == 1


def test_a_good_folder_has_no_problem(tmp_path: Path) -> None:
    for name in ('it\'s "quoted" ümläut 🐈', "with  spaces"):
        folder = tmp_path / name.replace('"', "" if os.name == "nt" else '"')
        write(folder / "3_my cat", a=(32, 32))
        assert complain(folder) == []
        assert complain(f"  {folder}  ") == []


def test_no_folder_chosen() -> None:
    assert "choose the folder" in the_problem("").message
    assert complain("", required=False) == []
    assert complain("  ", required=False) == []


def test_missing_folder_says_how_far_the_path_goes(tmp_path: Path) -> None:
    problem = the_problem(tmp_path / "no" / "such")
    assert "there is no folder" in problem.message
    assert str(tmp_path) in problem.message
    assert problem.fix is None


def test_pasted_quotation_marks_are_seen(tmp_path: Path) -> None:
    write(tmp_path / "1_x", a=(32, 32))
    problem = the_problem(f'"{tmp_path}"')
    assert problem.fix == {"train_data_dir": str(tmp_path)}
    assert complain(problem.fix["train_data_dir"]) == []


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "img" / "1_x", a=(32, 32))
    assert complain("~/img") == []


def test_inner_folder_chosen_offers_its_parent(tmp_path: Path) -> None:
    write(tmp_path / "10_cat", a=(32, 32), b=(32, 32))
    problem = the_problem(tmp_path / "10_cat")
    assert "you chose the inner folder 10_cat" in problem.message
    assert problem.fix == {"train_data_dir": str(tmp_path)}
    assert str(tmp_path) in problem.fix_label


@pytest.mark.parametrize("deeper", [False, True])
def test_one_picture_chosen_offers_the_right_folder(tmp_path: Path, deeper: bool) -> None:
    write(tmp_path / "10_cat", a=(32, 32))
    file = tmp_path / "10_cat" / "a.png" if deeper else tmp_path / "note.txt"
    file.touch()
    problem = the_problem(file)
    assert "is a file" in problem.message
    assert problem.fix == {"train_data_dir": str(tmp_path)}


def test_pictures_without_a_named_folder(tmp_path: Path) -> None:
    write(tmp_path / "cats", a=(32, 32), b=(32, 32), c=(32, 32))
    problem = the_problem(tmp_path / "cats")
    assert "3 pictures are directly in" in problem.message
    assert "10_cat" in problem.message
    assert problem.fix is None, "the number is for a person to choose"


def test_one_level_too_high_offers_the_child_that_is_not_regularisation(tmp_path: Path) -> None:
    for name in ("reg/1_man", "img/10_cat"):
        write(tmp_path / name, a=(32, 32))
    (tmp_path / "log").mkdir()
    problem = the_problem(tmp_path)
    assert problem.fix == {"train_data_dir": str(tmp_path / "img")}
    assert "reg" in problem.message
    assert complain(tmp_path / "img") == []


def test_pictures_one_level_too_deep(tmp_path: Path) -> None:
    write(tmp_path / "10_cat" / "originals", a=(32, 32))
    assert "originals" in the_problem(tmp_path).message
    assert "too deep" in the_problem(tmp_path).message


def test_folders_without_numbers(tmp_path: Path) -> None:
    write(tmp_path / "cat", a=(32, 32))
    problem = the_problem(tmp_path)
    assert "no folder in" in problem.message
    assert "like 10_cat" in problem.message


def test_nothing_at_all(tmp_path: Path) -> None:
    assert "is empty" in the_problem(tmp_path).message
    (tmp_path / "10_cat").mkdir()
    assert "no pictures in 10_cat" in the_problem(tmp_path).message
    (tmp_path / "10_cat" / "a.gif").touch()
    assert ".png" in the_problem(tmp_path).message
    (tmp_path / "10_cat").joinpath("a.gif").unlink()
    (tmp_path / "10_cat").rmdir()
    (tmp_path / "readme.txt").touch()
    assert "no pictures found in" in the_problem(tmp_path).message


def test_only_broken_pictures(tmp_path: Path) -> None:
    (tmp_path / "10_cat").mkdir()
    for name in ("a.png", "b.jpg"):
        (tmp_path / "10_cat" / name).touch()
    assert "none of the 2 pictures" in the_problem(tmp_path).message
    assert "a.png is empty (0 bytes)" in the_problem(tmp_path).message
    write(tmp_path / "10_cat", c=(32, 32))
    assert complain(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_forbidden_folder(tmp_path: Path) -> None:
    folder = tmp_path / "secret"
    folder.mkdir()
    folder.chmod(0)
    assert "permission denied" in the_problem(folder).message


def test_a_folder_that_cannot_be_listed_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("trainer.data.folders.os.scandir", refuse)
    assert "may not be read (permission denied)" in the_problem(tmp_path).message


def test_a_name_with_a_zero_character_is_a_sentence() -> None:
    assert complain("a\0b")


def test_listing_is_sorted_and_without_hidden_things(tmp_path: Path) -> None:
    write(tmp_path, b=(8, 8), a=(8, 8))
    for name in ("._a.png", ".DS_Store", "z.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub.png").mkdir()
    found = listing(tmp_path)
    assert [path.name for path in found.pictures] == ["a.png", "b.png"]
    assert found.files == ("Thumbs.db", "z.txt")
    assert [path.name for path in found.folders] == ["sub.png"]
