"""What a run leaves on disk: the LoRA under its names, and states from which it goes on exactly.

A state is a folder: `model.safetensors` (the adapter in float32), `optimizer.bin` (tensors and numbers alone, read with
`weights_only`), `train_state.json` (where in the run it was made, and of what). Everything is written beside its place
and then renamed: what has a name is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from trainer import formats, states
from trainer.arguments import parse_arguments
from trainer.devices import DTYPES
from trainer.events import Saved
from trainer.learner import TEXT, Learner
from trainer.losses import spoilt
from trainer.optimizers import averaged, part_of
from trainer.plan import batches_a_step
from trainer.report import Failure

if TYPE_CHECKING:
    from trainer.adapters.adapter import Adapter
    from trainer.data.dataset import Dataset
    from trainer.models import Model
    from trainer.plan import Plan
    from trainer.publish import Publisher
    from trainer.report import Reporter
    from trainer.settings import Settings

PAUSE = 10.0
"""Seconds between two states for emergencies, at least."""


@dataclass
class Progress:
    """How far the run is. `step` counts steps and `epoch` whole epochs that are done, `batch` batches of the next one.

    `losses` are those of the last steps, for the running average; `started` is seconds since 1970.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    started: float = field(default_factory=time.time)
    losses: list[float] = field(default_factory=list)

    @property
    def current_epoch(self) -> int:
        """The epoch that is on, counted from 1."""
        return self.epoch + 1

    def advance(self, batches: int) -> None:
        """A step was made of this many batches."""
        self.step += 1
        self.batch += batches

    def end_epoch(self) -> None:
        """The epoch that was on is done."""
        self.epoch += 1
        self.batch = 0


# Names, as Kohya's scripts give them.


def file_name(s: Settings, ending: str = "") -> str:
    """NAME.safetensors, or with `ending` "-000001" or "-step00000002" the one of an epoch or a step."""
    return f"{s.output_name}{ending}.{s.save_model_as}"


def of_epoch(epoch: int) -> str:
    """The ending of files made at the end of an epoch."""
    return f"-{epoch:06d}"


def of_step(step: int) -> str:
    """The ending of files made after a step."""
    return f"-step{step:08d}"


# Keeping the last ones.


@dataclass(frozen=True)
class Rhythm:
    """One of the two clocks that files are saved by: its word in the settings, and the ending of its files' names."""

    word: str
    ending: Callable[[int], str]

    @property
    def key(self) -> str:
        """The setting that says how many are kept."""
        return f"save_last_n_{self.word}s"

    def number(self, progress: Progress) -> int:
        """What this clock shows now."""
        return int(getattr(progress, self.word))

    def oldest_kept(self, s: Settings, now: int, what: str) -> int:
        """The number of the oldest file ("weights" or "state") that stays once that of `now` is saved; 0 = all stay.

        As Kohya's scripts have it: N files of epochs, but those of the last N steps. States without a number of their
        own go with the files.
        """
        last = (what == "state" and getattr(s, f"{self.key}_state")) or getattr(s, self.key)
        if not last:
            return 0
        return now - last if self is STEPS else now - last * s.save_every_n_epochs + 1


EPOCHS, STEPS = Rhythm("epoch", of_epoch), Rhythm("step", of_step)
CLOCKS = {rhythm.word: rhythm for rhythm in (EPOCHS, STEPS)}


class Shelf:
    """The files and states that this run saved by a clock; what somebody asked for does not stand here, and stays."""

    def __init__(self) -> None:
        self._saved: dict[Path, tuple[Rhythm, int, str]] = {}
        self._newest: dict[Rhythm, int] = {}

    def put(self, path: Path, rhythm: Rhythm, number: int, what: str) -> None:
        """A file was saved, and is whole."""
        self._saved[path] = (rhythm, number, what)
        self._newest[rhythm] = number

    def as_json(self) -> list[list[Any]]:
        """What stands here: path, word of the clock, number, and what it is."""
        return [[str(path), rhythm.word, number, what] for path, (rhythm, number, what) in self._saved.items()]

    def take(self, path: Path) -> None:
        """A file is not ours to remove any more."""
        self._saved.pop(path, None)

    def clear(
        self, s: Settings, in_use: Callable[[Path], bool] = lambda path: False
    ) -> list[tuple[Path, Rhythm, OSError]]:
        """Remove what is older than the settings keep; what is `in_use` waits for the next time.

        Returns what could not be removed, and why; that is tried again too.
        """
        stuck = []
        for path, (rhythm, number, what) in list(self._saved.items()):
            if number >= rhythm.oldest_kept(s, self._newest[rhythm], what) or in_use(path):
                continue
            try:
                _remove(path)
                self.take(path)
            except OSError as error:
                stuck.append((path, rhythm, error))
        return stuck


