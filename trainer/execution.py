"""Runs one job in its run folder, and sees to it that the folder says how it ended, whatever happens."""

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from trainer import reasons, runfolder
from trainer.declare import Section, validate
from trainer.events import Ended, Event
from trainer.jobs import Job
from trainer.processes import GONE, LAUNCHER, Deserted, Place, here
from trainer.report import Failure, Quiet, Reporter, Stopped

FINISHED, FAILED, STOPPED = 0, 1, 3
"""Exit codes."""
CODES = {"finished": FINISHED, "failed": FAILED, "stopped": STOPPED}

LOCK = ".lock"
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")
"""Signals that mean "stop"; which of them exist depends on the system."""


def run(job: Job, folder: Path, settings: Section | None = None, listen: Callable[[Event], None] | None = None) -> int:
    """Run `job` in a fresh run folder and return the exit code; without `settings` they are read from the folder.

    One folder is one attempt: a folder that is in use, or whose run has ended, is refused and left as it is.
    """
    place = here()
    if place is not None and (LAUNCHER in os.environ or not place.is_main):
        return _work(job, folder, settings, place)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder} is in use: this run is already going on.", file=sys.stderr)
        return FAILED
    with lock:
        ended = runfolder.read_json(folder / runfolder.STATUS).get("state")
        if ended in runfolder.ENDED:
            print(f"{folder} holds a run that has {ended}. Start a new one, or resume from its state.", file=sys.stderr)
            return FAILED
        return _run(job, folder, settings, listen)


def _run(job: Job, folder: Path, settings: Section | None, listen: Callable[[Event], None] | None) -> int:
    name = str(runfolder.read_json(folder / runfolder.RUN).get("name", ""))
    with Reporter(folder, job.name, name, listen) as report, _signals_mean_stop(report):
        report.phase("starting")
        ended = _outcome(job, folder, settings, report)
        report(ended)
    assert report.ended is not None
    return CODES[report.ended.state]


def _work(job: Job, folder: Path, settings: Section | None, place: Place) -> int:
    """Do the job as one of several processes. Who started us holds the folder, hears the signals, checked the settings.

    One process reports. When another one is gone, this one ends without a word: the launcher knows more.
    """
    from trainer.launcher import confess, end_with_the_launcher

    for word in ("SIGINT", "SIGBREAK"):  # Ctrl-C reaches every process of a terminal
        if hasattr(signal, word):
            signal.signal(getattr(signal, word), signal.SIG_IGN)
    launcher = end_with_the_launcher()
    name = str(runfolder.read_json(folder / runfolder.RUN).get("name", ""))
    quiet = Quiet(folder, job.name, name, speaks=place.local_rank == 0)
    with Reporter(folder, job.name, name, process=launcher) if place.is_main else quiet as report:
        report.phase("starting")
        try:
            ended = _outcome(job, folder, settings, report, checked=True)
        except Deserted:
            print("Another process is gone, so this one ends.", file=sys.stderr, flush=True)
            report.close()
            os._exit(GONE)  # libraries that wait for the others would keep it
        report(ended)
    if ended.state == "failed":
        confess(ended.reason, ended.advice)
        return FAILED
    return FINISHED


def _outcome(job: Job, folder: Path, settings: Section | None, report: Reporter, checked: bool = False) -> Ended:
    """Do the job; every way it can end becomes an event."""

    def ended(state: str, reason: str = "", advice: str = "") -> Ended:
        return Ended(state=state, step=report.status["step"], reason=reason, advice=advice)

    try:
        if settings is None:
            settings = _frozen(job, folder, checked)
        prepare_surroundings(getattr(settings, "num_cpu_threads_per_process", None))
        job.run(settings, report)
        return ended("finished")
    except Stopped as stop:
        return ended("stopped", str(stop))
    except KeyboardInterrupt:
        return ended("stopped", "Interrupted at once, before everything was saved.")
    except Failure as failure:
        print(f"error: {failure.reason}", failure.advice, sep="\n", file=sys.stderr)
        return ended("failed", failure.reason, failure.advice)
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not error.code:
            return ended("finished")
        traceback.print_exc()
        reason = reasons.of_exception(error)
        return ended("failed", reason.text, reason.advice)


def _frozen(job: Job, folder: Path, checked: bool = False) -> Section:
    """The settings of the folder, checked once more: what they name may have changed while the run waited."""
    if not (folder / runfolder.SETTINGS).is_file():
        raise Failure(f"There is no {runfolder.SETTINGS} in {folder}.")
    settings, problems = validate(job.Settings, runfolder.read_json(folder / runfolder.SETTINGS))
    problems = problems or ([] if checked else list(job.check(settings)))
    if problems:
        raise Failure(" ".join(map(str, problems)), "Correct it on the page and start again.", problems[0].key)
    return settings


@contextlib.contextmanager
def _signals_mean_stop(report: Reporter) -> Iterator[None]:
    """The first signal asks for a clean stop; one that comes while stopping interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if report.stop_requested:
            raise KeyboardInterrupt
        report.stop()

    names = [name for name in STOP_SIGNALS if hasattr(signal, name)]
    before: dict[str, Any] = {name: signal.signal(getattr(signal, name), on_signal) for name in names}
    if not faulthandler.is_enabled():
        with contextlib.suppress(Exception):  # a test's captured stderr has no file behind it
            faulthandler.enable()
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


SURROUNDINGS = {
    # Threads that wait for each other in busy loops are twenty times slower as soon as another program wants a core.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def prepare_surroundings(threads: int | None) -> None:
    """Say how the mathematics may use the processor, before torch is imported. The environment wins."""
    wanted = dict(SURROUNDINGS)
    if threads:
        count = str(max(1, min(threads, cores())))
        wanted |= {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    # It offers 4-bit kernels that nothing here uses; the page would show that as the run's last words.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def cores() -> int:
    """How many processor cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Windows, macOS
        return os.cpu_count() or 1
