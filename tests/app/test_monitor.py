"""The run panel: what it says in every state of a run, what it sends, and what its buttons do."""

import dataclasses
import html.parser
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app import history, monitor, output, runpanel, runs, words
from app.ending import ending
from app.story import story
from app.view import View, view_of
from tests.app import fakerun
from trainer import runfolder
from trainer.events import Ended, Item, Note, Sample, Saved, Step
from trainer.jobs import jobs
from trainer.report import Reporter
from trainer.training import Training


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which nobody really starts anything."""
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "work"))
    monkeypatch.setattr("trainer.supervisor.start", lambda *_, **__: None)
    runs.forget()
    monitor.forget()
    return tmp_path


@pytest.fixture
def finished(work: Path) -> Path:
    folder = fakerun.new_run()
    fakerun.train(folder, work / "out", total=40, epochs=2).close()
    return folder


def seen(folder: Path) -> View:
    runs.forget()
    view = view_of(folder.name)
    assert view is not None
    return view


def text(parts: dict[str, str]) -> str:
    """What a person reads."""
    found: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_data(self, data: str) -> None:
            found.append(data)

    reader = Reader()
    for part in parts.values():
        reader.feed(part + " ")
    return " ".join(" ".join(found).split())


def panel(folder: Path) -> str:
    return text(runpanel.render(seen(folder)))


def verbs(folder: Path) -> list[str]:
    view = seen(folder)
    return [verb for verb, _, _, when in runpanel.ACTIONS if when(view)]


def training(folder: Path, **status: object) -> View:
    """A view of a run that trains, with a status as the reporter writes it."""
    said = {
        "phase": "training",
        "step": 96,
        "steps": 240,
        "epoch": 2,
        "epochs": 4,
        "rate": 4.1,
        "eta": 35.2,
        "heartbeat": time.time(),
    }
    return View(folder.name, "train", "cat", "running", folder, {**said, **status})


# What it says.


def test_a_run_that_trains_says_how_far_it_is(work: Path) -> None:
    assert text({"": runpanel.head(training(work))}) == "cat training step 96/240 · epoch 2/4 · 4.1 it/s · 35 s left"
    assert 'aria-valuenow="40"' in runpanel.head(training(work))


def test_a_run_says_how_much_memory_it_needs(work: Path) -> None:
    said = text({"": runpanel.head(training(work, memory=3_100_000_000, memory_total=12_000_000_000))})
    assert said.endswith("35 s left · memory 3.1 of 12 GB")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"phase": "caching latents", "done": 5, "total": 12, "step": 0}, "caching latents 5 of 12"),
        ({"phase": "loading model", "step": 0, "total": 0, "steps": 0}, "cat loading model"),
        ({"phase": "sampling", "done": 1, "total": 3}, "sampling 1 of 3 · step 96/240 · epoch 2/4"),
        ({"phase": "paused", "done": 96, "total": 240}, "paused step 96/240 · epoch 2/4"),
        ({"rate": 0.25, "eta": 4000}, "4.0 s/it · 1 h 7 min left"),
        ({"rate": None, "eta": None}, "step 96/240 · epoch 2/4"),
        ({"heartbeat": -500}, "No sign of life for 8 min"),
    ],
)
def test_every_phase_has_its_words(work: Path, status: dict[str, Any], said: str) -> None:
    if "heartbeat" in status:  # seconds from now, which is when the test runs and not when it is collected
        status = {"heartbeat": time.time() + status["heartbeat"]}
    assert said in text({"": runpanel.head(training(work, **status))})


def test_a_phase_that_cannot_count_shows_that_it_is_busy(work: Path) -> None:
    assert "is-busy" in runpanel.head(training(work, phase="loading model", step=0, total=0, steps=0))


def test_a_finished_run_says_what_came_out_and_where(work: Path, finished: Path) -> None:
    said = panel(finished)
    assert "finished" in said
    assert "gribble.safetensors (1.2 MB) is in" in said
    assert str(work / "out") in said
    assert "/loom/file?path=" in ending(seen(finished))
    assert verbs(finished) == []


def test_a_file_that_was_moved_away_has_no_link(work: Path, finished: Path) -> None:
    for path in (work / "out").iterdir():
        path.unlink()
    parts = runpanel.render(seen(finished))
    assert "/loom/file" not in parts["ending"] + parts["files"]
    assert "no longer there" in text(parts)


def test_a_failed_run_says_why_what_to_do_and_its_last_words() -> None:
    folder = fakerun.new_run()
    with Reporter(folder, "train", "cat") as report:
        fakerun.log_line(folder, "<script>alert('log')</script>")
        report(
            Ended(
                state="failed", step=7, reason="The graphics card ran out of memory.", advice="Lower Train batch size."
            )
        )
    said = panel(folder)
    assert "Failed" in said
    assert "The graphics card ran out of memory. Lower Train batch size." in said
    assert "<script>alert('log')</script>" in said  # as text
    assert "<script" not in "".join(runpanel.render(seen(folder)).values())
    assert verbs(folder) == ["again"]


def test_a_run_that_was_killed_is_interrupted_and_can_resume(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Training, "check", lambda *_: iter(()))
    code = f"from tests.app import fakerun as f; from pathlib import Path; r = f.train(Path({{!r}}), Path({str(work / 'out')!r}), 240, upto=30); " \
        "f.save_state(r, 30); r.flush(); print('ready', flush=True); import time; time.sleep(600)"  # fmt: skip
    folder = fakerun.new_run()
    with subprocess.Popen(
        [sys.executable, "-c", code.format(str(folder))],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    ) as child:
        assert child.stdout is not None
        while child.stdout.readline().strip() != "ready":
            assert child.poll() is None
        assert seen(folder).state == "running"
        assert "save" in verbs(folder)
        child.kill()
    said = panel(folder)
    assert "Interrupted at step 30." in said
    assert "step 30: loss" in said
    assert "Resume goes on from the state saved at step 30." in said
    assert verbs(folder) == ["continue"]
    follower, _ = monitor.do("continue", folder.name)
    assert follower is not None
    settings = runfolder.read_json(runs.find(follower) / runfolder.SETTINGS)  # type: ignore[operator]
    assert settings["resume"] == str(folder / "state" / "step-000030")


def test_a_stopped_run_is_stopped_at_its_step_and_resumes() -> None:
    folder = fakerun.new_run()
    with Reporter(folder, "train", "cat") as report:
        fakerun.start(report, 60, 1)
        report(Step(step=20, epoch=1, loss=0.1, average=0.1))
        fakerun.save_state(report, 20)
        report(Ended(state="stopped", step=20))
    # The process of this test is alive; that of the run would be gone.
    view = dataclasses.replace(seen(folder), state="stopped", resumable=True)
    assert text({"": ending(view)}) == "Stopped at step 20 of 60. Resume goes on from there."
    assert [verb for verb, _, _, when in runpanel.ACTIONS if when(view)] == ["continue"]


def test_captioning_shows_what_it_wrote_newest_first(work: Path) -> None:
    folder = fakerun.new_run("caption-basic", image_folder=str(work))
    fakerun.caption(folder, work / "pictures", 6).close()
    parts = runpanel.render(seen(folder))
    said = text(parts)
    assert said.index("number 5") < said.index("number 4") < said.index("number 0")
    assert "Finished" in said
    assert "5 written, 1 unreadable" in said
    assert "1 picture was left out" in said
    assert "picture 3.png: cannot be read" in said
    assert "<i>shape" not in parts["results"]


def test_notes_begin_with_what_is_wrong() -> None:
    folder = fakerun.new_run()
    with Reporter(folder, "train", "cat") as report:
        report(Note(text="all is well"))
        report(Note(text="this is not", level="warning"))
        report(Note(text="this is not", level="warning"))
    said = text({"": output.notes(seen(folder))})
    assert said == "this is not 1 more note all is well"


def test_pictures_left_out_of_a_training_are_named_once(work: Path, finished: Path) -> None:
    parts = runpanel.render(seen(finished))
    said = text({"": parts["notes"]})
    assert said.startswith("1 picture was left out broken.png: is not a picture AdamW8bit needs")
    assert "2 more notes 1 of 13 pictures are left out" in said
    assert parts["results"] == ""


def test_everything_a_run_wrote_is_text() -> None:
    evil = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"
    folder = fakerun.new_run(name=evil)
    with Reporter(folder, evil, evil) as report:
        fakerun.start(report, 10, 1)
        report.phase(evil)
        report(Step(step=1, epoch=1, loss=0.1, average=0.1, lr={evil: 1e-4}))
        report(Sample(step=1, epoch=1, index=0, prompt=evil, seed=1, path=f"samples/{evil.replace('/', '')}.png"))
        report(Saved(step=1, epoch=1, path="/nowhere/" + evil.replace("/", "")))
        report(Item(path=evil, text=evil, status=evil))
        report(Item(path=evil, text=evil, status="unreadable"))
        report(Note(text=evil, level=evil))
        fakerun.log_line(folder, evil)
    view = seen(folder)
    for state in ("running", "queued", "stopping", "stopped", "failed", "interrupted", "finished"):
        shown = dataclasses.replace(
            view,
            state=state,
            name=evil,
            ahead=[evil],
            busy_with=(evil, evil),
            outcome={"reason": evil, "advice": evil},
            stopping_for=99,
        )
        whole = "".join(runpanel.render(shown).values())
        assert "<script" not in whole, state
        assert "<img src=x" not in whole, state
        assert_well_formed(whole)
    runs.forget()
    assert "<script" not in "".join(history.render(folder.name, True, evil).values())


def assert_well_formed(whole: str) -> None:
    """No attribute was broken open: only the attributes that the panel uses are there, and none runs anything."""

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "iframe", "object")
            for name, value in attributes:
                assert not name.startswith("on"), (tag, name)
                if name in ("href", "src"):
                    assert str(value).startswith("/loom/"), value

    Reader().feed(whole)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (89.6, "2 min"),
        (35.2, "35 s"),
        (200, "3 min"),
        (3600, "1 h"),
        (4800, "1 h 20 min"),
        (183_600, "2 d 3 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(12, "12 bytes"), (912_000, "912 KB"), (19_100_000, "19 MB"), (2_130_000_000, "2.1 GB")]
)
def test_sizes(count: int, said: str) -> None:
    assert words.size_of(count) == said


@pytest.mark.parametrize(
    ("used", "total", "said"),
    [
        (3_100_000_000, 12_000_000_000, "3.1 of 12 GB"),
        (900_000_000, 8_000_000_000, "900 MB of 8.0 GB"),
        (5, 0, "5 bytes"),
    ],
)
def test_shares(used: int, total: int, said: str) -> None:
    assert words.share_of(used, total) == said


# What it sends.


def answer(run: str, have: dict[str, Any]) -> dict[str, Any]:
    return monitor.news(monitor.told_of_run(run), have)


def test_an_empty_page_teaches() -> None:
    value = answer("", {})
    assert "No runs yet. Press Start training, or run the demo." in value["parts"]["head"]
    assert value["run"] == ""


def test_only_what_changed_is_sent() -> None:
    folder = fakerun.new_run()
    with Reporter(folder, "train", "cat") as report:
        fakerun.start(report, 10, 1)
        fakerun.sample(report, 0, 0, 0.0)
        report.flush()
        value = fresh(folder, {})
        assert set(value["parts"]) == set(value["order"])
        again = fresh(folder, value)
        assert again["parts"] == {}
        assert again["prints"] == value["prints"]
        report(Note(text="something new", level="warning"))
        report.flush()
        assert set(fresh(folder, again)["parts"]) == {"notes"}


def fresh(folder: Path, have: dict[str, Any]) -> dict[str, Any]:
    runs.forget()
    monitor.forget()
    return answer(folder.name, have)


def test_another_run_is_sent_whole(work: Path, finished: Path) -> None:
    have = answer(finished.name, {})
    other = fakerun.new_run(name="other")
    value = answer(other.name, have)
    assert value["run"] == other.name
    assert set(value["parts"]) == set(value["order"])


ANEW = """
import json, sys
from app import monitor
news = monitor.news(monitor.told_of_run(sys.argv[1]), json.loads(sys.argv[2]))
print(news["parts"], [name for name in ("torch", "diffusers", "transformers", "peft") if name in sys.modules])
"""


def test_a_page_process_that_starts_anew_has_nothing_new_to_say_and_needs_no_torch(finished: Path) -> None:
    have = answer(finished.name, {})
    command = [sys.executable, "-c", ANEW, finished.name, json.dumps(have)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    assert done.stdout.strip() == "{} []"


def test_the_page_looks_less_often_when_nothing_goes_on(finished: Path) -> None:
    have = answer(finished.name, {})
    assert have["pace"] == monitor.SLOW
    going = fakerun.new_run()
    with Reporter(going, "train", "cat"):
        assert answer(going.name, have)["pace"] == monitor.FAST


def test_without_a_chosen_run_the_one_that_is_on_is_shown(finished: Path) -> None:
    assert monitor.newest() == finished.name
    going = fakerun.new_run(name="going")
    with Reporter(going, "train", "going"):
        time.sleep(0.01)
        later = fakerun.new_run(name="later")
        Reporter(later, "train", "later").close()
        (later / runfolder.OUTCOME).write_text('{"state": "failed"}', encoding="utf-8")
        (later / runfolder.STATUS).unlink()
        runs.forget()
        assert monitor.newest() == going.name
        assert monitor.newest(only=("caption-basic",)) == ""


def test_instead_of_a_run_that_is_gone_the_newest_is_shown(finished: Path) -> None:
    value = answer("no-such-run", {})
    assert value["run"] == finished.name
    assert "my gribble" in value["parts"]["head"]


# What the buttons do.


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        ("stop", "stop"),
        ("pause", "pause"),
        ("unpause", "resume"),
        ("save", "save"),
        ("sample", "sample"),
        ("kill", "kill"),
    ],
)
def test_buttons_leave_a_command(verb: str, word: str) -> None:
    folder = fakerun.new_run()
    with Reporter(folder, "train", "cat") as report:
        report.phase("training")
        assert monitor.do(verb, folder.name) == (None, "")
        assert [path.stem for path in (folder / runfolder.CONTROL).iterdir()] == [word]


def test_a_pressed_button_says_that_it_was_heard() -> None:
    folder = fakerun.new_run()
    with Reporter(folder, "train", "cat") as report:
        report.phase("training")
        runs.command(folder.name, "stop")
        parts = runpanel.render(seen(folder))
        assert "Stopping …" in parts["actions"]
        assert "Pause" not in parts["actions"]
        assert ">stopping<" in parts["head"]


def test_stop_now_is_offered_when_stopping_takes_long_and_says_what_it_costs(work: Path) -> None:
    folder = fakerun.new_run()
    with Reporter(folder, "train", "cat") as report:
        fakerun.start(report, 60, 1)
        fakerun.save_state(report, 20)
        report(Step(step=31, epoch=1, loss=0.1, average=0.1))
        report.stop()
        report.flush()
        view = dataclasses.replace(seen(folder), state="stopping")
        assert "Stop now" not in runpanel.actions(dataclasses.replace(view, stopping_for=3))
        shown = runpanel.actions(dataclasses.replace(view, stopping_for=30))
        assert "Stop now" in shown
        assert "11 steps since the last saved state will be lost" in shown


def test_a_waiting_run_says_what_comes_first_and_can_be_taken_out(work: Path) -> None:
    first, second = (runs.queue_run("train", jobs()["train"].Settings(), name) for name in ("first", "second"))
    runs.forget()
    said = panel(runs.find(second))  # type: ignore[arg-type]
    assert "next in the queue, after first" in said
    monitor.do("unqueue", second)
    runs.forget()
    assert runs.snapshot(second).state == "stopped"  # type: ignore[union-attr]
    assert runs.snapshot(first).state == "queued"  # type: ignore[union-attr]


def test_a_run_that_is_over_leads_to_the_one_that_is_on(finished: Path) -> None:
    going = fakerun.new_run(name="the next")
    with Reporter(going, "train", "the next"):
        said = panel(finished)
        assert "the next is running now. Show it" in said
    assert monitor.do("show", going.name) == (going.name, "")


def test_sample_now_is_offered_where_there_are_prompts() -> None:
    for prompts, offered in (("a cat", True), ("  \n", False)):
        folder = fakerun.new_run(sample_prompts=prompts)
        with Reporter(folder, "train", "cat") as report:
            report.phase("training")
            assert ("sample" in verbs(folder)) is offered


def test_tensorboard_is_not_started_for_a_browser_elsewhere(finished: Path) -> None:
    (finished / "logs").mkdir()
    request: Any = SimpleNamespace(headers={"host": "192.168.1.5:7860"})
    trouble = "TensorBoard opens on the machine of this page only."
    assert monitor.do("tensorboard", finished.name, request) == (None, trouble)
    assert not (finished / "tensorboard.txt").exists()


def test_a_wrong_button_or_run_changes_nothing(finished: Path) -> None:
    assert monitor.do("no such verb", finished.name) == (None, "")
    other, trouble = monitor.do("stop", "../../etc")
    assert (other, bool(trouble)) == (None, True)
    other, trouble = monitor.do("continue", finished.name)
    assert other is None
    assert "start it again" in trouble


def test_a_run_that_cannot_start_again_says_why(finished: Path) -> None:
    before = len(runs.list_runs())
    other, trouble = monitor.do("again", finished.name)  # no folders are set
    assert other is None
    assert trouble.startswith("Not started.")
    assert len(runs.list_runs()) == before


# The list.


def test_the_list_shows_all_runs_newest_first_and_the_queue_in_order(finished: Path) -> None:
    time.sleep(0.01)
    queued = [runs.queue_run("train", jobs()["train"].Settings(), name) for name in ("second", "third")]
    runs.forget()
    parts = history.render(finished.name, with_use=True)
    said = text(parts)
    assert said.index("1. in line") < said.index("third") < said.index("my gribble")
    assert "Use these settings" in parts["runs"]
    assert parts["queue"].count("Take out of the queue") == 2
    assert "/loom/thumb" in parts["runs"]
    assert queued[0] in parts["queue"]


def test_deleting_can_be_undone() -> None:
    folder = fakerun.new_run()
    (folder / runfolder.OUTCOME).write_text('{"state": "failed", "code": 1}', encoding="utf-8")
    runs.forget()
    monitor.do("delete", folder.name)
    assert "Undo" in text(history.render("", deleted=folder.name))
    assert monitor.do("restore", folder.name) == (folder.name, "")
    assert folder.name in history.render("")["runs"]


@pytest.mark.parametrize(
    "have", [{}, {"run": 5, "prints": [], "draft": ["x"], "chosen": {}}, {"draft": [1, 2], "deleted": []}]
)
def test_whatever_a_page_says_it_is_answered(finished: Path, have: dict[str, Any]) -> None:
    with gr.Blocks():
        panel: Any = monitor.run_panel()
        runs_list: Any = monitor.runs_tab()
    request: Any = SimpleNamespace(headers={"host": "127.0.0.1:7860"})
    for live in (panel, runs_list):
        assert live.look(have, request)["parts"]
        told = live.act({**have, "verb": ["stop"], "on": None, "text": 4}, request)
        assert (told["chosen"], told["trouble"]) == (None, "")


def test_a_button_answers_with_what_came_of_it(finished: Path) -> None:
    with gr.Blocks():
        panel: Any = monitor.run_panel()
    going = fakerun.new_run(name="going")
    request: Any = SimpleNamespace(headers={"host": "127.0.0.1:7860"})
    with Reporter(going, "train", "going"):
        told = panel.act({"chosen": finished.name, "verb": "show", "on": going.name}, request)
        assert (told["chosen"], told["run"]) == (going.name, going.name)
    told = panel.act({"chosen": finished.name, "verb": "again", "on": finished.name}, request)
    assert told["trouble"].startswith("Not started.")
    assert told["run"] == finished.name


def test_two_panels_can_be_built_on_one_page() -> None:
    with gr.Blocks() as page:
        connected: list[Callable[..., Any]] = []
        monitor.runs_tab(lambda event, chosen: connected.append(event))
        monitor.run_panel()
        monitor.run_panel(only=("caption-basic",), empty="Nothing yet.")
    assert len(connected) == 1
    assert page.fns


def test_a_story_of_many_steps_is_told_quickly_enough_to_be_polled(work: Path) -> None:
    """A second look reads nothing again: the story is the same object, and its offset the size of the file."""
    folder = fakerun.new_run()
    fakerun.train(folder, work / "out", total=200, epochs=1).close()
    told = story(folder)
    assert told.offset == (folder / runfolder.EVENTS).stat().st_size
    assert story(folder) is told
    assert len(told.points) == 200