# Writing.


class Saver:
    """Writes the files of one run, and says so. Where the output folder fails, the run's own folder takes them."""

    def __init__(
        self,
        s: Settings,
        report: Reporter,
        model: Model,
        dataset: Dataset,
        plan: Plan,
        learner: Learner,
        publisher: Publisher,
        writes: bool = True,
    ) -> None:
        """`writes`: whether this process is the one that does; for the others nothing ever has to be saved."""
        self.s, self.report, self.model, self.dataset, self.plan = s, report, model, dataset, plan
        self.learner, self.publisher, self.writes = learner, publisher, writes
        self.spare = report.folder.absolute() / "output"
        self.folder = Path(s.output_dir).expanduser().absolute() if s.output_dir else self.spare
        self._autosaved, self._pause = time.monotonic() - math.inf, 0.0
        self._shelf = Shelf()

    def go_on_from(self, state: State) -> None:
        """What the run saved by a clock before it was stopped is its own, so that as much is kept as in one go."""
        about = state.about
        by = about.get("by")
        itself = [[str(state.folder.absolute()), by, about[f"current_{by}"], "state"]] if by in CLOCKS else []
        for name, word, number, what in [*about.get("saved", ()), *itself]:
            path = Path(name)
            ours = path.parent == self.folder and path.name.startswith(f"{self.s.output_name}-")
            if ours and path.exists():
                self._shelf.put(path, CLOCKS[word], number, what)

    def save(
        self, progress: Progress, ending: str = "", with_state: bool = False, by: Rhythm | None = None
    ) -> dict[str, Path]:
        """The LoRA as it is now and, if wanted or with "Save training state", everything needed to go on from here.

        Returns what was written, "weights" and "state"; nothing removes it, unless a clock asked for it.
        """
        if not self.writes:
            return {}
        self._demand_numbers(progress)
        self.report.phase("saving")
        written = {"weights": self.weights(progress, ending)}
        self._shelve(written["weights"], by, progress, "weights")
        if with_state or self.s.save_state:
            written["state"] = self.state(progress, ending, by)
            self._shelve(written["state"], by, progress, "state")
        for what, path in written.items():
            self.publisher.publish(path, what)
        return written

    def _shelve(self, path: Path, by: Rhythm | None, progress: Progress, what: str) -> None:
        if by is None:
            self._shelf.take(path)
        else:
            self._shelf.put(path, by, by.number(progress), what)

    def scheduled(self, progress: Progress, rhythm: Rhythm) -> None:
        """Save because a clock struck; only once that is on the disk, remove what this run saved too long ago."""
        self.save(progress, rhythm.ending(rhythm.number(progress)), by=rhythm)
        self.tidy()

    def tidy(self) -> None:
        """Remove what this run saved too long ago, as far as it is not being uploaded."""
        for path, rhythm, error in self._shelf.clear(self.s, self.publisher.is_waiting):
            self.report.note(f"{path} could not be removed: {error.strerror or error}.", "warning", rhythm.key)

    def weights(self, progress: Progress, ending: str = "") -> Path:
        """Write the LoRA in Save precision."""
        with averaged(self.learner.optimizer):
            tensors = self.learner.adapter.state_dict(DTYPES[self.s.save_precision])
        about = formats.metadata(self.s, self.model, self.dataset, self.plan, progress, self.learner.adapter)

        def write(folder: Path) -> Path:
            path = folder / file_name(self.s, ending)
            return formats.save(path, tensors, about, as_ckpt=self.s.save_model_as == "ckpt")

        path = self._somewhere(write)
        self._say(progress, path, "weights", path.stat().st_size)
        return path

    def state(self, progress: Progress, ending: str = "", by: Rhythm | None = None) -> Path:
        """Write a state beside the LoRA of the same ending; `by` is the clock that asked for it."""
        name = f"{self.s.output_name}{ending}{states.ENDING}"
        self._shelf.take(self.folder / name)  # before the state tells what stands there
        path = self._somewhere(lambda folder: self._write_state(folder / name, progress, by))
        self._say(progress, path, "state", _size(path))
        return path

    @property
    def autosave_is_due(self) -> bool:
        """Whether the time has come for a state for emergencies: after the first step, then ever so often."""
        return self.writes and time.monotonic() - self._autosaved >= self._pause

    def autosave(self, progress: Progress) -> None:
        """A state in the run's own folder in place of the one before, for when the process is killed.

        The next one waits until the time and the writing it costs are small beside the training.
        """
        self._demand_numbers(progress)
        now = time.monotonic()
        older = self._autosaves()
        try:
            name = f"{self.s.output_name}{of_step(progress.step)}{states.ENDING}"
            path = self._write_state(self.report.state / name, progress)
        except Failure as failure:
            self.report.note(f"{failure.reason} The state for emergencies was not saved.", "warning")
            self._pause = 600.0
        else:
            self._say(progress, path, "state", _size(path))
            for folder in older:
                if folder != path:
                    shutil.rmtree(folder, ignore_errors=True)
            self._pause = PAUSE and max(PAUSE, 50 * (time.monotonic() - now), _size(path) / 2e6)
        self._autosaved = time.monotonic()

    def forget_autosaves(self) -> None:
        """The run ended well, or saved a state where people find it: those for emergencies are not needed any more."""
        for folder in self._autosaves() if self.writes else ():
            shutil.rmtree(folder, ignore_errors=True)

    def _demand_numbers(self, progress: Progress) -> None:
        """A loss may still be a number where its gradient is none; the weights are spoilt then, and worth no file."""
        if not self.learner.is_sound:
            raise spoilt(progress.step)

    def _autosaves(self) -> list[Path]:
        return list(self.report.state.glob(f"*{states.ENDING}"))

    def _somewhere(self, write: Any) -> Path:
        try:
            return write(self.folder)
        except Failure as failure:
            if self.folder == self.spare:
                raise
            self.report.note(f"{failure.reason} It goes to {self.spare} instead.", "warning", "output_dir")
            return write(self.spare)

    def _write_state(self, path: Path, progress: Progress, by: Rhythm | None = None) -> Path:
        """Write the three files into a folder beside `path`, which then takes its name."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            formats.save(temporary / states.MODEL, self.learner.adapter.state_dict(whole=True), {"format": "pt"})
            optimizer, scaler = self.learner.optimizer, self.learner.precision.scaler
            with (temporary / states.OPTIMIZER).open("wb") as file:
                torch.save({"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}, file)
                file.flush()
                os.fsync(file.fileno())
            (temporary / states.PROGRESS).write_text(json.dumps(self._about(progress, by), indent=1), encoding="utf-8")
            _replace_folder(temporary, path)
        except (OSError, RuntimeError, Failure) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise Failure(
                f"The training state could not be written to {path}: {_why(error)}.", "Free some space.", "output_dir"
            ) from error
        return path

    def _about(self, progress: Progress, by: Rhythm | None) -> dict[str, Any]:
        s = self.s
        return {
            "program": states.PROGRAM,
            "format": states.FORMAT,
            "current_step": progress.step,
            "current_epoch": progress.epoch,
            "batch": progress.batch,
            "batches_per_epoch": self.plan.batches_per_epoch,
            "batches_a_step": batches_a_step(s),
            "started": progress.started,
            "losses": progress.losses,
            "saved": self._shelf.as_json(),
            "by": by and by.word,
            "seed": s.seed,
            "optimizer": s.optimizer,
            "optimizer_args": s.optimizer_args,
            "network": network(s, self.learner.adapter),
            "parts": self.learner.parts,
            "base_model": {"name": self.model.name, "family": self.model.family, "weights": fingerprint(self.model)},
        }

    def _say(self, progress: Progress, path: Path, what: str, size: int) -> None:
        self.report(Saved(step=progress.step, epoch=progress.epoch, path=str(path.absolute()), what=what, bytes=size))


def _why(error: BaseException) -> str:
    """What went wrong in writing; torch hides the disk's own word behind a RuntimeError."""
    beneath: BaseException | None = error
    while beneath is not None and not isinstance(beneath, OSError):
        beneath = beneath.__cause__ or beneath.__context__
    if beneath is None:
        return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return "the disk is full" if beneath.errno == errno.ENOSPC else beneath.strerror or str(beneath)


