"""Time from Start to the first finished step of the demo, and where it goes.

    python -m benchmarks.first_step

Start is the moment the run's process is started, as the supervisor does it. Phases are those the run itself tells of.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from trainer import events, runfolder
from trainer.events import Phase, Step
from trainer.workspace import VARIABLE

PATIENCE = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how often to start; the median is what counts")
    given = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(given.runs):
        for name, seconds in start_once().items():
            found[name].append(seconds)
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {given.runs} runs")
    for name, values in found.items():
        print(f"{name:<28}{statistics.median(values):7.2f} s")
    return 0


def start_once() -> dict[str, float]:
    """Seconds of each phase up to the first step, and "first step" in all."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as workspace:
        os.environ[VARIABLE] = workspace
        from trainer.demo.run import train_settings

        folder = runfolder.create("train", "demo", train_settings())
        began = time.time()
        with (folder / runfolder.LOG).open("wb") as log:
            command = [sys.executable, "-m", "trainer", "train", str(folder)]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            happened = wait_for_step(folder, process, began)
        finally:
            process.kill()
            process.wait()
    return phases(happened, began)


def wait_for_step(folder: Path, process: subprocess.Popen[bytes], began: float) -> list[events.Event]:
    """Everything that happened up to the first step."""
    while time.time() - began < PATIENCE:
        happened, _ = events.read(folder / runfolder.EVENTS)
        if any(isinstance(event, Step) for event in happened):
            return happened
        if process.poll() is not None:
            raise SystemExit((folder / runfolder.LOG).read_text(encoding="utf-8", errors="replace"))
        time.sleep(0.02)
    raise SystemExit("No step within ten minutes.")


def phases(happened: list[events.Event], began: float) -> dict[str, float]:
    """How long each phase lasted, in order, and the whole."""
    spent: dict[str, float] = defaultdict(float)
    name, since = "starting the process", began
    for event in happened:
        if isinstance(event, Phase) and event.name != name:
            spent[name] += event.time - since
            name, since = event.name, event.time
        if isinstance(event, Step):
            spent[name] += event.time - since
            spent["first step"] = event.time - began
            break
    return dict(spent)


if __name__ == "__main__":
    sys.exit(main())
