"""The reporter: what it writes, what it hears, and that nothing stops it."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from trainer import events, runfolder
from trainer.events import Ended, EpochEnd, Item, Phase, Sample, Saved, Started, Step
from trainer.report import Pace, Reporter


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text())


def test_events_are_written_in_order_and_status_follows_them(tmp_path: Path) -> None:
    with Reporter(tmp_path, job="train", name="cat") as report:
        report(Started(job="train", name="cat", plan={"steps": 4, "epochs": 2}))
        report(Phase(name="training", time=100.0))
        for step in (1, 2, 3):
            report(Step(step=step, epoch=1, loss=0.5, average=0.4, lr={"unet": 1e-4}, time=100.0 + 2 * step))
        report(EpochEnd(epoch=2, step=3, loss=0.4))
        report(Sample(step=3, epoch=2, index=0, prompt="a cat", seed=1, path="samples/a.png"))
        report(Saved(step=3, epoch=2, path="/out/cat.safetensors"))
        report.note("a thing to know", key="seed")
        report(Ended(state="finished", step=3))
    kinds = [event.kind for event in events.read(tmp_path / "events.jsonl")[0]]
    assert kinds == ["started", "phase", *["step"] * 3, "epoch", "sample", "saved", "note", "ended"]
    said = status(tmp_path)
    expected = {
        "job": "train", "name": "cat", "state": "finished", "phase": "training", "step": 3, "steps": 4, "epoch": 2,
        "epochs": 2, "loss": 0.5, "average": 0.4, "lr": {"unet": 1e-4}, "samples": 1,
        "last_saved": "/out/cat.safetensors",
    }  # fmt: skip
    assert {key: said[key] for key in expected} == expected
    assert said["rate"] == pytest.approx(0.5)
    assert said["eta"] == pytest.approx(2.0)
    assert runfolder.is_alive(said)


def test_steps_appear_within_a_second_without_a_flush(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        report(Step(step=1, epoch=1, loss=0.1, average=0.1))
        deadline = time.monotonic() + 60
        while not events.read(tmp_path / "events.jsonl")[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [event.kind for event in events.read(tmp_path / "events.jsonl")[0]] == ["step"]
        assert status(tmp_path)["step"] == 1


def test_heartbeat_is_renewed_while_the_job_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.report.FLUSH_EVERY", 0.02)
    monkeypatch.setattr("trainer.report.HEARTBEAT_EVERY", 0.02)
    with Reporter(tmp_path):
        first = status(tmp_path)["heartbeat"]
        deadline = time.monotonic() + 60
        while status(tmp_path)["heartbeat"] == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert status(tmp_path)["heartbeat"] > first


def test_the_memory_a_run_uses_is_told_once_somebody_knows_it(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        assert "memory" not in status(tmp_path)
        report.memory = lambda: (3_100_000_000, 12_000_000_000)
        report.flush()
        assert (status(tmp_path)["memory"], status(tmp_path)["memory_total"]) == (3_100_000_000, 12_000_000_000)


def test_a_loop_of_ten_thousand_is_few_events_and_counts_exactly(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        assert sum(report.track(range(10_000), "counting")) == 49_995_000
        assert report.status["done"] == report.status["total"] == 10_000
    phases = events.read(tmp_path / "events.jsonl")[0]
    assert len(phases) < 100
    assert (phases[-1].done, phases[-1].total) == (10_000, 10_000)  # type: ignore[attr-defined]


def test_commands_are_taken_once_in_order_and_stop_sticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.report.LOOK_EVERY", 0.0)
    with Reporter(tmp_path) as report:
        assert report.command() is None
        assert not report.stopping()
        for word in ("save", "sample", "stop"):
            runfolder.command(tmp_path, word)
            time.sleep(0.02)
        assert report.stopping()
        assert [report.command() for _ in range(4)] == ["save", "sample", "stop", None]
        assert report.stopping()
        assert not list((tmp_path / "control").iterdir())
        assert status(tmp_path)["state"] == "stopping"


def test_kill_is_left_for_the_supervisor(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        runfolder.command(tmp_path, "kill")
        assert report.command() is None
        assert (tmp_path / "control" / "kill.json").exists()


def test_items_are_counted_by_what_happened_to_them(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        for word in ("written", "written", "skipped"):
            report(Item(path="a.png", status=word))
        assert report.status["items"] == {"written": 2, "skipped": 1}
        assert report.status["skipped"] == 1


def test_nothing_follows_the_end(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        report(Ended(state="failed", reason="first"))
        report(Ended(state="finished"))
        report.phase("late")
    found = events.read(tmp_path / "events.jsonl")[0]
    assert [event.kind for event in found] == ["ended"]
    assert status(tmp_path)["reason"] == "first"


def test_a_full_disk_delays_lines_but_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Reporter(tmp_path) as report:
        report.note("before")
        with monkeypatch.context() as full:

            def refuse(*_: Any, **__: Any) -> None:
                raise OSError(28, "No space left on device")

            assert report._file is not None
            report._file.close()
            report._file = None
            full.setattr(Path, "open", refuse)
            full.setattr(Path, "write_text", refuse)
            report.note("during")
        report.note("after")
    texts = [event.text for event in events.read(tmp_path / "events.jsonl")[0]]  # type: ignore[attr-defined]
    assert texts == ["before", "during", "after"]


def test_a_torn_last_line_does_not_swallow_the_next_event(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"kind": "note", "te')
    with Reporter(tmp_path) as report:
        report.note("whole")
    assert [event.text for event in events.read(tmp_path / "events.jsonl")[0]] == ["whole"]  # type: ignore[attr-defined]


def test_many_threads_may_speak(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:

        def speak(number: int) -> None:
            for index in range(50):
                report(Item(path=f"{number}/{index}"))

        threads = [threading.Thread(target=speak, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(events.read(tmp_path / "events.jsonl")[0]) == 200


def test_pace_counts_training_time_only_and_survives_bursts() -> None:
    pace = Pace()
    pace.turn(0.0)
    for step in range(1, 11):
        pace.step(20.0, step)  # ten steps of two seconds, told at once
    assert pace.rate == pytest.approx(0.5)
    pace.turn(None)
    pace.turn(1000.0)  # sampling took its time
    pace.step(1002.0, 11)
    assert pace.rate == pytest.approx(0.5)
    assert pace.eta({"step": 11, "steps": 21}) == pytest.approx(20.0)
    assert pace.eta({"step": 11, "steps": 0}) is None
