"""Reading a run bit by bit gives what reading it whole gives, whatever state the file is in."""

import os
from pathlib import Path

import pytest

from app import story
from app.story import Story
from tests.app import fakerun
from trainer import runfolder
from trainer.events import Item, Sample, Saved, Started, Step, to_line
from trainer.report import Reporter


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOM_WORKSPACE", str(tmp_path / "work"))
    return tmp_path


def step(number: int, loss: float = 0.1) -> Step:
    return Step(step=number, epoch=1, loss=loss, average=loss)


def write(folder: Path, *events: object) -> None:
    with (folder / runfolder.EVENTS).open("a", encoding="utf-8") as file:
        file.writelines(to_line(event) + "\n" for event in events)  # type: ignore[arg-type]


def facts(told: Story) -> tuple[object, ...]:
    return told.points, told.epochs, told.samples, told.saved, told.notes, told.ended


def test_bit_by_bit_is_the_same_as_at_once(work: Path) -> None:
    folder = fakerun.new_run()
    fakerun.train(folder, work / "out", total=20, epochs=2).close()
    whole = (folder / runfolder.EVENTS).read_bytes()
    again = fakerun.new_run(name="again")
    slow = Story(again)
    for start in range(0, len(whole), 301):  # cuts lines, and letters of more than one byte, in the middle
        with (again / runfolder.EVENTS).open("ab") as file:
            file.write(whole[start : start + 301])
        slow.update()
    at_once = Story(again).update()
    assert len(at_once.points) == 20
    assert facts(slow) == facts(at_once)


def test_torn_and_foreign_lines_cost_nothing_but_themselves() -> None:
    folder = fakerun.new_run()
    write(folder, step(1))
    with (folder / runfolder.EVENTS).open("ab") as file:
        file.write(b'{"kind": "step", "st\n\xff\xfe\n[1]\n{"kind": "newer than this page", "x": 1}\n')
    write(folder, step(2))
    with (folder / runfolder.EVENTS).open("ab") as file:
        file.write(b'{"kind": "step", "step": 3')
    told = Story(folder).update()
    assert [point[0] for point in told.points] == [1, 2]
    with (folder / runfolder.EVENTS).open("ab") as file:
        file.write(b', "epoch": 1, "loss": 0.1, "average": 0.1}\n')
    assert [point[0] for point in told.update().points] == [1, 2, 3]


def test_a_run_that_goes_on_in_its_folder_drops_what_came_after_the_restart() -> None:
    folder = fakerun.new_run()
    write(folder, Started(job="train"), *(step(n) for n in range(1, 41)))
    write(folder, Started(job="train", resumed_from_step=30), step(31, 0.5))
    told = Story(folder).update()
    assert [point[0] for point in told.points] == list(range(1, 32))
    assert told.points[-1] == (31, 0.5)


@pytest.mark.parametrize("inside", [True, False])
def test_a_new_run_continues_the_curve_and_the_samples_of_the_one_it_resumes(work: Path, inside: bool) -> None:
    """Whether the state lies in the run folder or, as beside the saved files, in the output directory."""
    first = runs_after(fakerun.new_run())
    with Reporter(first, "train", "first") as reporter:
        fakerun.start(reporter, 60, 1)
        fakerun.sample(reporter, 0, 0, 0)
        for number in range(1, 41):
            reporter(step(number))
        fakerun.sample(reporter, 40, 1, 0.5)
        state = fakerun.save_state(reporter, 30)
        if not inside:
            state = state.rename(work / "gribble-step00000030-state")
            reporter(Saved(step=30, epoch=1, path=str(state), what="state"))
    runs_after(fakerun.new_run(name="between"))
    second = fakerun.new_run(resume=str(state))
    write(second, Started(job="train", resumed_from_step=30), step(31, 0.5))
    told = story.story(second)
    assert [point[0] for point in told.points] == list(range(1, 32))
    assert {key[0] for key in told.samples} == {0}
    assert all(folder == first for folder, _ in told.samples.values())


def runs_after(folder: Path) -> Path:
    """The folder, renamed to an earlier moment: run folders sort by time, to the second."""
    return folder.rename(folder.with_name(f"2020{len(list(folder.parent.iterdir())):04d}-000000-{folder.name[16:]}"))


def test_a_state_from_elsewhere_is_no_run_of_ours(work: Path) -> None:
    elsewhere = work / "elsewhere" / "state"
    elsewhere.mkdir(parents=True)
    folder = fakerun.new_run(resume=str(elsewhere))
    assert story.continued(folder) is None
    write(folder, Started(job="train", resumed_from_step=30), step(31))
    assert [point[0] for point in story.story(folder).points] == [31]


def test_a_sample_made_again_replaces_the_first() -> None:
    folder = fakerun.new_run()
    for seed in (1, 2):
        write(folder, Sample(step=5, epoch=1, index=0, prompt="a", seed=seed, path=f"samples/{seed}.png"))
    told = Story(folder).update()
    assert [sample.seed for _, sample in told.samples.values()] == [2]


def test_results_are_all_counted_and_the_newest_kept() -> None:
    folder = fakerun.new_run("caption-basic")
    write(folder, *(Item(path=f"{n}.png", status="kept" if n % 2 else "unreadable") for n in range(200)))
    told = Story(folder).update()
    assert told.counts == {"kept": 100, "unreadable": 100}
    assert [item.path for item in told.items] == [f"{n}.png" for n in range(200 - story.ITEMS, 200)]
    assert len(told.skipped) == 100


def test_another_file_in_its_place_is_read_from_the_start() -> None:
    folder = fakerun.new_run()
    write(folder, *(step(n) for n in range(1, 9)))
    told = Story(folder).update()
    (folder / runfolder.EVENTS).unlink()
    write(folder, step(1, 0.9))
    assert told.update().points == [(1, 0.9)]


def test_only_so_many_runs_are_remembered() -> None:
    folders = [fakerun.new_run(name=f"run {n}") for n in range(story.REMEMBERED + 5)]
    for folder in folders:
        story.story(folder)
    assert len(story._stories) == story.REMEMBERED
    assert story.story(folders[-1]) is story.story(folders[-1])


def test_the_log_ends_with_the_last_line_and_names_lines_by_their_place() -> None:
    folder = fakerun.new_run()
    for number in range(20_000):
        if number % 1000 == 0 or number > 19_990:
            fakerun.log_line(folder, f"line {number} ümlaut " + "x" * 40)
    lines = story.log(folder)
    data = (folder / runfolder.LOG).read_bytes()
    assert lines[-1][1].startswith("line 19999 ü")
    for at, text in lines:
        assert data[at:].startswith(text.encode())


def test_a_long_log_is_not_read_whole() -> None:
    folder = fakerun.new_run()
    (folder / runfolder.LOG).write_text("".join(f"number {n}\n" for n in range(50_000)), encoding="utf-8")
    lines = story.log(folder)
    assert len(lines) == story.LOG_LINES
    assert lines[-1][1] == "number 49999"
    first = {text: at for at, text in lines}
    fakerun.log_line(folder, "one more")
    second = {text: at for at, text in story.log(folder)}
    assert second["number 49999"] == first["number 49999"]


def test_a_progress_bar_in_the_log_counts_by_its_last_state() -> None:
    folder = fakerun.new_run()
    (folder / runfolder.LOG).write_bytes(b"loading\r\n 10%\r 50%\r100%\ndone" + os.linesep.encode())
    assert [text for _, text in story.log(folder)] == ["loading", "100%", "done"]


def test_a_missing_log_is_empty() -> None:
    assert story.log(fakerun.new_run()) == []
