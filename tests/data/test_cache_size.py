"""Caches are counted by kind, and emptied of what nobody used lately."""

import os
import time
from pathlib import Path

from trainer.__main__ import main
from trainer.data.cache_size import amount, caches, empty
from trainer.workspace import Workspace


def cached(root: Path, **ages: float) -> Workspace:
    """A workspace with latents of 1000 bytes, used so many days ago."""
    of = Workspace(root)
    for name, days in ages.items():
        file = of.latents / name[:2] / f"{name}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(1000))
        moment = time.time() - days * 24 * 3600
        os.utime(file, (moment, moment))
    return of


def names(of: Workspace) -> set[str]:
    return {path.stem for path in of.latents.rglob("*.npz")}


def test_sizes_by_kind(tmp_path: Path) -> None:
    of = cached(tmp_path, new=0, old=40)
    assert [(one.name, one.files, one.bytes) for one in caches(of)] == [("Latents", 2, 2000), ("Captions", 0, 0), ("Thumbnails", 0, 0)]
    assert str(caches(of)[0]) == f"Latents: 2 files, 2.0 kB in {of.latents}"
    assert list(map(amount, (0, 3_210_000, 4_200_000_000))) == ["0.0 kB", "3.2 MB", "4.2 GB"]


def test_what_was_not_used_is_removed_and_nothing_else(tmp_path: Path) -> None:
    of = cached(tmp_path, new=0, week=8, old=40)
    (tmp_path / "mine.txt").write_text("x")
    elsewhere = tmp_path / "elsewhere.npz"
    elsewhere.write_bytes(b"x")
    (of.latents / "link.npz").symlink_to(elsewhere)
    assert [(one.name, one.files, one.bytes) for one in empty(30, of)] == [("Latents", 1, 1000), ("Captions", 0, 0), ("Thumbnails", 0, 0)]
    assert names(of) == {"new", "week", "link"}
    assert [one.files for one in empty(0, of)] == [2, 0, 0]
    assert elsewhere.exists()
    assert (tmp_path / "mine.txt").exists()


def test_the_command_tells_and_empties(tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path))
    cached(tmp_path, new=0, old=40)
    assert main(["cache"]) == 0
    assert "Latents: 2 files" in capsys.readouterr().out
    assert main(["cache", "--empty", "30"]) == 0
    assert "Latents: 1 file" in capsys.readouterr().out
    assert names(Workspace(tmp_path)) == {"new"}
    assert main(["cache", "--empty"]) == 0
    assert names(Workspace(tmp_path)) == set()
