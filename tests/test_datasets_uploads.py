"""What comes into a data set by upload, archive or copy: checked, placed, never replacing anything, never elsewhere."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from app import dataset_routes, datasets, paths
from app import dataset_uploads as uploads
from app.dataset_uploads import MB, Result
from app.datasets import Made, Refused
from app.gate import Gate

HERE = "http://127.0.0.1:7860"


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "work"))
    yield tmp_path / "work"
    paths.restrict(None)


@pytest.fixture
def made() -> Made:
    return datasets.create("mycat", "asd", "cat", 10)


def image(color: int = 90, kind: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, color, 30)).save(file, kind)
    return file.getvalue()


def packed(members: Mapping[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def take(made: Made, name: str, data: bytes) -> list[Result]:
    file = uploads.temporary(made.images, Path(name).suffix)
    file.write_bytes(data)
    return list(uploads.take(file, name, made.images, made.path))


def files(made: Made) -> list[str]:
    return sorted(str(path.relative_to(made.path)) for path in made.path.rglob("*") if path.is_file())


IMG = os.path.join("img", "10_asd cat", "")


def test_pictures_and_captions_keep_their_names(made: Made) -> None:
    for name, data in (("Мурка 1.png", image()), ("Мурка 1.txt", b"words"), ("deep/er/b.JPG", image(1, "JPEG"))):
        assert [result.status for result in take(made, name, data)] == ["added"]
    assert files(made) == [f"{IMG}b.JPG", f"{IMG}Мурка 1.png", f"{IMG}Мурка 1.txt"]
    assert (made.images / "Мурка 1.txt").read_bytes() == b"words"


def test_nothing_is_replaced_and_the_same_again_is_no_harm(made: Made) -> None:
    take(made, "a.png", image())
    assert take(made, "a.png", image())[0].status == "same"
    other = take(made, "a.png", image(1))[0]
    assert other.status == "refused"
    assert "a.png is there already" in other.text
    assert (made.images / "a.png").read_bytes() == image()
    assert files(made) == [f"{IMG}a.png"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.png", b"", "is empty (0 bytes)"),
        ("a.png", b"hello", "is text, not a picture"),
        ("a.jpg", image(1, "JPEG", (800, 800))[:900], "damaged"),
        ("a.png", b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        ("a.txt", b"\0\1\2" * 9, "not text"),
        ("a.exe", b"MZ", "only pictures"),
        ("a", b"x", "only pictures"),
        ("a.svg", b"<svg/>", "only pictures"),
        ("../../a.png", image(), "not a name inside"),
        ("/etc/a.png", image(), "not a name inside"),
        ("C:\\a.png", image(), "not a name inside"),
        ("..\\a.png", image(), "not a name inside"),
        ("con.png", image(), "Windows"),
        ("a:b.png", image(), "must not contain :"),
        ("a.zip", b"PK no archive", "damaged or not a zip archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_what_cannot_be_used_is_named_and_leaves_nothing(made: Made, name: str, data: bytes, says: str) -> None:
    result = take(made, name, data)[0]
    assert result.status == "refused"
    assert says in result.text
    assert name.replace("\\", "/").split("/")[-1].split(".")[0] in result.text
    assert files(made) == []


def test_system_files_are_passed_over(made: Made) -> None:
    for name in (".DS_Store", "Thumbs.db", "__MACOSX/._a.png", "x/.hidden/b.png"):
        assert take(made, name, b"x") == []
    assert files(made) == []


def test_folders_named_for_repeats_keep_their_names(made: Made) -> None:
    for name in (
        "set/15_exterior/a.png",
        "set/reg/1_place/r.png",
        "15_exterior/sub/b.png",
        "2024_/c.png",
        "0_none/d.png",
    ):
        take(made, name, image(len(name)))
    assert files(made) == sorted(
        [
            *(os.path.join("img", "15_exterior", name) for name in ("a.png", "b.png")),
            os.path.join("reg", "1_place", "r.png"),
            f"{IMG}d.png",
            os.path.join("img", "2024_", "c.png"),
        ]
    )


def test_without_a_prompt_every_picture_needs_a_named_folder() -> None:
    places = datasets.create("places", "", named=True)
    assert take(places, "img/15_exterior/a.png", image())[0].status == "added"
    assert take(places, "all/reg/1_town/r.png", image())[0].status == "added"
    loose = take(places, "img/loose.png", image())[0]
    assert "in no folder named like 10_cat" in loose.text
    assert files(places) == [os.path.join("img", "15_exterior", "a.png"), os.path.join("reg", "1_town", "r.png")]


def test_too_large_is_said_with_the_limit(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uploads.LARGEST, "picture", 10)
    assert "larger than" in take(made, "a.png", image())[0].text
    assert files(made) == []


def test_a_full_disk_is_said_before_anything_is_written(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5 * MB})())
    assert "The disk has 5 MB free" in take(made, "a.png", image())[0].text
    assert files(made) == []


# Archives.


def test_an_archive_is_unpacked_by_the_same_rules(made: Made) -> None:
    content = {
        "photos/a.png": image(1),
        "photos/a.txt": b"words",
        "photos/20_dog/b.png": image(2),
        "photos/notes.pdf": b"%PDF",
        "photos/broken.png": b"\x89PNG broken",
        "photos/inner.zip": packed({"c.png": image(3)}),
        "__MACOSX/photos/._a.png": b"x",
    }
    results = {result.name: result for result in take(made, "all.zip", packed(content))}
    assert {name: result.status for name, result in results.items()} == {
        "a.png": "added", "a.txt": "added", "b.png": "added", "notes.pdf": "refused", "broken.png": "refused",
        "inner.zip": "refused",
    }  # fmt: skip
    assert "archive inside an archive" in results["inner.zip"].text
    assert files(made) == [f"{IMG}a.png", f"{IMG}a.txt", os.path.join("img", "20_dog", "b.png")]


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/a.png", "C:/a.png", "..\\a.png"])
def test_an_archive_that_leads_out_of_itself_is_refused_whole(made: Made, name: str, tmp_path: Path) -> None:
    results = take(made, "bad.zip", packed({"fine.png": image(), name: image(1)}))
    assert [result.status for result in results] == ["refused"]
    assert "leads out of it" in results[0].text
    assert files(made) == []
    assert not list(tmp_path.rglob("a.png"))


def test_links_in_archives_are_refused(made: Made) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert "holds a link" in take(made, "bad.zip", file.getvalue())[0].text
    assert files(made) == []


def test_bombs_are_refused_before_and_while_unpacking(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "UNPACKED", 1 * MB)
    bomb = packed({f"{number}.txt": bytes(400_000) for number in range(4)})
    assert len(bomb) < 10_000
    assert "unpacked; 1 MB is the most" in take(made, "bomb.zip", bomb)[0].text
    monkeypatch.setattr(uploads, "MOST_FILES", 3)
    assert "holds 4 files" in take(made, "many.zip", packed({f"{number}.txt": b"x" for number in range(4)}))[0].text
    liar = bytearray(packed({"a.txt": bytes(500_000)}))
    for place in (liar.index(b"PK\x03\x04") + 22, liar.index(b"PK\x01\x02") + 24):
        liar[place : place + 4] = (1000).to_bytes(4, "little")  # says 1000 bytes, unpacks to half a million
    result = take(made, "liar.zip", bytes(liar))[0]
    assert result.status == "refused"
    assert files(made) == []


def test_archives_with_a_password_say_so(made: Made) -> None:
    data = bytearray(packed({"a.txt": b"secret"}, zipfile.ZIP_STORED))
    for place in (data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8):
        data[place] |= 1
    assert "has a password" in take(made, "locked.zip", bytes(data))[0].text


# Folders of this machine.


def test_a_folder_is_copied_and_stays_as_it_is(made: Made, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "20_dog").mkdir(parents=True)
    for name, data in (
        ("a.png", image()),
        ("a.txt", b"words"),
        ("20_dog/b.png", image(1)),
        ("c.pdf", b"x"),
        ("d.png", b"x"),
    ):
        (source / name).write_bytes(data)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    lines = list(uploads.copy_folder(source, made.images, made.path))
    assert [line[:2] for line in lines] == [(number, 4) for number in range(5)]
    statuses = {line[2].name: line[2].status for line in lines if line[2]}
    assert statuses == {"a.png": "added", "a.txt": "added", "b.png": "added", "d.png": "refused"}
    assert files(made) == [f"{IMG}a.png", f"{IMG}a.txt", os.path.join("img", "20_dog", "b.png")]
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_source_and_destination_in_each_other_are_refused(made: Made, tmp_path: Path, work: Path) -> None:
    take(made, "a.png", image())
    link = tmp_path / "link"
    link.symlink_to(made.path)
    for source in (made.path, made.images, work / "datasets", tmp_path, link):
        with pytest.raises(Refused, match="lie in each other"):
            uploads.copy_folder(source, made.images, made.path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="no pictures in"):
        uploads.copy_folder(tmp_path / "empty", made.images, made.path)
    assert files(made) == [f"{IMG}a.png"]


def test_what_broke_off_long_ago_is_swept(made: Made) -> None:
    old, new = uploads.temporary(made.images, ".png"), uploads.temporary(made.images, ".png")
    os.utime(old, (1, 1))
    uploads.forget_broken(made.path)
    assert [path.exists() for path in (old, new)] == [False, True]


# Over the wire.


def client() -> TestClient:
    application = FastAPI()
    application.include_router(dataset_routes.router)
    return TestClient(Gate(application), base_url=HERE)


def send(folder: Path | str, name: str, data: bytes, **headers: str) -> Any:
    address = "/loom/datasets/upload"
    told = {
        "content-type": "application/octet-stream",
        **{key.replace("_", "-"): value for key, value in headers.items()},
    }
    return client().post(address, params={"folder": str(folder), "name": name}, content=data, headers=told)


def ask(deed: str, /, **asked: Any) -> Any:
    body = json.dumps(asked).encode("ascii")  # as browsers write what is no proper Unicode
    return client().post(f"/loom/datasets/{deed}", content=body, headers={"content-type": "application/json"})


def test_from_creating_to_training_over_the_wire() -> None:
    made = ask(
        "create", **{"name": "mycat", "instance": "asd", "class": "cat", "repeats": "10", "reg_repeats": None}
    ).json()
    assert send(made["images"], "a.png", image()).json()["results"][0]["status"] == "added"
    seen = ask("look", path=made["path"]).json()
    assert seen["own"] is True
    (only,) = seen["pictures"]
    saved = ask("caption", picture=only["path"], extension=".txt", text="asd cat", version=only["version"]).json()
    again = ask("caption", picture=only["path"], extension=".txt", text="other", version="")
    assert (again.status_code, again.json()["caption"], again.json()["version"]) == (409, "asd cat", saved["version"])
    facts = ask("facts", pictures=[only["path"]], resolution="512,512").json()["facts"][0]
    assert (facts["width"], facts["height"], facts["problems"][0]["kind"]) == (64, 48, "small")
    assert ask("duplicates", path=made["path"]).json() == {"groups": []}
    assert ask("fields", path=made["path"]).json()["values"]["train_data_dir"] == str(Path(made["images"]).parent)
    renamed = ask("repeats", folder=made["images"], repeats="20").json()["path"]
    gone = ask("remove", picture=str(Path(renamed, "a.png")), extension=".txt").json()
    assert ask("restore", picture=gone["path"]).json()["path"] == str(Path(renamed, "a.png"))
    assert client().get("/loom/datasets").json()["sets"][0]["pictures"] == 1


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_no_text_come_back_as_they_are(made: Made) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    try:
        (made.images / odd).write_bytes(image())
    except OSError:
        pytest.skip("this file system takes no such names")
    (only,) = ask("look", path=str(made.path)).json()["pictures"]
    assert ask("caption", picture=only["path"], extension=".txt", text="words", version="").json()["caption"] == "words"
    assert sorted(os.listdir(made.images)) == sorted([odd, os.fsdecode(b"caf\xe9.txt")])


def test_copying_is_told_line_by_line(tmp_path: Path, made: Made) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.png").write_bytes(image())
    answer = ask("copy", folder=str(made.images), source=str(tmp_path / "source"))
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["done"] for line in lines] == [0, 1]
    assert ask("copy", folder=str(made.images), source=str(made.path)).json()["field"] == "source"


def test_refusals_are_sentences_with_their_field() -> None:
    answer = ask("create", name="", instance="a", repeats=1)
    assert (answer.status_code, answer.json()) == (422, {"say": "Name is missing.", "field": "name"})
    assert ask("look", path="/nowhere/at/all").status_code == 422
    assert client().get("/loom/datasets/static/..%2fpage.css").status_code == 404
    assert client().get("/loom/datasets/static/datasets.js").headers["content-type"].startswith("text/javascript")


def test_uploads_go_into_data_sets_of_the_workspace_only(tmp_path: Path, work: Path, made: Made) -> None:
    (tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path / "elsewhere", work / "datasets", work, made.images / ".." / ".." / "..", "img", ""):
        assert send(folder, "a.png", image()).json()["results"][0]["status"] == "refused"
    assert not list(tmp_path.rglob("a.png"))


def test_other_sites_cannot_send(made: Made) -> None:
    assert send(made.images, "a.png", image(), origin="https://evil.example").status_code == 403
    assert send(made.images, "a.png", image(), content_type="text/plain").status_code == 415
    evil = client().post("/loom/datasets/create", json={"name": "x"}, headers={"sec-fetch-site": "cross-site"})
    assert evil.status_code == 403
    plain = client().post("/loom/datasets/create", content=b'{"name": "x"}', headers={"content-type": "text/plain"})
    assert plain.status_code == 422
    assert files(made) == []


def test_limits_hold_while_a_file_arrives(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uploads.LARGEST, "picture", 10)
    assert "larger than" in send(made.images, "a.png", image()).json()["results"][0]["text"]

    def pieces() -> Iterator[bytes]:
        yield from (bytes(8) for _ in range(4))

    told = {"content-type": "application/octet-stream"}
    place = {"folder": str(made.images), "name": "a.png"}
    answer = client().post("/loom/datasets/upload", params=place, content=pieces(), headers=told)
    assert "larger than" in answer.json()["results"][0]["text"]
    assert files(made) == []
