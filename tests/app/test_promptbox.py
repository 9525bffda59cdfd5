"""Sample prompts that are changed while a run is on: what is shown, refused and handed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app import monitor, paths, promptbox, runs
from app.view import View, view_of
from tests.app import fakerun
from trainer import runfolder
from trainer.events import Ended
from trainer.report import Reporter


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run that is on and draws two prompts."""
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "workspace"))
    folder = fakerun.new_run(sample_prompts="a cat\na <b>dog</b>")
    with Reporter(folder, "train", "cat") as report:
        report.phase("training")
        yield folder
    paths.restrict(None)


def view(run: Path) -> View:
    runs.forget()
    monitor.forget()
    found = view_of(run.name)
    assert found is not None
    return found


def test_the_field_holds_what_the_run_draws(run: Path) -> None:
    assert ">\na cat\na &lt;b&gt;dog&lt;/b&gt;</textarea>" in promptbox.prompts(view(run))
    monitor.do("prompts", run.name, text="an owl")
    assert (run / runfolder.PROMPTS).read_text("utf-8") == "an owl"
    assert ">\nan owl</textarea>" in promptbox.prompts(view(run))
    assert runfolder.prompts(run, "a cat") == "an owl"


def test_wrong_lines_are_said_and_change_nothing(run: Path) -> None:
    bad = "a cat --w wide\na dog --g 3"
    monitor.do("prompts", run.name, text=bad)
    monitor.do("draw", run.name, text=bad)
    assert not (run / runfolder.PROMPTS).exists()
    assert not list((run / runfolder.CONTROL).iterdir())
    shown = monitor.told_of_run(run.name, draft=[run.name, bad]).parts["prompts"]
    assert '<li class="bad">Line 1: --w must be followed by a whole number, not &#x27;wide&#x27;.</li>' in shown
    assert '<li class="note">Line 2: --g has no effect: it is the guidance of Flux models.</li>' in shown
    other = monitor.told_of_run(run.name, draft=["another run", bad]).parts["prompts"]
    assert "<li" not in other


def test_what_is_not_used_yet_is_said(run: Path) -> None:
    assert "Not used yet." in promptbox.prompts(view(run), "an owl")
    assert "Not used yet." not in promptbox.prompts(view(run), "a cat\na <b>dog</b>\n")


def test_draw_now_uses_them_and_asks_for_a_sample(run: Path) -> None:
    monitor.do("draw", run.name, text="an owl --g 2")
    assert (run / runfolder.PROMPTS).read_text("utf-8") == "an owl --g 2"
    assert [path.name for path in (run / runfolder.CONTROL).iterdir()] == ["sample.json"]


def test_nothing_is_drawn_of_no_prompts(run: Path) -> None:
    with pytest.raises(ValueError, match="Write a prompt first"):
        promptbox.draw(run.name, "  \n")
    assert promptbox.use(run.name, "")
    assert not view(run).can_sample


def test_a_file_outside_the_allowed_folders_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat")
    assert promptbox.use(run.name, str(tmp_path / "prompts.txt"))
    paths.restrict([tmp_path / "img"])
    assert not promptbox.use(run.name, str(tmp_path / "prompts.txt"))
    assert promptbox.judged(str(tmp_path / "prompts.txt"))[0][1].startswith("This page may only use files inside")


def test_a_run_that_is_over_has_no_field_and_takes_none(run: Path) -> None:
    with Reporter(run, "train", "cat") as report:
        report(Ended(state="finished"))
    assert promptbox.prompts(view(run)) == ""
    with pytest.raises(ValueError, match="not on any more"):
        promptbox.use(run.name, "an owl")
    with pytest.raises(ValueError, match="not on any more"):
        promptbox.use("../../etc", "an owl")


def test_a_run_that_goes_on_keeps_the_changed_prompts(run: Path) -> None:
    promptbox.use(run.name, "an owl")
    with Reporter(run, "train", "cat") as report:
        fakerun.save_state(report, 5)
    assert runs.resume_settings(run.name).sample_prompts == "an owl"  # type: ignore[attr-defined]
    assert runs.settings_of(run.name).sample_prompts == "a cat\na <b>dog</b>"  # type: ignore[attr-defined]
