"""The supervisor, with real processes: queue, stop ladder, deaths on either side, and being the only one."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.pretend import environment
from tests.pretend.work import Pretence
from trainer import events, runfolder, supervisor

PATIENCE = (0.6, 0.6, 0.6)
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace whose processes are ended with the test."""
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "my work"))
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    root = tmp_path / "my work"
    yield root
    for path in [root / supervisor.WHO, *root.glob("runs/*/status.json"), *root.glob("runs/*/process.json")]:
        process = runfolder.process(runfolder.read_json(path))
        if process is not None and process.pid != os.getpid():
            process.kill()
            process.wait(10)


def start(idle: float = 1.0) -> "subprocess.Popen[bytes]":
    return supervisor.start(idle, PATIENCE)


def queue(**values: Any) -> Path:
    folder = runfolder.create("pretend", values.get("output_name", "x"), Pretence(**values))
    runfolder.enqueue(folder)
    return folder


def wait(true: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def status(folder: Path) -> dict[str, Any]:
    return runfolder.read_json(folder / "status.json")


def outcome(folder: Path) -> dict[str, Any]:
    wait(lambda: (folder / "outcome.json").exists())
    return runfolder.read_json(folder / "outcome.json")


def running(folder: Path) -> psutil.Process:
    wait(lambda: status(folder).get("step"))
    process = runfolder.process(status(folder))
    assert process is not None
    return process


def boss() -> psutil.Process:
    process = runfolder.process(runfolder.read_json(supervisor.workspace().root / supervisor.WHO))
    assert process is not None
    return process


def ended(folder: Path) -> list[events.Ended]:
    return [event for event in events.read(folder / "events.jsonl")[0] if isinstance(event, events.Ended)]


def test_the_queue_is_worked_in_order_one_at_a_time_and_then_it_ends(work: Path) -> None:
    folders = [queue(output_name=name, steps=2, delay=0.05) for name in ("c", "a", "b")]
    child = start(idle=0.5)
    for folder in folders:
        assert outcome(folder)["state"] == "finished"
        assert runfolder.state(folder) == "finished"
    times = [(status(folder)["started"], ended(folder)[0].time) for folder in folders]
    assert all(end <= next_start for (_, end), (next_start, _) in itertools.pairwise(times))
    assert (folders[0] / "log.txt").read_text().startswith("threads")
    child.wait(timeout=20)
    assert child.returncode == 0
    assert not list((work / "queue").iterdir())


def test_a_failing_run_does_not_stop_the_queue(work: Path) -> None:
    bad, good = queue(how="exception"), queue()
    start()
    found = outcome(bad)
    assert (found["state"], found["code"]) == ("failed", 1)
    assert "something broke" in found["reason"]
    assert outcome(good)["state"] == "finished"


def test_there_is_one_supervisor_however_many_are_started(work: Path) -> None:
    folders = [queue(steps=2, delay=0.1) for _ in range(2)]
    children = [start(idle=3) for _ in range(4)]
    for folder in folders:
        outcome(folder)
    wait(lambda: sum(child.poll() is not None for child in children) == 3)
    assert sum(isinstance(event, events.Started) for f in folders for event in events.read(f / "events.jsonl")[0]) == 2


def test_work_left_while_one_gives_up_is_not_forgotten(work: Path) -> None:
    for _ in range(3):
        child = start(idle=0.0)  # looks once and leaves, as fast as it can
        folder = queue(steps=1)
        start(idle=0.0)
        assert outcome(folder)["state"] == "finished"
        child.wait(timeout=20)


def test_stop_lets_the_run_save_and_end_by_itself(work: Path) -> None:
    folder = queue(steps=1000, delay=0.05)
    start()
    running(folder)
    runfolder.command(folder, "stop")
    found = outcome(folder)
    assert (found["state"], found["code"], found["signal"]) == ("stopped", 3, "")
    assert runfolder.state(folder) == "stopped"
    assert runfolder.newest_state(folder) is not None
    assert status(folder)["reason"] == "Stopped after the step."


def test_nobody_climbs_while_the_run_is_saving(work: Path) -> None:
    folder = queue(how="slow saving", steps=1000, delay=0.05)  # saves for longer than all patience but the last
    start()
    running(folder)
    runfolder.command(folder, "stop")
    wait(lambda: runfolder.state(folder) == "stopping")
    assert outcome(folder)["code"] == 3
    assert runfolder.newest_state(folder) is not None


@posix
def test_the_ladder_reaches_a_run_that_listens_to_nothing_and_its_children(work: Path) -> None:
    folder = queue(how="deaf", steps=1, delay=60)
    start()
    wait(lambda: (folder / "log.txt").exists() and "grandchild" in (folder / "log.txt").read_text())
    grandchild = int((folder / "log.txt").read_text().split("grandchild ")[1].split()[0])
    who = runfolder.identity(grandchild)
    runfolder.command(folder, "stop")
    found = outcome(folder)
    assert (found["state"], found["signal"]) == ("stopped", "SIGKILL")
    assert "not listening" in "\n".join(found["last_words"])  # the request to end came before the kill
    wait(lambda: not runfolder.is_alive(who))
    assert [line.split(": ")[1] for line in (work / supervisor.LOG).read_text().splitlines()[1:4]] == [
        "interrupt", "terminate", "kill",
    ]  # fmt: skip


def test_kill_does_not_wait(work: Path) -> None:
    folder = queue(steps=1000, delay=0.05)
    supervisor.start(1.0, (60, 60, 60))
    running(folder)
    runfolder.command(folder, "kill")
    found = outcome(folder)
    assert found["state"] == runfolder.state(folder) == "stopped"
    assert "asked" in found["reason"]
    assert not ended(folder)


def test_a_killed_trainer_is_interrupted_with_its_last_words(work: Path) -> None:
    folder = queue(steps=1000, delay=0.05, loud=True)
    start()
    running(folder).kill()
    found = outcome(folder)
    assert found["state"] == runfolder.state(folder) == "interrupted"
    assert found["last_words"][-1].startswith("step ")
    assert found["step"] >= 1
    if os.name != "nt":
        assert found["signal"] == "SIGKILL"
        assert "memory" in found["reason"]


def test_an_exit_without_a_word_is_told_from_the_log(work: Path) -> None:
    folder = queue(how="exit")
    start()
    found = outcome(folder)
    assert (found["state"], found["code"]) == ("interrupted", 7)
    assert "exit code 7: last words on the way out" in found["reason"]


def test_a_job_that_cannot_start_fails_with_its_last_line(work: Path) -> None:
    folder = runfolder.create("no-such-job", "x", Pretence())
    runfolder.enqueue(folder)
    start()
    found = outcome(folder)
    assert found["state"] == runfolder.state(folder) == "failed"
    assert "no-such-job" in "".join(found["last_words"])


def test_training_survives_the_supervisor_and_the_next_one_finds_it(work: Path) -> None:
    first, second = queue(steps=40, delay=0.05), queue(steps=1)
    start()
    trainer = running(first)
    old = boss()
    old.kill()
    step = status(first)["step"]
    wait(lambda: status(first)["step"] > step)
    start()
    wait(lambda: runfolder.read_json(work / supervisor.WHO)["pid"] != old.pid)
    assert boss().is_running()
    assert runfolder.is_queued(second.name)  # one at a time, although the first is nobody's child now
    assert outcome(first)["state"] == "finished"
    assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE
    assert outcome(second)["state"] == "finished"
    assert len(ended(first)) == 1


def test_the_next_supervisor_stops_a_run_it_did_not_start(work: Path) -> None:
    folder = queue(how="deaf", steps=1, delay=60)
    start()
    wait(lambda: runfolder.state(folder) == "running")
    boss().kill()
    start()
    runfolder.command(folder, "stop")
    found = outcome(folder)
    assert (found["state"], found["code"]) == ("stopped", None)  # nobody waited for it


def test_a_run_that_died_while_nobody_watched_is_recorded(work: Path) -> None:
    folder = queue(steps=1000, delay=0.05, loud=True)
    start()
    trainer = running(folder)
    boss().kill()
    trainer.kill()
    wait(lambda: runfolder.state(folder) == "interrupted")
    start()
    found = outcome(folder)
    assert found["state"] == "interrupted"
    assert found["last_words"][-1].startswith("step ")


def test_what_a_killed_supervisor_had_in_its_hands_goes_back_to_the_queue(work: Path) -> None:
    folder = queue(steps=1)
    entry = runfolder.queue_entries()[0]
    entry.rename(entry.with_suffix(".taken"))
    assert runfolder.state(folder) == "queued"
    start()
    assert outcome(folder)["state"] == "finished"


def test_entries_of_removed_runs_are_passed_over(work: Path) -> None:
    gone, kept = queue(), queue()
    for path in sorted(gone.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    gone.rmdir()
    (work / "queue" / "0-rubbish.json").write_text("{")
    start()
    assert outcome(kept)["state"] == "finished"
    assert not gone.exists()


STARTER = """
import sys, time
from trainer import supervisor
supervisor.start(5.0, (5, 5, 5))
print("started", flush=True)
time.sleep(60)
"""


@posix
def test_neither_the_death_of_the_page_nor_its_ctrl_c_reaches_the_trainer(work: Path) -> None:
    folder = queue(steps=1000, delay=0.05)
    page = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, start_new_session=True)
    trainer = running(folder)
    os.killpg(page.pid, 2)  # as Ctrl-C in its terminal
    page.kill()
    page.communicate(timeout=20)
    step = status(folder)["step"]
    wait(lambda: status(folder)["step"] > step + 3)
    assert trainer.is_running()
    assert boss().is_running()


def test_relative_paths_start_where_the_page_was(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = queue(steps=1000, delay=0.05)
    monkeypatch.chdir(tmp_path)
    start()
    assert Path(running(folder).cwd()).samefile(tmp_path / "here")


def test_the_passwords_of_the_page_are_not_handed_on(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_PASSWORD", "hunter2")
    folder = queue(steps=1000, delay=0.05)
    start()
    assert "LOOM_PASSWORD" not in running(folder).environ()
    assert "LOOM_PASSWORD" not in boss().environ()
