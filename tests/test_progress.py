"""The terminal's progress bar, and the stream that also writes the log."""

import io

from trainer.events import Ended, EpochEnd, Phase, Saved, Started, Step
from trainer.progress import Bar, Diary, Tee


class Terminal(io.StringIO):
    """A terminal that takes every refresh."""

    def isatty(self) -> bool:
        return True


def test_a_training_is_one_bar_with_steps_loss_and_the_file_at_the_end() -> None:
    terminal = Terminal()
    bar = Bar(terminal)
    bar(Phase(name="loading model", done=0, total=2))
    bar(Phase(name="loading model", done=2, total=2))
    bar(Started(job="train", plan={"steps": 4}, resumed_from_step=1))
    bar(Phase(name="training", done=1, total=4))
    for step in (2, 3):
        bar(Step(step=step, epoch=1, loss=0.5, average=0.25))
    bar(Phase(name="sampling", done=0, total=1))
    bar(Phase(name="training", done=3, total=4))
    bar(Step(step=4, epoch=2, loss=0.5, average=0.125))
    bar(Saved(step=4, epoch=2, path="/out/cat.safetensors"))
    bar(Saved(step=4, epoch=2, path="/out/state", what="state"))
    bar(Ended(state="finished"))
    shown = terminal.getvalue()
    assert "loading model: 100%" in shown
    assert "1/4" in shown  # a resumed run begins where it was
    assert "4/4" in shown
    assert "loss=0.1250" in shown
    assert "sampling" in shown
    assert shown.endswith("finished\n/out/cat.safetensors\n")


def test_a_job_without_steps_counts_its_phases_and_says_why_it_failed() -> None:
    terminal = Terminal()
    bar = Bar(terminal)
    for done in range(4):
        bar(Phase(name="captioning", done=done, total=3))
    bar(Ended(state="failed", reason="The disk is full.", advice="Free some space."))
    assert "3/3" in terminal.getvalue()
    assert terminal.getvalue().endswith("failed: The disk is full.\nFree some space.\n")


def test_what_is_printed_reaches_terminal_and_log() -> None:
    terminal, log = Terminal(), io.StringIO()
    tee = Tee(terminal, log)
    print("hello ü", file=tee, flush=True)
    assert terminal.getvalue() == log.getvalue() == "hello ü\n"
    assert tee.isatty()


def test_the_diary_has_a_line_for_what_is_worth_one() -> None:
    log = io.StringIO()
    diary = Diary(log)
    diary(Started(job="train", plan={"steps": 4, "sentence": "2 images × 2 epochs = 4 steps"}))
    for name in ("loading model", "training", "sampling", "training", "sampling"):
        diary(Phase(name=name, total=4))
    diary(Step(step=1, epoch=1, loss=0.5, average=0.25))
    diary(EpochEnd(epoch=1, step=2, loss=0.125))
    diary(Saved(step=2, epoch=1, path="/out/cat-000001.safetensors"))
    diary(Ended(state="stopped", step=2, reason="Stopped after step 2 of 4."))
    lines = [line.split("  ", 1)[1] for line in log.getvalue().splitlines()]
    assert lines == [
        "2 images × 2 epochs = 4 steps",
        "loading model",
        "training",
        "sampling",
        "epoch 1: step 2 of 4, average loss 0.1250",
        "saved cat-000001.safetensors after step 2",
        "stopped. Stopped after step 2 of 4.",
    ]
