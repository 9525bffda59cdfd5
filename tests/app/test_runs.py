"""Runs as the page sees them, with real supervisors and trainers."""

import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import runs
from tests.pretend import environment
from tests.pretend.work import Pretence, Pretend
from trainer import jobs as jobs_module
from trainer import runfolder, supervisor
from trainer.settings import Settings

start = supervisor.start


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "work"))
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(supervisor, "start", functools.partial(start, 1.0, (5.0, 1.0, 1.0)))
    monkeypatch.setattr(runs, "jobs", lambda: {**jobs_module.jobs(), "pretend": Pretend()})
    root = tmp_path / "work"
    yield root
    runs.forget()
    for path in [root / supervisor.WHO, *root.glob("runs/*/status.json"), *root.glob("runs/*/process.json")]:
        process = runfolder.process(runfolder.read_json(path))
        if process is not None and process.pid != os.getpid():
            process.kill()
            process.wait(10)


def wait(true: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def queue(name: str = "cat", **values: Any) -> str:
    return runs.queue_run("pretend", Pretence(**values), name)


def state(run: str) -> str:
    info = runs.snapshot(run)
    return info.state if info else "gone"


def asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """No supervisor comes; what is queued stays queued."""
    monkeypatch.setattr(supervisor, "start", lambda: None)


def test_a_run_goes_from_queued_to_finished_and_is_listed_with_its_facts(work: Path) -> None:
    run = queue("my cat", steps=3, hub_token="hunter2")
    wait(lambda: state(run) == "finished")
    info = runs.list_runs()[0]
    assert (info.id, info.job, info.name, info.state) == (run, "pretend", "my cat", "finished")
    assert info.status["step"] == 3
    assert info.folder == work / "runs" / run
    everything = b"".join(path.read_bytes() for path in work.rglob("*") if path.is_file())
    assert b"hunter2" not in everything


def test_two_starts_at_once_are_one_order_and_the_second_waits(work: Path) -> None:
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(queue(steps=6, delay=0.1))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait(lambda: "running" in map(state, ids))
    first, second = sorted(ids, key=lambda run: state(run) != "running")
    assert state(second) == "queued"
    assert [info.id for info in runs.ahead(second)] == [first]
    assert runs.ahead(first) == []
    wait(lambda: state(second) == "finished")
    times = [runs.snapshot(run).status for run in (first, second)]  # type: ignore[union-attr]
    assert times[0]["heartbeat"] <= times[1]["started"]


def test_stop_then_resume_settings_name_the_state(work: Path) -> None:
    run = queue(steps=1000, delay=0.05)
    wait(lambda: (info := runs.snapshot(run)) and info.status.get("step"))
    runs.command(run, "stop")
    assert state(run) in ("running", "stopping", "stopped")
    wait(lambda: state(run) == "stopped")
    settings: Any = runs.resume_settings(run)
    assert Path(settings.resume).parent == work / "runs" / run / "state"
    assert settings.steps == 1000
    runs.command(run, "stop")  # a click that came too late does nothing
    assert not list((work / "runs" / run / "control").iterdir())


def test_the_trainer_killed_is_seen_as_interrupted_with_its_last_words(work: Path) -> None:
    run = queue(steps=1000, delay=0.05, loud=True)
    wait(lambda: (info := runs.snapshot(run)) and info.status.get("step"))
    info = runs.snapshot(run)
    assert info is not None
    process = runfolder.process(info.status)
    assert process is not None
    process.kill()
    wait(lambda: state(run) == "interrupted")
    wait(lambda: runs.snapshot(run).settled)  # type: ignore[union-attr]
    info = runs.snapshot(run)
    assert info is not None
    assert info.outcome["last_words"][-1].startswith("step ")
    assert info.outcome["step"] >= 1
    with pytest.raises(ValueError, match="no training state"):
        runs.resume_settings(run)
    assert runs.settings_of(run) == Pretence(steps=1000, delay=0.05, loud=True)


PAGE = """
import sys
from app import runs
from tests.pretend.work import Pretence
from trainer import supervisor
print(runs.queue_run("pretend", Pretence(steps=60, delay=0.05), "x"), flush=True)
import time; time.sleep(60)
"""


def test_the_page_killed_and_started_again_finds_the_run(work: Path) -> None:
    page = subprocess.Popen([sys.executable, "-c", PAGE], stdout=subprocess.PIPE, text=True)
    assert page.stdout is not None
    run = page.stdout.readline().strip()
    wait(lambda: (info := runs.snapshot(run)) and info.status.get("step"))
    page.kill()
    page.communicate()
    step = runs.snapshot(run).status["step"]  # type: ignore[union-attr]
    runs.wake()  # as the new page does
    wait(lambda: runs.snapshot(run).status["step"] > step)  # type: ignore[union-attr]
    assert state(run) == "running"
    wait(lambda: state(run) == "finished")


def test_waking_up_with_nothing_to_do_starts_nothing(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    monkeypatch.setattr(supervisor, "start", lambda: called.append(1))
    runs.wake()
    assert not called
    assert not work.exists()
    run = queue()
    called.clear()
    runs.wake()
    assert called == [1]
    runs.command(run, "stop")
    called.clear()
    runs.wake()
    assert not called


def test_a_run_that_waits_is_taken_from_the_queue(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep(monkeypatch)
    run, other = queue(), queue()
    assert [state(run), state(other)] == ["queued", "queued"]
    runs.command(run, "stop")
    assert [state(run), state(other)] == ["stopped", "queued"]
    assert "before it began" in runs.snapshot(run).outcome["reason"]  # type: ignore[union-attr]
    assert len(runfolder.queue_entries()) == 1


def test_delete_can_be_undone_and_never_takes_a_living_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep(monkeypatch)
    run = queue("dog.v1.5")
    runs.delete(run)
    assert runs.list_runs() == []
    assert runfolder.queue_entries() == []
    runs.restore(run)
    assert state(run) == "stopped"
    runfolder.write_json(work / "runs" / run / "outcome.json", {})
    runfolder.write_json(work / "runs" / run / "status.json", {"state": "running", **runfolder.identity()})
    runs.forget()
    with pytest.raises(ValueError, match="stop it first"):
        runs.delete(run)
    assert state(run) == "running"


def test_trash_is_emptied_after_a_week(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep(monkeypatch)
    old, new = queue("old"), queue("new")
    runs.delete(old)
    (work / "trash" / f"{old}.json").write_text(json.dumps({"deleted": time.time() - 8 * 24 * 3600}))
    runs.delete(new)
    assert sorted(path.name for path in (work / "trash").iterdir()) == [new, f"{new}.json"]
    with pytest.raises(ValueError, match="cannot be brought back"):
        runs.restore(old)


@pytest.mark.parametrize("run", ["", ".", "..", "../runs/x", "/etc", "a\0b", "C:\\x", "nothing"])
def test_no_id_leaves_the_runs_folder(work: Path, run: str) -> None:
    assert runs.snapshot(run) is None
    for act in (runs.delete, runs.restore, runs.resume_settings, lambda run: runs.command(run, "stop")):
        with pytest.raises(ValueError):
            act(run)


def test_an_unknown_command_writes_nothing(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep(monkeypatch)
    run = queue()
    with pytest.raises(ValueError, match="no command"):
        runs.command(run, "../../evil")
    assert not list((work / "runs" / run / "control").iterdir())


def test_snapshots_are_cheap_and_settled_ones_are_not_read_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep(monkeypatch)
    run = queue()
    runs.command(run, "stop")
    assert state(run) == "stopped"
    monkeypatch.setattr(runfolder, "facts", lambda folder: pytest.fail("read again"))
    assert state(run) == "stopped"


def test_training_settings_survive_the_way_through_the_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep(monkeypatch)
    wanted = Settings(train_data_dir="/päth with 'quotes' 🙂", network_alpha=0.5, seed=None, unet_lr=None, text_encoder_lr=0)
    run = runs.queue_run("train", wanted, "x")
    assert runs.settings_of(run) == wanted


def test_nothing_here_needs_gradio_or_torch() -> None:
    code = "import app.runs, sys; print({'gradio', 'torch'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"
