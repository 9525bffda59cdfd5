"""Starts the processes that train together, watches them, and makes one run of them.

The launcher is the run's own process: the page, the supervisor and a terminal know only it. It starts the others by the
means of torchrun and with torchrun's environment, hands on a stop, lets the main process report in the run folder, and
when one dies it ends the others and says what happened.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import reasons, runfolder
from trainer.execution import cores
from trainer.flags import Launch
from trainer.meeting import LOOK_EVERY, STOP, Meeting, interface_of
from trainer.processes import GONE, LAUNCHER, Place
from trainer.report import Failure
from trainer.workspace import PROJECT

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import PContext
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from trainer.report import Reporter

AFTERWARDS = 60.0
"""Seconds the other processes may take to end after the main one said how the run ended."""


def launch(job: str, wanted: Launch, report: Reporter) -> None:
    """Train in several processes, here and perhaps on other machines, until they have ended.

    What the main process says about the end stands in the run folder already. Raises `Failure` when the processes did
    not meet or one of them died without a word, `Stopped` when another machine stopped the run.
    """
    if wanted.settings.num_machines > 1:
        report.note(f"This is machine {wanted.settings.machine_rank + 1} of {wanted.settings.num_machines}.")
    meeting = Meeting(wanted, report)
    meeting.gather()
    try:
        if meeting.is_main:
            _lead(job, wanted, meeting, report)
        else:
            _follow(job, wanted, meeting, report)
    except Failure as failure:
        with suppress(Failure):
            meeting.end("failed", failure.reason, failure.advice)
        raise
    finally:
        with suppress(Failure):
            meeting.part()


def _lead(job: str, wanted: Launch, meeting: Meeting, report: Reporter) -> None:
    """On the main machine: one of our processes reports."""
    with report.lent(), _crew(job, wanted, meeting, report) as crew:
        trouble = _watch(crew, wanted, meeting, report)
    if report.ended is None:
        _hear_out(meeting, trouble, patience=10.0)
        raise trouble or Failure("The processes ended without a word.", "The log may tell more.")
    meeting.end(report.ended.state, report.ended.reason, report.ended.advice)


def _follow(job: str, wanted: Launch, meeting: Meeting, report: Reporter) -> None:
    """On another machine: ours only calculate, and the main machine tells how it ended."""
    report.phase("training for the main machine")
    with _crew(job, wanted, meeting, report) as crew:
        trouble = _watch(crew, wanted, meeting, report)
    if not _hear_out(meeting, trouble, patience=AFTERWARDS):
        raise trouble or Failure("The main machine did not tell how the run ended.", KEPT)


def _hear_out(meeting: Meeting, trouble: Failure | None, patience: float) -> bool:
    """What another machine says about the end: whether it finished; raises what it tells otherwise. Whoever has a
    trouble of its own need not ask."""
    until = time.monotonic() + patience
    while meeting.machines > 1 and (trouble is None or isinstance(trouble, LostEachOther)):
        if meeting.hear_the_end():
            return True
        if time.monotonic() > until:
            break
        time.sleep(LOOK_EVERY)
    return False


def _watch(crew: PContext, wanted: Launch, meeting: Meeting, report: Reporter) -> Failure | None:
    """Wait until our processes have ended; why, if one of them failed."""
    ended = 0.0
    while (result := crew.wait(0)) is None:
        meeting.live()
        if not meeting.is_main and (command := report.command()):
            _pass_on(command, meeting, report)
        if meeting.machines > 1 and meeting.is_main and meeting.heard(STOP):
            report.stop()
        if meeting.is_main and report.ended is None:
            meeting.hear_the_end()
        ended = ended or (time.monotonic() if report.ended is not None else 0.0)
        if ended and time.monotonic() - ended > AFTERWARDS:
            return None
        time.sleep(LOOK_EVERY)
    return why(result.failures, wanted, report.folder)


def _pass_on(command: str, meeting: Meeting, report: Reporter) -> None:
    """From another machine only a stop reaches the run."""
    if command == "stop":
        meeting.say(STOP)
    else:
        report.note(f"Ask for this on the main machine, {meeting.host}: it shows and saves the run.", key=command)


# Processes.


@contextmanager
def _crew(job: str, wanted: Launch, meeting: Meeting, report: Reporter) -> Iterator[PContext]:
    """This machine's processes; whatever happens, none of them is left."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes

    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    count = wanted.local_size
    places = [Place(meeting.machine * count + i, wanted.settings.num_processes, i, count) for i in range(count)]
    words = ("-P", "-m", "trainer", job, str(report.folder))
    logs = report.folder / "processes"  # on their way into the log
    crew: PContext | None = None
    try:
        # In a thread of its own, or it would take the signals over that ask the run to stop.
        with ThreadPoolExecutor(1) as thread:
            crew = thread.submit(
                start_processes,
                name="process ",
                entrypoint=sys.executable,
                args=dict.fromkeys(range(count), words),
                envs={place.local_rank: environment(place, meeting) for place in places},
                logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL, tee=Std.ALL),
                log_line_prefixes={i: f"[{place}] " if place.rank else "" for i, place in enumerate(places)},
            ).result()
        yield crew
    finally:
        if crew is not None:
            crew.close(signal.SIGTERM, timeout=10)
        shutil.rmtree(logs, ignore_errors=True)
        shutil.rmtree(report.folder / "latents", ignore_errors=True)


