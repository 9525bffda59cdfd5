"""Run folders: made whole, free of secrets, and honest about their state."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trainer import runfolder
from trainer.declare import Section, setting
from trainer.events import Saved
from trainer.report import Reporter
from trainer.workspace import workspace


class Secretive(Section):
    """A section with a secret."""

    title: ClassVar[str] = "Secretive"

    rank: int = setting(8, "Rank", "A number.")
    hub_token: str = setting("", "Hub token", "A secret.", secret=True)


@pytest.fixture(autouse=True)
def own_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "work space"))
    return tmp_path / "work space"


def made(name: str = "cat") -> Path:
    return runfolder.create("train", name, Secretive(rank=4, hub_token="hunter2-token"))


def dead() -> dict[str, Any]:
    """The identity of a process that is gone."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    who = runfolder.identity(child.pid)
    child.wait()
    return who


def test_workspace_follows_the_variable_and_naming_makes_nothing(own_workspace: Path) -> None:
    assert workspace().root == own_workspace
    assert workspace().latents == own_workspace / "cache" / "latents"
    assert not own_workspace.exists()


def test_create_freezes_the_settings_without_secrets() -> None:
    folder = made("My cat: v1/ü🙂")
    assert re.fullmatch(r"\d{8}-\d{6}-My-cat-v1-ü", folder.name)
    assert json.loads((folder / "settings.json").read_text()) == {"rank": 4}
    assert runfolder.read_json(folder / "run.json")["name"] == "My cat: v1/ü🙂"
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"hunter2" not in everything


def test_many_at_the_same_moment_get_a_folder_each() -> None:
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(made())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 8


@pytest.mark.parametrize("name", ["", "..", "../../etc", "a/b\\c", "x" * 300, 'con: "*?<>|'])
def test_no_name_leaves_the_runs_folder(name: str) -> None:
    folder = made(name)
    assert folder.parent == workspace().runs
    assert len(folder.name) < 70


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path, done = tmp_path / "status.json", threading.Event()
    runfolder.write_json(path, {"n": 0, "pad": "x" * 50_000})

    def write() -> None:
        for number in range(100):
            runfolder.write_json(path, {"n": number, "pad": "x" * 50_000})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert len(runfolder.read_json(path)["pad"]) == 50_000
    writer.join()
    assert [item.name for item in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", '{"a": 1'])
def test_reading_what_is_not_an_object_gives_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert runfolder.read_json(tmp_path / "x.json") == {}


def test_alive_means_pid_and_start_time() -> None:
    me = runfolder.identity()
    assert runfolder.is_alive(me)
    assert not runfolder.is_alive({**me, "create_time": me["create_time"] - 60})  # the pid was given to another
    assert not runfolder.is_alive(dead())
    for broken in ({}, {"pid": -1, "create_time": 0}, {"pid": "1", "create_time": 1}, {"pid": os.getpid()}):
        assert not runfolder.is_alive(broken)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no zombies")
def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = runfolder.identity(child.pid)
    assert runfolder.is_alive(who)
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
    assert not runfolder.is_alive(who)
    child.wait()


def test_every_state_has_its_word() -> None:
    me, gone = runfolder.identity(), dead()

    def word(queued: bool = False, **files: dict[str, Any]) -> str:
        folder = made()
        for name, data in files.items():
            runfolder.write_json(folder / f"{name}.json", data)
        if queued:
            runfolder.enqueue(folder)
        return runfolder.state(folder)

    assert word(queued=True) == "queued"
    assert word() == "starting"
    assert word(run={"created": 0}) == "interrupted"
    assert word(process=me) == "starting"
    assert word(process=gone) == "interrupted"
    assert word(status={"state": "running", **me}) == "running"
    assert word(status={"state": "stopping", **me}) == "stopping"
    assert word(status={"state": "running", **gone}) == "interrupted"
    assert word(status={"state": "stopped", **me}) == "stopping"  # its memory is not free yet
    assert word(status={"state": "stopped", **gone}) == "stopped"
    assert word(status={"state": "finished", **gone}) == "finished"
    assert word(status={"state": "failed", **gone}) == "failed"
    assert word(status={"state": "stopping", **gone}, outcome={"state": "stopped"}) == "stopped"
    assert word(status={"state": "finished", **gone}, outcome={"state": "interrupted"}) == "finished"


def test_the_queue_keeps_its_order_and_finds_runs_with_dashes() -> None:
    folders = [made("b-2"), made("a"), made("b")]
    for folder in folders:
        runfolder.enqueue(folder)
    assert [runfolder.read_json(entry)["run"] for entry in runfolder.queue_entries()] == [item.name for item in folders]
    entry = runfolder.entry_of(folders[2].name)
    assert entry is not None
    entry.unlink()
    assert [runfolder.is_queued(folder.name) for folder in folders] == [True, True, False]


def test_newest_state_is_the_last_complete_one_that_still_exists() -> None:
    folder = made()
    assert runfolder.newest_state(folder) is None
    with Reporter(folder) as report:
        for step in (10, 20, 30):
            path = report.state / f"step-{step:06d}"
            path.mkdir()
            report(Saved(step=step, epoch=1, path=str(path), what="state"))
        report(Saved(step=40, epoch=1, path=str(folder)))  # weights are no state
    assert runfolder.newest_state(folder) == folder / "state" / "step-000030"
    (folder / "state" / "step-000030").rmdir()
    assert runfolder.newest_state(folder) == folder / "state" / "step-000020"


def test_tail_gives_last_lines_and_a_progress_bar_once(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes("äöü\n".encode() * 10_000 + b"  0%|\r 50%|\r100%|#\r\nlast words\r\n\n")
    assert runfolder.tail(log, 3) == ["äöü", "100%|#", "last words"]
    assert runfolder.tail(tmp_path / "missing") == []
