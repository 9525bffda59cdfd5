"""Where curves, pictures and settings of a run are logged: TensorBoard always, Weights & Biases when it is asked for.

A tracker never stops training: what fails is said once, and training goes on without it.
"""

from __future__ import annotations

import importlib.util
import netrc
import os
import queue
import re
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainer.declare import Problem, by_name, nearest
from trainer.settings import Settings
from trainer.settings.logging import WITH_WANDB

if TYPE_CHECKING:
    from trainer.report import Reporter

KNOWN = by_name(Settings)
PROJECT = "network_train"
"""The project at W&B, and in Kohya's scripts, unless "Log tracker name" says another."""
PATIENCE = 60.0
"""Seconds that a finished run waits for a tracker to take what is left."""
TRACKERS = ("tensorboard", "wandb")


class Tracker(Protocol):
    """What curves are written to."""

    def numbers(self, values: Mapping[str, float], step: int, time: float | None = None) -> None:
        """Points of curves at a step; `time` is seconds since 1970."""

    def text(self, name: str, value: str) -> None:
        """A text beside the curves."""

    def picture(self, name: str, path: Path, prompt: str, step: int) -> None:
        """A sample picture."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """The settings of the run."""

    def close(self) -> None:
        """Write out everything."""


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path, first_step: int, options: Mapping[str, Any]) -> None:
        """A resumed run replaces what was logged after `first_step`."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), **{"purge_step": first_step + 1 if first_step else None, **options})

    def numbers(self, values: Mapping[str, float], step: int, time: float | None = None) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=time)

    def text(self, name: str, value: str) -> None:
        self._writer.add_text(name, value)

    def picture(self, name: str, path: Path, prompt: str, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def settings(self, values: Mapping[str, Any]) -> None:
        plain = {key: "" if value is None else value for key, value in values.items()}
        self._writer.add_hparams(plain, {}, run_name=".")

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run at Weights & Biases, or at a server of one's own that the variable WANDB_BASE_URL names."""

    def __init__(self, s: Settings, folder: Path, options: Mapping[str, Any]) -> None:
        if s.wandb_api_key.strip():  # wandb.login would write it to a file
            os.environ["WANDB_API_KEY"] = s.wandb_api_key.strip()
        import wandb

        self._wandb = wandb
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            **{
                "project": s.log_tracker_name.strip() or PROJECT, "dir": str(folder),
                **options, "name": s.wandb_run_name.strip() or s.output_name,
            }
        )  # fmt: skip
        # Epochs, samples and losses that were read back late arrive in any order; each says its step.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def numbers(self, values: Mapping[str, float], step: int, time: float | None = None) -> None:
        self._run.log({**values, "step": step})

    def text(self, name: str, value: str) -> None:
        self._run.summary[name] = value

    def picture(self, name: str, path: Path, prompt: str, step: int) -> None:
        self._run.log({name: self._wandb.Image(str(path), caption=prompt), "step": step})

    def settings(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values))

    def close(self) -> None:
        self._run.finish()


class Aside:
    """A tracker in a thread of its own, so that a slow network holds up no step; after a failure it says no more."""

    def __init__(self, label: str, make: Callable[[], Tracker], report: Reporter, hide: Callable[[], str]) -> None:
        """`hide` gives a secret that must not be shown."""
        self._label, self._report, self._hide = label, report, hide
        self._failed = False
        self._waiting: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(make,), name=label, daemon=True)
        self._thread.start()

    def __call__(self, deed: Callable[[Tracker], None]) -> None:
        """Have something done by the tracker, after all that was asked before."""
        if not self._failed:
            self._waiting.put(deed)

    def close(self) -> None:
        """Wait until everything is done, but not forever."""
        self(Tracker.close)
        self._waiting.put(None)
        self._thread.join(0.5)
        if self._thread.is_alive():
            self._report.phase("uploading")
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._failed = True
            text = f"{self._label} did not take everything within {PATIENCE:.0f} seconds; the run ends without it."
            self._report.note(text, "warning", "log_with")

    def _work(self, make: Callable[[], Tracker]) -> None:
        try:
            tracker = make()
            while (deed := self._waiting.get()) is not None:
                # `Tracker.close` stands for the method of whatever tracker this is.
                tracker.close() if deed is Tracker.close else deed(tracker)
        except (Exception, SystemExit) as error:  # whatever a tracker raises: the training goes on
            if self._failed:
                return
            self._failed = True
            words = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            secret = self._hide()
            words = words.replace(secret, "…") if secret else words
            text = f"{self._label} cannot be written to: {words}. The training goes on without it."
            self._report.note(text, "warning", "log_with")