def environment(place: Place, meeting: Meeting) -> dict[str, str]:
    """What a process is told, by the names of torchrun."""
    paths = [str(PROJECT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    interface = interface_of(meeting.host)
    # Together they have no more threads than the machine has cores.
    threads = str(max(1, min(int(os.environ.get("OMP_NUM_THREADS") or cores()), cores() // place.local_size)))
    networks = {name: interface for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if interface}
    if sys.platform == "win32":
        networks = {"USE_LIBUV": "0"}
    return {
        **{name: value for name, value in networks.items() if name not in os.environ},
        "RANK": str(place.rank), "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank), "LOCAL_WORLD_SIZE": str(place.local_size),
        "GROUP_RANK": str(meeting.machine), "GROUP_WORLD_SIZE": str(meeting.machines),
        "MASTER_ADDR": meeting.host, "MASTER_PORT": str(meeting.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_RUN_ID": f"run-{os.getpid()}",
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
        LAUNCHER: str(os.getpid()), "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def end_with_the_launcher() -> dict[str, Any] | None:
    """In a process: end at once when the launcher is gone. Returns the launcher's identity, None if there is none."""
    pid = int(os.environ.get(LAUNCHER, "0"))
    if not pid:
        return None
    who = runfolder.identity(pid)

    def watch() -> None:
        while runfolder.is_alive(who):
            time.sleep(1.0)
        os._exit(GONE)

    threading.Thread(target=watch, name="launcher's end", daemon=True).start()
    return who


# Why.


def confess(reason: str, advice: str) -> None:
    """In a process: leave word for the launcher why it fails."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        said = {"message": reason, "advice": advice, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": said}), encoding="utf-8")


def why(failures: Mapping[int, ProcessFailure], wanted: Launch, folder: Path) -> Failure | None:
    """What the failed processes tell, the cause among them first: who left word, who was killed, who just ended."""
    if not failures:
        return None
    first = wanted.settings.machine_rank * wanted.local_size
    rank, failure = min(failures.items(), key=lambda item: (_order(item[1]), item[1].timestamp))
    said = failure.error_file_data.get("message", {})
    name = str(Place(first + rank, wanted.settings.num_processes)).capitalize()
    if isinstance(said, dict) and said.get("advice") is not None:
        return Failure(f"{name}: {said['message']}", str(said["advice"]))
    if failure.exitcode == GONE:
        return LostEachOther()
    reason = reasons.of_exit(failure.exitcode, runfolder.tail(folder / runfolder.LOG))
    word = reasons.signal_name(failure.exitcode)
    ended = f"{name} was killed ({word})." if word else f"{name} ended (exit code {failure.exitcode})."
    return Failure(f"{ended} {reason.text}", " ".join(filter(None, (reason.advice, KEPT))))


class LostEachOther(Failure):
    """No process here is the cause."""

    def __init__(self) -> None:
        reason = "The processes lost each other: the connection between them broke."
        super().__init__(reason, f"Look at the network and the logs of the other machines. {KEPT}")


KEPT = "Resume goes on from the last saved state."


def _order(failure: ProcessFailure) -> int:
    if "advice" in str(failure.error_file_data):
        return 0
    asked_by_us = failure.exitcode in (-15, GONE)
    return 2 if asked_by_us else 1
