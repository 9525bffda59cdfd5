"""Runs that only pretend: they write the events, pictures and log that a real one would, as fast or slowly as wanted."""

import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from trainer import runfolder
from trainer.events import Ended, EpochEnd, Item, Sample, Saved, Started, Step
from trainer.jobs import jobs
from trainer.report import Reporter, Stopped

PROMPTS = (
    "a drawing of a red gribble on a hill, <b>bold</b>",
    "a gribble in the snow, flat colours, thick outline, a very long prompt that needs more than two lines on the page",
    "a house",
)


def new_run(job: str = "train", name: str = "my gribble", **settings: object) -> Path:
    """A run folder with settings and nothing else yet."""
    if job == "train":
        settings = {"sample_prompts": "\n".join(PROMPTS), **settings}
    return runfolder.create(job, name, jobs()[job].Settings(**settings))


def picture(path: Path, progress: float, seed: int, size: int = 256) -> None:
    """A square that turns into a disc as the training goes on."""
    from PIL import Image, ImageDraw

    draw = random.Random(seed)
    image = Image.new("RGB", (size, size), tuple(draw.randrange(150, 240) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    edge = int(size * 0.2)
    radius = progress * (size / 2 - edge)
    pen.rounded_rectangle(
        (edge, edge, size - edge, size - edge), radius, tuple(draw.randrange(20, 150) for _ in range(3))
    )
    image.save(path)


def log_line(folder: Path, text: str) -> None:
    """As if the process had printed it."""
    with (folder / runfolder.LOG).open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def steps(report: Reporter, first: int, last: int, per_epoch: int, out: Path, pause: float = 0.0) -> Iterator[int]:
    """Train from one step to another; yields after each."""
    dice = random.Random(first)
    report.phase("training")
    for step in range(first, last + 1):
        time.sleep(pause)
        base = 0.06 + 0.12 * math.exp(-step / 60)
        loss = base * math.exp(dice.gauss(0, 0.5))
        rate = 1e-4 * 0.5 * (1 + math.cos(math.pi * step / last))
        epoch = (step - 1) // per_epoch + 1
        report(Step(step=step, epoch=epoch, loss=loss, average=base, lr={"unet": rate, "textencoder": rate / 2}))
        log_line(report.folder, f"step {step}: loss {loss:.4f}")
        obey(report, step, epoch, out)
        if step % per_epoch == 0:
            report(EpochEnd(epoch=epoch, step=step, loss=base))
            save(report, out, step, epoch, f"gribble-{epoch:06d}.safetensors")
            sample(report, step, epoch, step / last)
            report.phase("training")
        yield step


def obey(report: Reporter, step: int, epoch: int, out: Path) -> None:
    """Do what a command file asks for. Raises Stopped after saving a state."""
    word = report.command()
    if word == "save":
        save(report, out, step, epoch, f"gribble-step{step:08d}.safetensors")
    elif word == "sample":
        sample(report, step, epoch, step / 240)
    elif word == "pause":
        report.phase("paused")
        while not report.stopping() and report.command() != "resume":
            time.sleep(0.05)
    if word in ("save", "sample", "pause"):
        report.phase("training")
    if report.stopping():
        report.phase("saving")
        save_state(report, step)
        raise Stopped


def save(report: Reporter, out: Path, step: int, epoch: int, name: str) -> None:
    """A file of a megabyte."""
    out.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(bytes(1_200_000))
    report(Saved(step=step, epoch=epoch, path=str(out / name), bytes=1_200_000))


def save_state(report: Reporter, step: int) -> Path:
    """A state folder."""
    folder = report.state / f"step-{step:06d}"
    folder.mkdir(parents=True)
    report(Saved(step=step, epoch=1, path=str(folder), what="state"))
    return folder


def sample(report: Reporter, step: int, epoch: int, progress: float) -> None:
    """A picture for each prompt."""
    report.phase("sampling", 0, len(PROMPTS))
    for index, prompt in enumerate(PROMPTS):
        path = report.samples / f"{step:06d}-{index}.png"
        picture(path, progress, seed=index)
        report(Sample(step=step, epoch=epoch, index=index, prompt=prompt, seed=42 + index, path=f"samples/{path.name}"))
        report.phase("sampling", index + 1, len(PROMPTS))


def start(report: Reporter, total: int, epochs: int, resumed: int = 0) -> None:
    """The first words of a training run."""
    report(
        Started(
            job="train", name="my gribble", pid=1, resumed_from_step=resumed, plan={"steps": total, "epochs": epochs}
        )
    )


def train(folder: Path, out: Path, total: int = 240, epochs: int = 4, pause: float = 0.0, upto: int = 0) -> Reporter:
    """A whole run, or one up to the step `upto` that has not ended; the reporter is left open."""
    report = Reporter(folder, "train", "my gribble")
    start(report, total, epochs)
    report.note("AdamW8bit needs a graphics card with CUDA; AdamW is used.", "warning", "optimizer")
    report(Item(path=str(out / "broken.png"), text="is not a picture", status="skipped"))
    report.note("1 of 13 pictures are left out: broken.png is not a picture.", "warning", "train_data_dir")
    report.note("Text encoder outputs are cached.")
    for name, count in (("loading model", 0), ("caching latents", 12)):
        for done in range(count + 1):
            report.phase(name, done, count)
            time.sleep(pause)
    sample(report, 0, 0, 0.0)
    try:
        for step in steps(report, 1, total, total // epochs, out, pause):
            if step == upto:
                return report
    except Stopped:
        report(Ended(state="stopped", step=report.status["step"]))
        return report
    save(report, out, total, epochs, "gribble.safetensors")
    report(Ended(state="finished", step=total))
    return report


def caption(folder: Path, pictures: Path, count: int = 12, pause: float = 0.0) -> Reporter:
    """A captioning run over drawn pictures."""
    pictures.mkdir(parents=True, exist_ok=True)
    report = Reporter(folder, "caption-basic", "captions")
    report(Started(job="caption-basic", name="captions"))
    for number in range(count):
        path = pictures / f"picture {number}.png"
        picture(path, number / count, number)
        time.sleep(pause)
        if number == 3:
            report(Item(path=str(path), text="cannot be read: it is cut off", status="unreadable"))
        else:
            report(Item(path=str(path), text=f"a drawing of a <i>shape</i>, number {number}", status="written"))
        report.phase("captioning", number + 1, count)
    report(Ended(state="finished"))
    return report


if __name__ == "__main__":  # python -m tests.app.fakerun train|caption FOLDER SECONDS_A_STEP STEPS
    kind, place, seconds, count = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    made = new_run() if kind == "train" else new_run("caption-basic", "captions", image_folder=str(place))
    print(made, flush=True)
    if kind == "train":
        train(made, place, count, pause=seconds).close()
    else:
        caption(made, place, count, seconds).close()