def trackers(s: Settings, folder: Path, first_step: int, report: Reporter) -> list[Aside]:
    """The trackers of a run that logs into `folder`."""
    try:
        options = read_config(s.log_tracker_config)
    except ValueError as error:
        report.note(f"{KNOWN['log_tracker_config'].label}: {error}", "warning", "log_tracker_config")
        options = {}
    of_board, of_wandb = (options.get(name, {}) for name in TRACKERS)
    found = [Aside("TensorBoard", lambda: TensorBoard(folder, first_step, of_board), report, str)]
    if s.log_with in WITH_WANDB:
        place = report.folder / "wandb"
        found.append(Aside("Weights & Biases", lambda: Wandb(s, place, of_wandb), report, lambda: key_of(s)))
    return found


def read_config(path: str) -> dict[str, dict[str, Any]]:
    """The tables of "Log tracker config", by tracker; raises `ValueError` with a sentence."""
    if not path.strip():
        return {}
    file = Path(path.strip()).expanduser()
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'it is no text'}).") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file.name} is not valid TOML: {error}.") from None
    for name, table in found.items():
        if name not in TRACKERS:
            question = nearest(name, TRACKERS) or "."
            raise ValueError(f"{file.name} has {name}; it holds tables [wandb] and [tensorboard]{question}")
        if not isinstance(table, dict):
            raise ValueError(f"{file.name} gives {name} a value; a table [{name}] with options is needed.")
        if secret := next((key for key in table if re.search(r"key|token|secret|password", key, re.IGNORECASE)), ""):
            raise ValueError(f"{file.name} holds {secret}; take it out and set the variable WANDB_API_KEY.")
    return found


def key_of(s: Settings) -> str:
    """The key for Weights & Biases: of the settings, the environment, or what `wandb login` stored; "" for none."""
    if key := s.wandb_api_key.strip() or os.environ.get("WANDB_API_KEY", "").strip():
        return key
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    host = re.sub(r"^\w+://|[:/].*$", "", re.sub(r"^\w+://", "", address))
    for file in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        try:
            found = netrc.netrc(str(Path(file).expanduser())).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if found and found[2]:
            return found[2]
    return ""


# What is said before a run.


def _problem(key: str, message: str, fix: dict[str, Any] | None = None, fix_label: str = "") -> Problem:
    return Problem(key, KNOWN[key].label, message, fix, fix_label)


def problems(s: Settings) -> Iterator[Problem]:
    """Can the trackers be written to?"""
    try:
        options = read_config(s.log_tracker_config)
    except ValueError as error:
        yield _problem("log_tracker_config", str(error), {"log_tracker_config": ""}, "Use none")
        options = {}
    if re.search(r'[<>:"/\\|?*\x00-\x1f]', s.log_prefix + s.log_tracker_name) or s.log_tracker_name.strip() in (
        ".",
        "..",
    ):
        key = "log_prefix" if re.search(r'[<>:"/\\|?*\x00-\x1f]', s.log_prefix) else "log_tracker_name"
        yield _problem(key, 'a folder name cannot hold / \\ : * ? " < > |.', {key: ""}, "Empty it")
    if s.log_with not in WITH_WANDB:
        return
    off = {"log_with": "tensorboard"}
    if importlib.util.find_spec("wandb") is None:
        message = (
            "Weights & Biases needs the package wandb, which is not installed here; install it with: pip install wandb"
        )
        yield _problem("log_with", message, off, "Use TensorBoard")
    elif not key_of(s) and _goes_out(options.get("wandb", {})):
        message = "there is no key; set the variable WANDB_API_KEY, or run wandb login once, before the program starts."
        yield _problem("wandb_api_key", message, off, "Use TensorBoard")


def _goes_out(options: Mapping[str, Any]) -> bool:
    """Whether W&B is to send anything, rather than keep it in the run's folder."""
    return str(options.get("mode") or os.environ.get("WANDB_MODE", "online")) not in ("offline", "disabled", "dryrun")


def remarks(s: Settings) -> Iterator[Problem]:
    """Fields that have no effect."""
    if s.log_with not in WITH_WANDB and s.wandb_run_name.strip():
        message = f"has an effect only with wandb or all in {KNOWN['log_with'].label}."
        yield _problem("wandb_run_name", message, {"wandb_run_name": ""}, "Empty it")
    if s.log_prefix.strip() and not s.logging_dir.strip():
        message = f"has an effect only with {KNOWN['logging_dir'].label}; without it logs are in the run's own folder."
        yield _problem("log_prefix", message, {"log_prefix": ""}, "Empty it")
