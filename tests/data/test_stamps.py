"""What is remembered about files, and when it is forgotten."""

import os
from pathlib import Path

import pytest

from trainer.data import stamps


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    reads: list[str] = []

    @stamps.once_per_file
    def read(path: Path) -> str:
        reads.append(path.name)
        return path.read_text()

    file = tmp_path / "a.txt"
    file.write_text("one")
    assert [read(file), read(file), read(file)] == ["one"] * 3
    file.write_text("three")
    assert [read(file), read(file)] == ["three"] * 2
    assert reads == ["a.txt"] * 2
    os.utime(file, ns=(1, 1))
    read(file)
    other = tmp_path / "b.txt"
    other.write_text("other")
    os.utime(other, ns=(1, 1))
    os.replace(other, file)  # the same time and length, another file
    assert read(file) == "other"
    file.unlink()
    with pytest.raises(OSError):
        read(file)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "LIMIT", 3)
    read = stamps.once_per_file(lambda path: path.read_text())
    for number in range(10):
        (tmp_path / str(number)).write_text(str(number))
        assert read(tmp_path / str(number)) == str(number)
