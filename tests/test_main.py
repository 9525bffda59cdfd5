"""The command line: flags from the declaration, run folders, exit codes, and an honest end in every case."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pretend import environment
from tests.pretend.work import Pretend
from trainer import commandline, events, runfolder
from trainer.__main__ import main, overview
from trainer.declare import settings_of
from trainer.jobs import jobs
from trainer.training import Training

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "work"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    return tmp_path / "work"


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "trainer", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, encoding="utf-8")


def status(folder: Path) -> dict[str, Any]:
    return runfolder.read_json(folder / "status.json")


def last_event(folder: Path) -> events.Ended:
    ended = events.read(folder / "events.jsonl")[0][-1]
    assert isinstance(ended, events.Ended)
    return ended


def test_overview_names_every_job_and_command() -> None:
    text = overview()
    for word in (*jobs(), "check", "demo"):
        assert f"  {word} " in text


@pytest.mark.parametrize("job", list(jobs().values()), ids=lambda job: job.name)
def test_every_setting_of_every_job_is_a_flag_with_its_label_and_help(job: Any) -> None:
    text = commandline.parser(job).format_help()
    for item in settings_of(job.Settings):
        assert f"--{item.name} " in text
        assert unwrapped(f"{item.label}. {item.about.help}") in unwrapped(text)


def unwrapped(text: str) -> str:
    """Lines are also broken after hyphens."""
    return "".join(text.split())


def test_help_is_grouped_by_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["train", "--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    places = [
        text.index(word) for word in ("Folders > Folders:", "--train_data_dir", "Parameters > Samples > Samples:")
    ]
    assert places == sorted(places)


def test_unknown_job_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0


def test_flags_file_and_set_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "my preset.json"
    file.write_text(json.dumps({"network_dim": 4, "epoch": 3, "learning_rate": "wrong", "unknown": 1}))
    loaded = commandline.read_file(Training(), file)
    settings, problems = commandline.resolve(Training(), loaded, {"epoch": "5", "learning_rate": "2e-4"})
    assert (settings.network_dim, settings.epoch, settings.learning_rate) == (4, 5, 2e-4)  # type: ignore[attr-defined]
    assert problems == []
    _, problems = commandline.resolve(Training(), loaded, {"epoch": "many"})
    assert {problem.key for problem in problems} == {"learning_rate", "epoch"}
    with pytest.raises(ValueError, match="key=value"):
        commandline.pairs(["epoch"])
    assert commandline.pairs(["optimizer_args=a=b", "seed="]) == {"optimizer_args": "a=b", "seed": ""}


def test_a_run_prints_its_folder_first_shows_a_bar_and_finishes(work: Path) -> None:
    done = run("pretend", "--steps", 4, "--output_name", "my cat", "--loud", "--hub_token", "hunter2")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[0])
    assert folder.parent == work / "runs"
    assert folder.name.endswith("-my-cat")
    assert "4/4" in done.stderr
    assert "finished" in done.stderr
    assert status(folder)["state"] == "finished"
    assert last_event(folder).step == 4
    log = (folder / "log.txt").read_text()
    assert "threads 1 token 7" in log  # the secret reached the job ...
    assert "step 4" in log
    assert "hunter2" not in "".join(path.read_text() for path in folder.rglob("*") if path.is_file())  # ... and no file


def test_settings_come_from_a_file_of_the_job(work: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"steps": 2, "nonsense": 1}')
    done = run("pretend", tmp_path / "p.json", "--set", "output_name=x", "loud=yes")
    assert done.returncode == 0, done.stderr
    assert "step 2" in done.stdout
    assert "nonsense: ignored" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--steps", "many"], 1, "Steps: must be a number"),
        (["--steps", "13"], 1, "Steps: 13 brings bad luck."),
        (["--set", "stepz=3"], 1, "did you mean steps?"),
        (["--set", "steps"], 2, "key=value"),
        (["missing.json"], 2, "missing.json"),
        (["--stepz", "3"], 2, "unrecognized"),
    ],
)
def test_bad_input_is_a_sentence_and_makes_nothing(work: Path, words: list[str], code: int, sentence: str) -> None:
    done = run("pretend", *words)
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not work.exists()


def folder_for(**values: Any) -> Path:
    from tests.pretend.work import Pretence

    return runfolder.create("pretend", "x", Pretence(**values))


@pytest.mark.parametrize(
    ("how", "code", "state", "reason", "advice"),
    [
        ("failure", 1, "failed", "The moon is in the wrong house.", "Wait a day."),
        ("exception", 1, "failed", "RuntimeError: something broke", ""),
        ("memory", 1, "failed", "The graphics card ran out of memory.", "Gradient checkpointing"),
    ],
)
def test_every_end_is_written_down(work: Path, how: str, code: int, state: str, reason: str, advice: str) -> None:
    folder = folder_for(how=how)
    done = run("pretend", folder)
    assert done.returncode == code
    ended = last_event(folder)
    assert (ended.state, ended.step) == (state, 2)
    assert reason in ended.reason
    assert advice in ended.advice
    assert ("Traceback" in done.stderr) == (how != "failure")
    assert runfolder.state(folder) == state


def test_a_folder_is_one_attempt(work: Path) -> None:
    folder = folder_for()
    assert run("pretend", folder).returncode == 0
    before = (folder / "events.jsonl").read_bytes()
    again = run("pretend", folder)
    assert again.returncode == 1
    assert "has finished" in again.stderr
    assert (folder / "events.jsonl").read_bytes() == before


def test_frozen_settings_are_checked_again_at_the_start(work: Path) -> None:
    folder = folder_for()
    (folder / "settings.json").write_text('{"steps": 13}')
    assert run("pretend", folder).returncode == 1
    assert "13 brings bad luck" in last_event(folder).reason


def start(folder: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "trainer", "pretend", str(folder)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not status(folder).get("step") and time.monotonic() < deadline:
        time.sleep(0.02)
    return child


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_cleanly(work: Path, name: str) -> None:
    folder = folder_for(steps=1000, delay=0.05)
    child = start(folder)
    child.send_signal(getattr(signal, name))
    child.communicate(timeout=20)
    assert child.returncode == 3
    assert last_event(folder).reason == "Stopped after the step."
    assert runfolder.newest_state(folder) is not None


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_second_signal_does_not_wait(work: Path) -> None:
    folder = folder_for(how="slow saving", steps=1000, delay=0.05)
    child = start(folder)
    child.send_signal(signal.SIGINT)
    while status(folder)["phase"] != "saving state":
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode == 3
    assert "Interrupted" in last_event(folder).reason
    assert runfolder.newest_state(folder) is None


def test_a_folder_in_use_is_refused(work: Path) -> None:
    folder = folder_for(steps=1000, delay=0.05)
    child = start(folder)
    second = run("pretend", folder)
    assert second.returncode == 1
    assert "in use" in second.stderr
    runfolder.command(folder, "stop")
    child.communicate(timeout=20)
    assert child.returncode == 3
    assert sum(isinstance(event, events.Ended) for event in events.read(folder / "events.jsonl")[0]) == 1


def test_the_environment_wins_over_the_number_of_threads(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_for(num_cpu_threads_per_process=1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "threads 3" in run("pretend", folder).stdout


def test_pretend_job_is_for_tests_only() -> None:
    assert Pretend.name not in jobs()
