"""One job that pretends to train, in as many ways as a run can go."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from trainer.declare import Problem, Section, setting
from trainer.events import Saved, Started, Step
from trainer.jobs import Job
from trainer.report import Failure, Reporter, Stopped

HOWS = ("well", "failure", "exception", "memory", "killed", "exit", "deaf", "slow saving")


class Pretence(Section):
    """What the pretending job does."""

    tab: ClassVar[str] = "Pretending"
    title: ClassVar[str] = "Work"

    how: str = setting("well", "How", "How it goes.", choices=HOWS)
    steps: int = setting(3, "Steps", "How many; 100% of them.", ge=0)
    delay: float = setting(0.0, "Delay", "Seconds a step.", ge=0)
    output_name: str = setting("", "Model output name", "A name.")
    loud: bool = setting(False, "Loud", "Print the steps.")
    num_cpu_threads_per_process: int = setting(1, "Threads", "Processor threads.", ge=1)
    hub_token: str = setting("", "Hub token", "A secret.", secret=True)
    resume: str = setting("", "Resume", "A state.")


class Pretend(Job):
    """Pretend to train.

    For tests only.
    """

    name = "pretend"
    label = "Pretend"
    Settings: ClassVar[type[Section]] = Pretence

    def check(self, settings: Any) -> Iterator[Problem]:
        if settings.steps == 13:
            yield Problem("steps", "Steps", "13 brings bad luck.")

    def run(self, settings: Any, report: Reporter) -> None:
        print("threads", os.environ.get("OMP_NUM_THREADS"), "token", len(settings.hub_token), flush=True)
        plan = {"steps": settings.steps, "epochs": 1}
        report(Started(job=self.name, name=settings.output_name, pid=os.getpid(), plan=plan))
        report.phase("training")
        for step in range(1, settings.steps + 1):
            if settings.how == "deaf":
                _hold_out(settings.delay)
            else:
                time.sleep(settings.delay)
            report(Step(step=step, epoch=1, loss=1 / step, average=1 / step, lr={"unet": 1e-4}))
            if settings.loud:
                print("step", step, flush=True)
            if settings.how != "deaf" and report.stopping():
                _save(report, step, 1.5 if settings.how == "slow saving" else 0.0)
                raise Stopped("Stopped after the step.")
            if step == 2 and settings.how in ENDS:
                ENDS[settings.how]()


def _save(report: Reporter, step: int, seconds: float) -> None:
    report.phase("saving state")
    time.sleep(seconds)
    path = report.state / f"step-{step:06d}"
    path.mkdir()
    report(Saved(step=step, epoch=1, path=str(path), what="state"))


def _hold_out(seconds: float) -> None:
    """Wait whatever the signals say, with a child that would outlive us."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print("grandchild", child.pid, flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(max(0.0, end - time.monotonic()))
        except KeyboardInterrupt:
            print("not listening", flush=True)


def _fail() -> None:
    raise Failure("The moon is in the wrong house.", "Wait a day.", "how")


def _raise() -> None:
    raise RuntimeError("something broke")


def _out_of_memory() -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _killed() -> None:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def _exit() -> None:
    print("last words on the way out", flush=True)
    os._exit(7)


ENDS: dict[str, Callable[[], None]] = {
    "failure": _fail, "exception": _raise, "memory": _out_of_memory, "killed": _killed, "exit": _exit,
}  # fmt: skip