def _replace_folder(temporary: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove a file, or a folder, which leaves its name at once: half of a state must not look like one."""
    if path.is_dir():
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def network(s: Settings, adapter: Adapter) -> dict[str, Any]:
    """What kind of adapter a state is of."""
    return {"type": s.LoRA_type, "dim": adapter.dim, "alpha": adapter.alpha, "modules": len(adapter.modules)}


def fingerprint(model: Model) -> str:
    """A few frozen weights of the base model and their type, hashed: other models have others."""
    weights = model.unet.state_dict()
    digest = hashlib.sha256(str(model.dtype).encode())
    for name in ("conv_in.weight", "conv_out.weight", "conv_norm_out.weight"):
        digest.update(weights[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return f"{model.dtype}:{digest.hexdigest()}"


# Reading.


@dataclass(frozen=True)
class State:
    """A state folder that was found to be one of this program."""

    folder: Path
    about: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The step it was made after."""
        return int(self.about["current_step"])


def open_state(folder: str | Path) -> State:
    """Find out what a state folder holds; raises `Failure` with a sentence when it is none, or not of this program."""
    path = Path(folder).expanduser()
    about = states.about(path)
    if why := states.unusable(path, about):
        raise _refused(why.reason, why.advice)
    return State(path, about or {})


def check_state(state: State, s: Settings, model: Model, learner: Learner, plan: Plan) -> None:
    """Raise `Failure` with a sentence when a state is not of this model, adapter and optimizer, or nothing is left."""
    name, about = state.folder.name, state.about
    base, mine = about["base_model"], fingerprint(model)
    if base["family"] == model.family:
        if base["weights"] != mine and base["weights"].partition(":")[0] == mine.partition(":")[0]:
            raise _refused(f"{name} was trained on another model, {base['name']}.", "Choose that model, or start anew.")
        _check_parts(name, about["parts"], learner.parts)
    for why in states.unfit(name, about, model.family, network(s, learner.adapter), s.optimizer):
        raise _refused(why.reason, why.advice)
    _check_groups(name, about["parts"], learner.parts)
    if over := states.finished(name, about, plan.steps):
        raise _refused(over.reason, over.advice)


def _check_parts(name: str, saved: Sequence[str], own: Sequence[str]) -> None:
    resting = {part_of(group) for group in saved} - {part_of(group) for group in own}
    if resting:
        raise _refused(f"{name} trained parts that have rate 0 here: {', '.join(resting)}.", "Give them a rate again.")


def _check_groups(name: str, saved: Sequence[str], own: Sequence[str]) -> None:
    """The text encoder may have come to rest before the state was saved; all else must be as it was."""
    parts = {part_of(group) for group in saved}
    if list(saved) != [group for group in own if part_of(group) in parts]:
        raise _refused(
            f"{name} was saved with other LoRA+ ratios or weights of blocks: its rates are {', '.join(saved)}.",
            "Set them as they were, or start anew with the file as LoRA network weights.",
        )


def load_state(state: State, s: Settings, learner: Learner) -> None:
    """Put adapter, optimizer and scaler back to where they were. The rates are those of the settings."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if TEXT not in map(part_of, state.about["parts"]):
        learner.rest_text_encoder()
    try:
        found = learner.adapter.load(load_file(state.folder / states.MODEL))
        if found.missing or found.unexpected:
            raise ValueError(f"{(found.missing + found.unexpected)[0]} does not belong")
        kept = torch.load(state.folder / states.OPTIMIZER, map_location="cpu", weights_only=True)
        learner.optimizer.load_state_dict(kept["optimizer"])
        learner.precision.scaler.load_state_dict(kept["scaler"])
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, SafetensorError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _refused(f"{state.folder.name} cannot be read: {reason}.", "Choose an earlier state.") from error
    changed = parse_arguments(s.optimizer_args) if s.optimizer_args != state.about["optimizer_args"] else {}
    for group in learner.optimizer.param_groups:
        group["rate"] = learner.rate_of(group["name"])
        group.update({name: value for name, value in changed.items() if name in group})


def progress_of(state: State, plan: Plan, report: Reporter) -> Progress:
    """Where the run goes on: at the very batch, unless the pictures or the batches have changed since."""
    about = state.about
    progress = Progress(
        state.step, int(about["current_epoch"]), int(about["batch"]), float(about["started"]), list(about["losses"])
    )
    if about["batches_per_epoch"] != plan.batches_per_epoch:
        report.note(
            f"An epoch had {about['batches_per_epoch']} batches when the state was saved and has "
            f"{plan.batches_per_epoch} now; the run goes on after step {state.step}, at the start of an epoch.",
            "warning",
            "resume",
        )
        progress.epoch, progress.batch = state.step // max(1, plan.steps_per_epoch), 0
    before, now = about.get("batches_a_step"), plan.accumulation * plan.processes
    if before not in (None, now):
        report.note(
            f"A step was made of {before} batches when the state was saved and is made of {now} from here on "
            "(Gradient accumulate steps times Number of processes).",
            "warning",
            "resume",
        )
    return progress


def _refused(reason: str, advice: str) -> Failure:
    return Failure(f"Resume from saved training state: {reason}", advice, "resume")
